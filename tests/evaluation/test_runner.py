import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from paths import ROOT
from PIL import Image

from ldm.evaluation.runner import picture_path, run_jobs, source_digest
from ldm.util.errors import UserError

JOBS = [("a", i) for i in range(20)]


class Interrupted(Exception):
    pass


def recording(measured, interrupt_at=None):
    """prepare() of a measurement that appends its jobs to `measured` and is interrupted at one of them."""

    def measure(job):
        if job == interrupt_at:
            raise Interrupted
        measured.append(job)
        return {"success": job[-1] % 2 == 0, "number": job[-1]}, Image.new("RGB", (4, 4))

    return lambda: measure


def test_an_interrupted_run_is_resumed_and_ends_like_an_uninterrupted_one(tmp_path):
    rows = run_jobs(tmp_path / "uninterrupted", {"seed": 1}, JOBS, recording([]))
    first, second = [], []
    with pytest.raises(Interrupted):
        run_jobs(tmp_path / "interrupted", {"seed": 1}, JOBS, recording(first, ("a", 9)))
    with (tmp_path / "interrupted" / "rows.jsonl").open("a") as file:
        file.write('{"job": ["a", 9], "succ')  # the process was killed while it wrote
    assert run_jobs(tmp_path / "interrupted", {"seed": 1}, JOBS, recording(second)) == rows
    assert first + second == JOBS
    folders = tmp_path / "uninterrupted", tmp_path / "interrupted"
    files = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in folders]
    assert files[0] == files[1]
    assert (folders[0] / "rows.jsonl").read_text() == (folders[1] / "rows.jsonl").read_text()


def test_pictures_of_the_first_jobs_and_of_the_first_failures_are_stored(tmp_path):
    run_jobs(tmp_path, {}, JOBS, recording([]))
    assert [i for i in range(20) if picture_path(tmp_path, ("a", i)).exists()] == [0, 1, 2, 3, 5, 7]


def test_additional_jobs_extend_the_stored_rows(tmp_path):
    run_jobs(tmp_path, {}, JOBS[:5], recording([]))
    measured = []
    assert len(run_jobs(tmp_path, {}, JOBS, recording(measured))) == 20
    assert measured == JOBS[5:]


def test_rows_that_are_not_current_are_measured_again(tmp_path):
    run_jobs(tmp_path, {}, JOBS[:5], recording([]))
    measured = []
    for _ in range(2):
        rows = run_jobs(tmp_path, {}, JOBS[:5], recording(measured), is_current=lambda job, row: row["number"] != 3)
        assert [row["number"] for row in rows] == [0, 1, 2, 3, 4]
    assert measured == [("a", 3)] * 2


def test_rows_of_other_settings_and_other_files_are_refused(tmp_path):
    run_jobs(tmp_path, {"steps": 50}, JOBS[:2], recording([]))
    for settings in ({"steps": 20}, {"steps": 50, "seed": 1}):
        with pytest.raises(UserError, match="--outdir"):
            run_jobs(tmp_path, settings, JOBS, recording([]))
    for text in ("not JSON\n", '{"settings": 3}\n', "[]\n"):
        (tmp_path / "rows.jsonl").write_text(text)
        with pytest.raises(UserError, match="rows of a benchmark"):
            run_jobs(tmp_path, {}, JOBS, recording([]))


def test_the_source_digest_depends_on_names_and_contents_of_modules_only(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text("x = 1")
    first = source_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert source_digest(tmp_path) == first and len(source_digest()) == len(first)
    (tmp_path / "a" / "b.py").write_text("x = 2")
    second = source_digest(tmp_path)
    (tmp_path / "a" / "b.py").rename(tmp_path / "b.py")
    assert len({first, second, source_digest(tmp_path)}) == 3


def test_the_source_digest_covers_the_whole_package(monkeypatch):
    digested = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: digested.append(path) or read(path))
    source_digest()
    expected = {path for path in (ROOT / "ldm").rglob("*.py")}
    assert expected and expected == set(digested)


# --- worker processes -------------------------------------------------------------------------------------------------

WORKERS = """
import os, sys
from pathlib import Path

def measure(job):
    return {"success": True, "process": os.getpid()}, None

def prepare():
    return measure
"""


def test_worker_processes_find_modules_on_the_path_of_their_parent(tmp_path, monkeypatch):
    (tmp_path / "measured_elsewhere.py").write_text(WORKERS)
    monkeypatch.syspath_prepend(tmp_path)
    import measured_elsewhere

    assert pickle.loads(pickle.dumps(measured_elsewhere.prepare)) is measured_elsewhere.prepare
    rows = run_jobs(tmp_path, {}, JOBS[:4], measured_elsewhere.prepare, workers=2)
    assert len(rows) == 4 and os.getpid() not in {row["process"] for row in rows}


ENDLESS = """
import os, sys, time
from pathlib import Path
from ldm.evaluation.runner import run_jobs

def prepare():
    Path(f"started_{os.getpid()}").touch()
    return lambda job: time.sleep(600)

if __name__ == "__main__":
    try:
        run_jobs(Path("out"), {}, [("a", i) for i in range(9)], prepare, 2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture
def endless(tmp_path):
    """A process that runs jobs in two workers, both in the middle of a job, and files named after the workers' ids."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, "endless.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while len(started := list(tmp_path.glob("started_*"))) < 2:
            assert process.poll() is None
            time.sleep(0.1)
        yield process, started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("whole_group", [True, False], ids=["Ctrl-C in a terminal", "the parent process only"])
def test_an_interrupt_ends_the_workers_in_the_middle_of_a_job_without_traceback(endless, whole_group):
    process, started = endless
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    for path in started:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name.removeprefix("started_")), 0)


def test_workers_end_when_their_parent_is_killed(endless):
    process, _ = endless
    process.kill()
    process.communicate(timeout=60)  # returns when the last worker has closed the shared stderr
