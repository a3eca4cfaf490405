"""The one thread that owns the model: it makes what waits in the queue, in order, and says how far it is."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress

import torch

from ldm.app.errors import NotNow, QueueFull, bug, disk_error
from ldm.app.jobs import ENDED, Job, JobTable
from ldm.app.limits import JOBS, JOBS_PER_SESSION
from ldm.app.performing import Cancelled
from ldm.app.requests import EditAsked
from ldm.util.errors import UserError

logger = logging.getLogger(__name__)

PROGRESS_PAUSE = 0.05  # seconds between two events, at least
PATIENCE = 60.0  # seconds for the step of a cancelled job to end
KEPT = 200  # jobs that have ended and are still in memory

Perform = Callable[[Job, "Follower"], None]
Publish = Callable[[str, dict], None]


class Worker:
    """Queue and thread.

    Args:
        table: where jobs are kept.
        perform: makes a job's pictures; calls the follower's methods.
        publish: publish(session, event) tells the browsers.
    """

    def __init__(self, table: JobTable, perform: Perform, publish: Publish):
        self.table, self.perform, self.publish = table, perform, publish
        self._jobs: OrderedDict[int, Job] = OrderedDict()
        self._queue: list[Job] = []
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closing = False
        self.threads = torch.get_num_threads()  # of the thread that made the model, since bits depend on their number
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        for job in table.waiting():
            self._append(job)
        self._thread.start()

    def add(self, session: str, asked: EditAsked) -> Job:
        """Appends a job. Raises QueueFull."""
        with self._changed:
            if len(self._queue) >= JOBS or sum(job.session == session for job in self._queue) >= JOBS_PER_SESSION:
                raise QueueFull("too many edits are waiting; let some of them end, or cancel them").coded("queue_full")
            job = self.table.add(session, asked)
            self._append(job)
            self._changed.notify()
        self._tell(job)
        return job

    def find(self, id: int) -> Job:
        """A job, from memory or from the database. Raises NotFound."""
        with self._changed:
            if id in self._jobs:
                return self._jobs[id]
        return self.table.find(id)

    def cancel(self, id: int) -> Job:
        """Ends a job before it starts or at its next step. Raises NotFound, or NotNow if it has ended."""
        with self._changed:
            job = self._jobs.get(id) or self.table.find(id)
            if job.state in ENDED:
                raise NotNow(f"job {id} has ended already").coded("job_ended")
            job.stop.set()
            waited = job in self._queue
            if waited:
                self._queue.remove(job)
                job.state = "cancelled"
                self.table.save(job)
                self._number()
        if waited:
            self._tell(job)
            self._tell_places()
        return job

    def cancel_from(self, nodes: Collection[int]) -> None:
        """Cancels all jobs that start from these nodes, and waits until the one that runs has ended.

        Raises:
            NotNow: its step takes too long.
        """
        with self._changed:
            found = [job for job in self._jobs.values() if job.node in nodes and job.state not in ENDED]
        for job in found:
            with suppress(NotNow):  # it has just ended
                self.cancel(job.id)
        with self._changed:
            if not self._changed.wait_for(lambda: self._running not in found, PATIENCE):
                raise NotNow("the edit that runs has not ended yet; try again in a while").coded("still_running")

    def of_session(self, session: str) -> list[Job]:
        """The jobs of a session that wait or run, in order."""
        with self._changed:
            jobs = [self._running] if self._running else []
            return [job for job in [*jobs, *self._queue] if job.session == session]

    def state(self) -> tuple[Job | None, int]:
        """The job that runs, and how many wait."""
        with self._changed:
            return self._running, len(self._queue)

    def close(self) -> None:
        """Ends at the next step of the job that runs; it waits again when the server starts."""
        with self._changed:
            self._closing = True
            if self._running:
                self._running.stop.set()
            self._changed.notify_all()
        self._thread.join(timeout=60)

    def _append(self, job: Job) -> None:
        self._jobs[job.id] = job
        self._queue.append(job)
        self._number()
        for id in [id for id, each in self._jobs.items() if each.state in ENDED][:-KEPT]:
            del self._jobs[id]

    def _number(self) -> None:
        ahead = 1  # the next one has place 1, whether or not one runs
        for place, job in enumerate(self._queue, ahead):
            job.place = place

    def _work(self) -> None:
        torch.set_num_threads(self.threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                job = self._running = self._queue.pop(0)
                job.state, job.place = "running", 0
                self._number()
                self.table.save(job)
            self._tell(job)
            self._tell_places()
            state, error = self._run(job)
            with self._changed:
                job.state = state
                job.fail_with(error)
                job.stage = ""
                if not (self._closing and state == "queued"):
                    job.fraction = 1.0 if state == "done" else job.fraction
                self.table.save(job)
                self._running = None
                self._changed.notify_all()
            self._tell(job)

    def _run(self, job: Job) -> tuple[str, UserError | None]:
        """Makes the job's pictures; its state thereafter, and what went wrong."""
        try:
            self.perform(job, Follower(job, self.publish))
            return "done", None
        except Cancelled:
            return ("queued", None) if self._closing else ("cancelled", None)
        except UserError as error:
            return "failed", error
        except (MemoryError, torch.OutOfMemoryError):
            words = "out of memory; start the server with --precision fp16 or --low-memory, or a smaller model"
            return "failed", UserError(words).coded("out_of_memory")
        except (OSError, sqlite3.Error) as error:
            return "failed", disk_error(error)
        except Exception:
            logger.exception("job %d failed", job.id)
            return "failed", bug()

    def _tell(self, job: Job) -> None:
        self.publish(job.session, {"type": "job", "job": job.to_json()})

    def _tell_places(self) -> None:
        with self._changed:
            waiting = list(self._queue)
        for job in waiting:
            self._tell(job)


class Follower:
    """Tells the browsers how far a job is, and ends it when it was cancelled; a `performing.Listener`."""

    def __init__(self, job: Job, publish: Publish):
        self.job, self.publish = job, publish
        self.next = 0.0

    def begin(self, variant: int) -> None:
        """The variant, from 0, is begun."""
        self.job.variant, self.job.stage, self.job.step, self.job.steps = variant, "", 0, 0
        self.check()

    def check(self) -> None:
        """Raises Cancelled if the job was cancelled."""
        if self.job.stop.is_set():
            raise Cancelled

    def progress(self, stage: str, step: int, steps: int, fraction: float) -> None:
        self.check()
        job, time_ = self.job, time.perf_counter()
        job.stage, job.step, job.steps = stage, step, steps
        job.fraction = max(job.fraction, (job.variant + fraction) / job.variants)
        if time_ >= self.next or step == steps:
            self.next = time_ + PROGRESS_PAUSE
            keys = ("variant", "variants", "stage", "step", "steps", "fraction")
            told = job.to_json()
            self.publish(job.session, {"type": "progress", "job": job.id, **{key: told[key] for key in keys}})

    def preview(self, image: str, size: tuple[int, int]) -> None:
        self.check()
        event = {"type": "preview", "job": self.job.id, "variant": self.job.variant, "image": image}
        self.publish(self.job.session, {**event, "width": size[0], "height": size[1]})
