"""The record of a benchmark: what is finished is on disk, so that a run that was killed can go on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.profiling.measure import Measurement
from ldm.profiling.report import from_json, profile_table, scaling_table, speed_table, to_json
from ldm.profiling.train_step import Scaling
from ldm.util.errors import UserError
from ldm.util.files import atomic_write, read_json

JSON, TABLE = "speed.json", "speed.md"


@dataclass
class Record:
    """What a benchmark has measured so far.

    Args:
        machine: the machine and the workload (`report.describe_machine`); a run goes on only with the same.
        peaks: the machine's FLOP/s by precision.
        remarks: sentences below the tables.
        finished: the sections whose measurements are complete.
        measurements: theirs, in their order.
        scaling: of the section 'scaling'.
    """

    machine: dict[str, Any]
    peaks: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    scaling: list[Scaling] = field(default_factory=list)

    def text(self) -> str:
        """The report in Markdown."""
        tables = [speed_table(self.measurements)] if self.measurements else []
        tables += [table] if (table := profile_table(self.measurements, self.peaks)) else []
        tables += [scaling_table(self.scaling)] if self.scaling else []
        notes = [", ".join(f"{key} {value}" for key, value in self.machine.items()), *self.remarks]
        return "\n\n".join([*tables, "\n".join(f"- {note}" for note in notes)])

    def write(self, folder: Path) -> None:
        """Writes speed.json and speed.md, each as a whole."""
        values = {
            "machine": self.machine,
            "peaks": self.peaks,
            "remarks": self.remarks,
            "finished": self.finished,
            "rows": [to_json(measurement) for measurement in self.measurements],
            "processes": [result._asdict() for result in self.scaling],
        }
        with atomic_write(folder / JSON) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n")
        with atomic_write(folder / TABLE) as temporary:
            temporary.write_text(self.text() + "\n")


def read_record(folder: Path, machine: Mapping[str, Any]) -> Record:
    """Reads what an earlier run wrote to a folder.

    Raises:
        UserError: there is nothing, or it was measured with other settings or on another machine.
    """
    path = folder / JSON
    values = read_json(path, remedy="leave --resume out to measure all sections", if_broken="leave --resume out")
    try:
        record = Record(
            values["machine"],
            values["peaks"],
            [],
            values["finished"],
            [from_json(row) for row in values["rows"]],
            [Scaling(**result) for result in values["processes"]],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no record of this benchmark: leave --resume out to measure all sections") from error
    for key, value in machine.items():
        if record.machine.get(key) != value:
            raise UserError(
                f"{path}: {key} was {record.machine.get(key)} and is {value} now, so that the figures could not be compared; "
                "give the same options as then, or leave --resume out"
            )
    return record
