"""Colour of image files: embedded ICC profiles are converted to sRGB on reading, and PNG files are marked as sRGB."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

MODES = ("RGB", "L", "CMYK")  # what a profile is applied to; alpha is kept apart


def to_srgb(image: Image.Image) -> Image.Image:
    """Applies the embedded ICC profile of an image, if it has a usable one.

    Images without a profile, with an sRGB profile, or of a mode that profiles do not describe are returned as they are.
    A profile that is damaged, or that is of another colour space than the image, is ignored, as browsers do.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    colours = image.convert(image.mode.rstrip("A")) if alpha else image
    if image.mode == "P":
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        colours = image.convert("RGB")
    if colours.mode not in MODES:
        return image
    transform = _transform(profile, colours.mode)
    if transform is None:
        return image
    converted = ImageCms.applyTransform(colours, transform)
    if converted is None:  # only if converted in place
        return image
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def srgb_chunk() -> PngInfo:
    """Metadata for `Image.save(..., pnginfo=...)` that says that the pixels are sRGB (PNG specification, section 11.3.2.5)."""
    chunks = PngInfo()
    chunks.add(b"sRGB", b"\0")  # rendering intent: perceptual
    return chunks


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
