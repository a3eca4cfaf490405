"""The summary of `make gpu`, without a GPU."""

import ast
import importlib.util
import json

import pytest
from paths import ROOT

FOLDER = ROOT / "tests" / "gpu"
spec = importlib.util.spec_from_file_location("prove", FOLDER / "prove.py")
prove = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prove)

JUNIT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase name="test_a_resumed_run[a]" time="2.5"/>
<testcase name="test_every_sampler[b]" time="1"><failure message="assert 1 == 2&#10;more">trace</failure></testcase>
<testcase name="test_replayed" time="0"><skipped message="no graphs here"/></testcase>
<testcase name="test_low_memory_gives[256]" time="4"><properties><property name="figure" value="peak 3 GB"/></properties></testcase>
</testsuite></testsuites>"""
SPEED = {
    "group": "U-Net forward", "way": "channels last, bf16", "precision": "bf16", "share": 0.61, "memory": 2.5e9,
    "seconds": {"median": 0.01, "low": 0.01, "high": 0.02}, "against_peer": {"median": 1.3, "low": 1.2, "high": 1.4},
}  # fmt: skip


def names_of_gpu_tests() -> list[str]:
    trees = [ast.parse(path.read_text()) for path in FOLDER.glob("test_*.py")]
    names = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [name for name in names if name.startswith("test_")]


def test_each_test_for_a_gpu_proves_something_and_everything_has_a_test():
    proofs = {name: prove.proof_of(name) for name in names_of_gpu_tests()}
    assert None not in proofs.values() and set(proofs.values()) == set(prove.PROOFS)


def test_the_summary_tells_what_failed_what_was_skipped_and_what_was_measured(tmp_path):
    (tmp_path / "tests.xml").write_text(JUNIT)
    cases = prove.read_cases(tmp_path / "tests.xml")
    text, proven = prove.summary(cases, [SPEED, {**SPEED, "way": "diffusers, bf16"}], 400)
    assert not proven and "- failed: test_every_sampler[b]: assert 1 == 2\n" in text
    assert "- skipped: test_replayed: no graphs here" in text and "- peak 3 GB" in text
    assert "| exact resume | 1 of 1 | 2 |" in text and "| every sampler | 0 of 1 | 1 |" in text
    assert (
        "bf16: 10.0 ms per image (channels last, bf16), 1.30 (1.20–1.40) times diffusers' speed, 61% of peak, 2.50 GB"
        in text
    )
    assert text.endswith("2 of 4 tests passed, 6 min 40 s, 40 s above the goal of 6 min")


def test_all_is_proven_if_each_proof_has_a_test_that_passed_and_speed_was_measured():
    cases = [prove.Case(f"test_{pattern.partition('|')[0]}", 1, "passed") for pattern in prove.PROOFS.values()]
    text, proven = prove.summary(cases, [SPEED], 60)
    assert proven and text.splitlines()[-1] == f"proven; {len(cases)} of {len(cases)} tests passed, 1 min 0 s"
    assert not prove.summary(cases[1:], [SPEED], 60)[1] and not prove.summary(cases, [], 60)[1]


def test_a_machine_without_a_gpu_is_told_in_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(prove, "has_gpu", lambda: False)
    monkeypatch.setattr(prove, "run_tests", pytest.fail)
    assert prove.main(["--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{prove.NO_GPU}\n" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_tests_then_benchmark_then_one_summary(monkeypatch, tmp_path, capsys, device):
    """Of these runs, not of an earlier one; the page gets no figures of a rehearsal."""
    (tmp_path / "speed.json").write_text("{}")
    commands = []

    def run(command, cwd, check, env=None):
        commands.append(command)
        if "pytest" in command:
            (tmp_path / "tests.xml").write_text(JUNIT)

    monkeypatch.setattr(prove, "has_gpu", lambda: True)
    monkeypatch.setattr(prove.subprocess, "run", run)
    assert prove.main(["--device", device, "--out", str(tmp_path), "--page", "page.md"]) == 1
    tests, benchmark = commands
    assert "pytest" in tests and benchmark[2:4] == ["--device", device]
    assert ("--page" in benchmark) == (device == "cuda")
    assert "the benchmark wrote nothing" in capsys.readouterr().out
    assert "every sampler" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize("junit, code", [(JUNIT, 1), (JUNIT.replace("failure", "skipped"), 0)])
def test_a_rehearsal_succeeds_if_no_test_failed_and_the_benchmark_ran(monkeypatch, tmp_path, junit, code):
    def run(command, cwd, check, env=None):
        (tmp_path / "tests.xml").write_text(junit)
        (tmp_path / "speed.json").write_text(json.dumps({"rows": [SPEED]}))

    monkeypatch.setattr(prove.subprocess, "run", run)
    assert prove.main(["--device", "cpu", "--out", str(tmp_path)]) == code


def test_the_benchmark_knows_the_options(load_script):
    parse = load_script("benchmark").parse
    for device, flags in prove.SHAPES.items():
        arguments = parse(["--device", device, *flags.split(), "--out", "out", "--page", "page.md"])
        assert {"step", "backward"} < set(arguments.only) and json.dumps(arguments.page) == '"page.md"'
