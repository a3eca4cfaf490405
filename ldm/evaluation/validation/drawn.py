"""Validation lines of a synthetic world that can be drawn: its held-out scenes, which an exact checker judges."""

from __future__ import annotations

from ldm.evaluation.task_sources import DrawnTasks
from ldm.evaluation.validation.lines import ValidationLine, default_seed
from ldm.synthetic.worlds import find_world

BOXES = ("all", "none")  # which objects of the graph have a box


def drawn_lines(world: str, count: int, first: int = 0) -> list[ValidationLine]:
    """Graphs of `count` held-out scenes, each with all boxes and without.

    Args:
        world: its name.
        first: number of the first scene; numbers that nobody used for tuning give unseen scenes.

    Raises:
        UserError: there is no such world, or it cannot be drawn.
    """
    find_world(world)
    scenes, lines = DrawnTasks(world), []
    for number in range(first, first + count):
        for boxes in BOXES:
            id = f"{world}-{number}-boxes-{boxes}"
            graph = scenes.graph(number, boxes)
            place = f"scene {number} of {world!r}"
            kind = "with boxes" if boxes == "all" else "without boxes"
            lines.append(ValidationLine(id, place, default_seed(id), graph, type=kind, unit=f"scene {number}"))
    return lines
