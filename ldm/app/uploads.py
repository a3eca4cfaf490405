"""Images that a browser sends: bounded before they are decoded, decoded strictly, and turned into plain RGB."""

from __future__ import annotations

import io
import threading

from PIL import Image, ImageOps

from ldm.app.errors import NotAnImage, TooLarge
from ldm.app.limits import IMAGE_BYTES, IMAGE_FORMATS, IMAGE_PIXELS, IMAGE_SIDE
from ldm.util.colour_profiles import to_srgb
from ldm.util.images import to_rgb

_decoding = threading.Semaphore(2)  # images in memory at once, of up to IMAGE_PIXELS each


def decode(content: bytes, background: str = "white") -> Image.Image:
    """Decodes an image file as `ldm.util.images.read_image` does, upright and in sRGB, but refuses a truncated one.

    Args:
        content: the bytes of the file.
        background: colour behind transparent pixels.

    Raises:
        TooLarge: it has too many bytes or pixels; this is found before the pixels are decoded.
        NotAnImage: it is broken, or of another format.
    """
    if len(content) > IMAGE_BYTES:
        mebibytes = IMAGE_BYTES >> 20
        raise TooLarge(f"the image has more than {mebibytes} MiB; send a smaller one").coded(
            "too_large", limit=mebibytes
        )
    with _decoding:
        try:
            with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
                _refuse_large(image.size)
                image.load()
                return to_rgb(ImageOps.exif_transpose(to_srgb(image)), background)
        except TooLarge:
            raise
        except Image.DecompressionBombError:
            error = TooLarge(f"the image has more than {IMAGE_PIXELS:,} pixels; send a smaller one")
            raise error.coded("too_many_pixels", pixels=IMAGE_PIXELS, side=IMAGE_SIDE) from None
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... for a broken file
            known = ", ".join(IMAGE_FORMATS)
            reason = " ".join(str(error).replace("<_io.BytesIO object", "<").split())
            reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else reason[:200]
            refused = NotAnImage(f"broken, or not an image ({reason}); send one of {known}")
            raise refused.coded("not_an_image", formats=known) from None


def _refuse_large(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > IMAGE_PIXELS or max(size) > IMAGE_SIDE:
        raise TooLarge(
            f"the image has {width} x {height} pixels; at most {IMAGE_PIXELS:,} with sides of up to {IMAGE_SIDE:,} are taken"
        ).coded("too_many_pixels", pixels=IMAGE_PIXELS, side=IMAGE_SIDE)
