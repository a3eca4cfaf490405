"""A set of measurements that can be interrupted and resumed: each result is stored as soon as it is known.

    rows.jsonl    the settings that all rows share, then one row per job, in the order of completion
    pictures/     images of the first jobs of each group and of its first failures

A job is a tuple of names that ends in a number; jobs that differ only in the number form a group. A row depends on its job
and on the settings only. On a CPU each job runs in one thread and several jobs run in separate processes: with a small
model the Python interpreter is the bottleneck, which threads would share.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

import ldm
from ldm.util.errors import UserError
from ldm.util.files import atomic_write
from ldm.util.processes import end_with_parent, single_thread

ROWS = "rows.jsonl"
PICTURES_PER_GROUP = 4  # first jobs whose image is stored, and as many first failures

Job = tuple  # (name, ..., number)
Measure = Callable[[Job], tuple[dict, Image.Image | None]]  # job -> row (with the key 'success'), image


def run_jobs(
    folder: Path,
    settings: dict,
    jobs: Sequence[Job],
    prepare: Callable[[], Measure],
    workers: int = 1,
    description: str = "jobs",
    is_current: Callable[[Job, dict], bool] = lambda job, row: True,
) -> list[dict]:
    """Measures all jobs whose rows are not in the folder yet.

    Args:
        folder: where rows and pictures are stored.
        settings: what all rows depend on besides their jobs; JSON values.
        prepare: called once per process; returns the function that does a job. Must be picklable for several workers.
        workers: processes; with 1, the jobs run in this process.
        description: label of the progress bar.
        is_current: whether a stored row is still valid; jobs whose rows are not are measured again.

    Returns:
        The rows of all jobs, in the order of `jobs`.

    Raises:
        UserError: the folder's rows were measured with other settings.
    """
    stored = read_rows(folder, settings)
    rows = {job: row for job, row in stored if is_current(job, row)}
    pictured = _first_of_each_group(jobs, PICTURES_PER_GROUP)
    failures = Counter(job[:-1] for job, row in rows.items() if not row["success"])
    missing = [job for job in jobs if job not in rows]
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc=description)
    with (folder / ROWS).open("a") as file, bar, closing(_measure_all(missing, prepare, workers)) as results:
        for job, row, image in results:
            failures[job[:-1]] += not row["success"]
            early_failure = not row["success"] and failures[job[:-1]] <= PICTURES_PER_GROUP
            if image is not None and (job in pictured or early_failure):
                with atomic_write(picture_path(folder, job)) as temporary:
                    image.save(temporary)
            file.write(json.dumps({"job": job, **row}) + "\n")
            file.flush()
            rows[job] = row
            bar.update()
    return [rows[job] for job in jobs]


def read_rows(folder: Path, settings: dict) -> list[tuple[Job, dict]]:
    """Reads the stored jobs and rows, in the order of completion, and leaves a file that rows can be appended to.

    A line that an interruption cut off is removed; the file is created if there is none.

    Raises:
        UserError: the file holds something else, or rows that were measured with other settings.
    """
    path = folder / ROWS
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    complete = [line for line in lines if line.endswith("\n")]
    if not complete:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings}) + "\n")
        return []
    try:
        (stored_settings,) = json.loads(complete[0]).values()
        rows = [json.loads(line) for line in complete[1:]]
        jobs = [tuple(row.pop("job")) for row in rows]
        keys = {**stored_settings, **settings}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{path}: does not hold the rows of a benchmark; choose another --outdir") from None
    for key in keys:
        stored, current = stored_settings.get(key), json.loads(json.dumps(settings.get(key)))
        if stored != current:
            raise UserError(
                f"{path}: its rows were measured with {key} {stored}, not {current}; choose another --outdir, or delete "
                "this one to measure again"
            )
    if len(complete) < len(lines):
        with atomic_write(path) as temporary:
            temporary.write_text("".join(complete))
    return list(zip(jobs, rows))


def source_digest(package: Path = Path(ldm.__file__).parent) -> str:
    """Hash of the names and contents of all Python files of a package: rows of other code are not mixed with new ones."""
    sha256 = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        sha256.update(f"{file.relative_to(package).as_posix()}\n".encode() + file.read_bytes())
    return sha256.hexdigest()[:16]


def picture_path(folder: Path, job: Job) -> Path:
    """Where the image of a job is stored, if it is."""
    *names, number = job
    return folder / "pictures" / Path(*map(file_name, names)) / f"{number}.png"


def file_name(text: str) -> str:
    """The text with everything replaced that some file system refuses in a name."""
    return re.sub(r"[^\w.,=-]", "_", text)


def _first_of_each_group(jobs: Sequence[Job], count: int) -> set[Job]:
    sizes: Counter = Counter()
    first = set()
    for job in jobs:
        if sizes[job[:-1]] < count:
            first.add(job)
        sizes[job[:-1]] += 1
    return first


# Processes -----------------------------------------------------------------------------------------------------------


def _measure_all(
    jobs: Sequence[Job], prepare: Callable, workers: int
) -> Generator[tuple[Job, dict, Image.Image | None], None, None]:
    if not jobs:
        return
    if workers <= 1:
        with single_thread():
            measure = prepare()
            for job in jobs:
                yield job, *measure(job)
        return
    # A forked process deadlocks if torch had started its thread pool before the fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (prepare,))
    other_children = set(multiprocessing.active_children())
    try:
        with _ignored_interrupt():
            futures = {pool.submit(_measure_in_worker, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures.pop(future), *future.result()
    except BaseException:  # an interruption must not wait for the jobs in progress
        for process in set(multiprocessing.active_children()) - other_children:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ignored_interrupt() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, on which each would print a traceback; this process terminates them."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


_measure_of_worker: Measure | None = None  # set once in each worker process


def _start_worker(prepare: Callable[[], Measure]) -> None:
    global _measure_of_worker
    end_with_parent()
    torch.set_num_threads(1)
    _measure_of_worker = prepare()


def _measure_in_worker(job: Job) -> tuple[dict, Image.Image | None]:
    assert _measure_of_worker is not None
    return _measure_of_worker(job)
