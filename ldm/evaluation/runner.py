"""Many measurements, each written down as soon as it is made, so that a study that was stopped goes on where it was.

    rows.jsonl    the settings that all rows share, then a row for each job, in the order in which they were done
    pictures/     what was made in the first jobs of each group, and in the first that failed

A job is a tuple of names and, last, a number; jobs that differ in the number alone are a group. A row depends on its job
and the settings alone: on a CPU each job is one thread's work, in as many processes as are asked for, because a small
model keeps the interpreter as busy as the processor, which threads would share.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

import ldm
from ldm.util.errors import UserError
from ldm.util.processes import end_with_parent, single_thread

ROWS = "rows.jsonl"
SHOWN = 4  # pictures of a group that are kept: so many first ones, and so many first failures

Job = tuple  # (name, ..., number)
Measure = Callable[[Job], tuple[dict, Image.Image | None]]  # the row, with a 'success', and what was made


def run_jobs(
    folder: Path,
    settings: dict,
    jobs: Sequence[Job],
    prepare: Callable[[], Measure],
    workers: int = 1,
    what: str = "jobs",
) -> list[dict]:
    """The rows of all jobs, in the jobs' order; what the folder has already is not done again.

    prepare is called once in each process and gives what does a job; for more than one worker it must be picklable.
    Raises UserError where the folder's rows were made with other settings.
    """
    rows = read_rows(folder, settings)
    places: Counter = Counter()
    keep = set()  # whatever comes of them
    for job in jobs:
        if places[job[:-1]] < SHOWN:
            keep.add(job)
        places[job[:-1]] += 1
    failures = Counter(job[:-1] for job, row in rows.items() if not row["success"])
    left = [job for job in jobs if job not in rows]
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(left), desc=what)
    with (folder / ROWS).open("a") as file, bar, closing(_done(left, prepare, workers)) as done:
        for job, row, image in done:
            failures[job[:-1]] += not row["success"]
            if image is not None and (job in keep or (not row["success"] and failures[job[:-1]] <= SHOWN)):
                path = picture_path(folder, job)
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
            file.write(json.dumps({"job": job, **row}) + "\n")
            file.flush()
            rows[job] = row
            bar.update()
    return [rows[job] for job in jobs]


def read_rows(folder: Path, settings: dict) -> dict[Job, dict]:
    """The rows that are there by their jobs, and a file to add to. A line that was being written when the study was
    stopped is taken away. Raises UserError where the file is of another study."""
    path = folder / ROWS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    if not whole:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings}) + "\n")
        return {}
    try:
        (there,), rows = json.loads(whole[0]).values(), [json.loads(line) for line in whole[1:]]
        jobs = [tuple(row.pop("job")) for row in rows]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{path}: not the rows of a study; choose another --outdir") from None
    for key in {**there, **settings}:
        was, now = there.get(key), json.loads(json.dumps(settings.get(key)))
        if was != now:
            raise UserError(
                f"{path}: its rows were made with {key} {was}, not {now}; choose another --outdir, or delete this one to "
                "measure anew"
            )
    if len(whole) < len(lines):
        path.write_text("".join(whole))
    return dict(zip(jobs, rows))


def source_digest(package: Path = Path(ldm.__file__).parent) -> str:
    """The same for the same source of a package, and for no other."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def picture_path(folder: Path, job: Job) -> Path:
    *names, number = job
    return folder / "pictures" / Path(*map(file_name, names)) / f"{number}.png"


def file_name(text: str) -> str:
    """What every file system takes for it."""
    return re.sub(r"[^\w.,=-]", "_", text)


def wilson(successes: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share of which `successes` out of `count` were seen (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    middle = share + z**2 / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return tuple(min(1.0, max(0.0, (middle + sign * reach) / (1 + z**2 / count))) for sign in (-1, 1))


# In this process or in others ----------------------------------------------------------------------------------------


def _done(jobs: Sequence[Job], prepare: Callable, workers: int) -> Iterator[tuple[Job, dict, Image.Image | None]]:
    if not jobs:
        return
    if workers <= 1:
        with single_thread():
            measure = prepare()
            for job in jobs:
                yield job, *measure(job)
        return
    # A fork of a process whose torch has begun to use threads may wait for ever for those that it does not have.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (prepare,))
    others = set(multiprocessing.active_children())
    try:
        with _deaf():
            futures = {pool.submit(_measure, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures.pop(future), *future.result()
    except BaseException:  # whoever wants to stop does not want to wait for the jobs at hand
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C, to which each would say something: this one does, and ends them."""
    hearing = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, hearing)


def _begin(prepare: Callable[[], Measure]) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    _worker.append(prepare())


_worker: list[Measure] = []  # of a process that serves a pool: what it does with a job


def _measure(job: Job) -> tuple[dict, Image.Image | None]:
    return _worker[0](job)


