"""Jobs: requests that wait for the model, run, or have ended, and their rows in the database."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ldm.app.database import Database, now
from ldm.app.errors import NotFound
from ldm.app.requests import EditAsked
from ldm.util.errors import UserError

WAITING, ENDED = ("queued", "running"), ("done", "cancelled", "failed")
INTERRUPTED = "the server stopped while this ran; press Edit again"


@dataclass
class Job:
    """A request and how far it is. The worker changes it; others read it and may set `stop`.

    Args:
        session, node: where it was asked for.
        state: queued, running, done, cancelled or failed.
        variants: number of pictures.
        made: the nodes that it has made so far.
        place: 0 while it runs, 1 for the next one.
        fraction: of the whole job.
    """

    id: int
    session: str
    node: int
    asked: EditAsked
    state: str
    created: str
    made: list[int] = field(default_factory=list)
    error: str | None = None
    error_code: str = ""
    error_values: Mapping[str, str | int | float] = field(default_factory=dict)
    place: int = 0
    variant: int = 0
    stage: str = ""
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def variants(self) -> int:
        return self.asked.total

    def fail_with(self, error: UserError | None) -> None:
        """What went wrong; None for nothing."""
        if error is not None:
            self.error = " ".join(str(error).split())
            self.error_code, self.error_values = error.code, error.values

    def to_json(self) -> dict[str, Any]:
        """The job as the interface tells it."""
        return {
            "id": self.id,
            "session": self.session,
            "node": self.node,
            "kind": self.asked.kind,
            "state": self.state,
            "place": self.place,
            "created": self.created,
            "variant": self.variant,
            "variants": self.variants,
            "stage": self.stage,
            "step": self.step,
            "steps": self.steps,
            "fraction": round(self.fraction, 4),
            "nodes": list(self.made),
            "error": self.error,
            "error_code": self.error_code,
            "error_values": dict(self.error_values),
        }


class JobTable:
    """The rows of jobs: what waits when the server is killed runs when it starts again."""

    def __init__(self, database: Database):
        self.database = database

    def add(self, session: str, asked: EditAsked) -> Job:
        """A new job at the end of the queue."""
        time = now()
        with self.database.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO jobs (session, node, kind, state, created, request, nodes) VALUES (?, ?, ?, ?, ?, ?, '[]')",
                (session, asked.node, asked.kind, "queued", time, json.dumps(asked.to_json())),
            )
        assert cursor.lastrowid is not None
        return Job(cursor.lastrowid, session, asked.node, asked, "queued", time)

    def save(self, job: Job) -> None:
        """Writes state, error and nodes."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, error = ?, nodes = ? WHERE id = ?",
                (job.state, job.error, json.dumps(job.made), job.id),
            )

    def find(self, id: int) -> Job:
        """A job that is no longer in memory. Raises NotFound."""
        found = list(self._read("WHERE id = ?", (id,)))
        if not found:
            raise NotFound(f"there is no job {id}; it may have been deleted with its session").coded("no_job")
        return found[0]

    def waiting(self) -> list[Job]:
        """The jobs that waited when the server stopped; one that ran then has failed."""
        with self.database.transaction() as connection:
            connection.execute("UPDATE jobs SET state = 'failed', error = ? WHERE state = 'running'", (INTERRUPTED,))
            return list(self._read("WHERE state = 'queued' ORDER BY id", ()))

    def _read(self, condition: str, values: tuple) -> Iterable[Job]:
        with self.database.transaction() as connection:
            rows = connection.execute(f"SELECT * FROM jobs {condition}", values).fetchall()
        for row in rows:
            asked = EditAsked.from_json(json.loads(row["request"]))
            job = Job(row["id"], row["session"], row["node"], asked, row["state"], row["created"])
            job.made, job.error = json.loads(row["nodes"]), row["error"]
            job.fraction = 1.0 if row["state"] == "done" else 0.0
            yield job
