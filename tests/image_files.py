"""Image files for tests."""

from pathlib import Path

from PIL import Image


def save_image(path: Path, colour=(10, 20, 30), size: int = 32) -> None:
    """Writes a square image of one colour, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), tuple(int(channel) for channel in colour)).save(path)
