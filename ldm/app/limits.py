"""The limits of what a browser may send."""

from __future__ import annotations

IMAGE_BYTES = GRAPH_BYTES = 20 << 20
BODY_BYTES = 1 << 20  # of any other body
IMAGE_PIXELS = 24_000_000
IMAGE_SIDE = 12_000
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
GRAPHS = 100  # that one graph file may give
VARIANTS = 64  # of one job
JOBS_PER_SESSION, JOBS = 32, 256  # that wait


def as_json() -> dict[str, int]:
    """Those that a page shows or checks beforehand."""
    return {
        "image_bytes": IMAGE_BYTES,
        "image_pixels": IMAGE_PIXELS,
        "graph_bytes": GRAPH_BYTES,
        "variants": VARIANTS,
        "jobs_per_session": JOBS_PER_SESSION,
    }
