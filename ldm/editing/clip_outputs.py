"""The outputs of the edit of a clip: the edited clip, a film strip of source, region and result, and a record."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ldm import plots
from ldm.data.clip_files import write_clip
from ldm.editing.clips import ClipEdit, ClipEditRequest
from ldm.editing.outputs import write as write_images

STRIP = 8  # frames on a film strip


def panel(edit: ClipEdit, request: ClipEditRequest) -> Image.Image:
    """Film strips of the clip, of where it may change, and of the result, above the operations."""
    chosen = plots.strip_frames(len(edit.frames), STRIP)
    regions = [plots.draw_region(request.frames[number], edit.regions[number]) for number in chosen]
    rows = [
        ("clip", [request.frames[number] for number in chosen]),
        ("region", regions),
        ("edited", [edit.frames[number] for number in chosen]),
    ]
    return plots.film_panel(rows, edit.operations or ["the two storyboards are the same"], STRIP)


def write(folder: Path, out: Path, edit: ClipEdit, request: ClipEditRequest, fps: float, record: dict) -> None:
    """Writes the edited clip to `out`, and panel.png and record.json into the folder."""
    write_clip(out, edit.frames, fps)
    facts = {
        "out": str(out),
        "operations": edit.operations,
        "settings": edit.options.as_dict() | {"frame_attention": edit.frame_attention},
        "storyboard": edit.storyboard.to_json(),
        "region_share": round(float(edit.regions.mean()), 4),
    }
    write_images(folder, {"panel": panel(edit, request)}, {**record, **facts})
