"""Whatever the files of a validation hold, the answer is one sentence, and no report is written."""

import copy
import json

import pytest
from PIL import Image

from ldm.evaluation.validation import merge, votes
from ldm.evaluation.validation.classifier import read_labelled
from ldm.evaluation.validation.plan import read_plan
from ldm.evaluation.validation.reading import read_lines
from ldm.util.errors import UserError

DEEP = "[" * 50_000 + "]" * 50_000
DIGITS = "9" * 5000
MODELS, IDS = ("base", "new"), [f"l{index}" for index in range(12)]
PLAN = {
    "lines": [{"id": id, "identity": id, "type": "all", "unit": id, "label": None} for id in IDS],
    "models": list(MODELS),
    "scores": ["pixels"],
    "measures": {"psnr": {"higher_is_better": True, "definition": "dB", "factor": 1, "form": ".1f"}},
}
ROW = {"success": True, "pixels": "p", "made_by": {"source": "x"}, "scores": {"psnr": 3.0}}
KEY = [{"pair": f"{index:012x}", "id": id, "left": "base", "right": "new"} for index, id in enumerate(IDS)]
VOTE = {"pair": KEY[0]["pair"], "choice": "left", "rater": "ada"}


def refused(function, *arguments) -> str:
    """The sentence with which the arguments are refused."""
    with pytest.raises(UserError) as error:
        function(*arguments)
    sentence = str(error.value)
    assert sentence.count("\n") == 0 and len(sentence) < 1000
    return sentence


def rows(**changes) -> list[str]:
    """The lines of a shard; `changes` are of the first row."""
    made = [{"job": [model, id, 0], "line": id, **ROW} for model in MODELS for id in IDS]
    return [json.dumps(row) for row in [{"settings": {}}, {**made[0], **changes}, *made[1:]]]


@pytest.fixture
def results(tmp_path):
    """A folder of complete results."""
    (tmp_path / "shards/0-of-1").mkdir(parents=True)
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    write_rows(tmp_path, rows())
    return tmp_path


def write_rows(folder, lines: list[str]) -> None:
    (folder / "shards/0-of-1/rows.jsonl").write_text("\n".join(lines) + "\n")


def changed(path: str, value) -> str:
    """The plan with another value at a place such as lines.0.id."""
    plan = copy.deepcopy(PLAN)
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    inner = plan
    for part in parents:
        inner = inner[part]
    inner[last] = value
    return json.dumps(plan)


def line(**keys) -> str:
    return json.dumps({"id": "a", "ref": "p.png", "prompt": "x", **keys})


LINES = [
    DEEP,
    b"\xff\xfe",
    "3",
    "",
    line(id=5),
    line(id="../x"),
    line(id="a\0"),
    line(id="x" * 500),
    '{"id": "a", "prompt": "\\ud800"}',
    '{"id": "a", "prompt": "x", "seed": NaN}',
    '{"id": "a", "prompt": "x", "seed": ' + DIGITS + "}",
    '{"id": "a", "sg": ' + DEEP + "}",
    '{"id": "a", "sg": 5}',
    line(sg="/etc/passwd"),
    line(ref=5),
    line(ref="a\0"),
    line(ref="."),
    line(mask="nothing.png"),
    line(prompt=5),
    line(unit=5),
    line(label=[1]),
    '{"id": "a", "prompt": "x", "steps": 0}',
    line(steps="many"),
    line(bogus=1),
    line() + "\n" + line(id="A"),
]


@pytest.mark.parametrize("content", LINES, ids=range(len(LINES)))
def test_hostile_lines_are_one_sentence_that_names_the_file(tmp_path, content):
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    path = tmp_path / "v.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert "v.jsonl" in refused(read_lines, path)


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "3",
        "[]",
        "{}",
        changed("lines", 5),
        changed("lines", []),
        changed("lines.0", {"id": "a"}),
        changed("lines.0.id", "../../x"),
        changed("lines.0.id", IDS[1]),
        changed("lines.0.unit", [5]),
        changed("lines.0.type", [5]),
        changed("models", []),
        changed("models", [1, 2]),
        changed("models", ["base", "../../x"]),
        changed("models", ["base", "base"]),
        changed("measures", 5),
        changed("measures.psnr", {"higher_is_better": True}),
        changed("measures.psnr.factor", "a"),
        changed("measures.psnr.form", "{"),
        changed("measures.psnr.form", "99999999.1f"),
    ],
    ids=range(20),
)
def test_a_hostile_plan_is_one_sentence(tmp_path, content):
    (tmp_path / "plan.json").write_text(content)
    assert "plan.json" in refused(read_plan, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        [DEEP],
        ["3"],
        [],
        ["{}"],
        rows(job=["base", "l0"]),
        rows(job=5),
        rows(job=[["base"], "l0", 0]),
        rows(success="yes"),
        rows(line=[1]),
        rows(pixels=None),
        rows(made_by="x"),
        rows(scores=[1]),
        rows(scores={"psnr": "3"}),
        rows(scores={"psnr": [3]}),
        rows(scores={"psnr": 10**400}),
        rows(scores={"verdict": 5}),
        rows()[:-1],
        rows(success=False),
    ],
    ids=range(18),
)
def test_hostile_rows_are_one_sentence_and_are_not_averaged(results, content):
    write_rows(results, content)
    refused(merge.collect, [results])


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "3",
        "[3]",
        "[{}]",
        json.dumps([{**KEY[0], "pair": [1]}]),
        json.dumps([{**KEY[0], "id": "nothing"}]),
        json.dumps([{**KEY[0], "left": "../x"}]),
        json.dumps([{**KEY[0], "right": "base"}]),
    ],
)
def test_a_hostile_key_is_one_sentence(results, content):
    (results / "votes_key.json").write_text(content)
    (results / "v.jsonl").write_text(json.dumps(VOTE))
    collected = merge.collect([results])
    assert "votes_key.json" in refused(votes.read_votes, [results / "v.jsonl"], results / "votes_key.json", collected)


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "3",
        "",
        b"\xff",
        json.dumps({**VOTE, "pair": [1]}),
        json.dumps({**VOTE, "pair": "x"}),
        json.dumps({**VOTE, "choice": ["left"]}),
        json.dumps({**VOTE, "choice": "new"}),
        json.dumps(VOTE) + "\n" + json.dumps(VOTE),
    ],
)
def test_hostile_votes_are_one_sentence_that_names_the_file(results, content):
    (results / "votes_key.json").write_text(json.dumps(KEY))
    path = results / "v.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    collected = merge.collect([results])
    assert "v.jsonl" in refused(votes.read_votes, [path], results / "votes_key.json", collected)


@pytest.mark.parametrize("content", [DEEP, "3", "", '{"file": 5, "label": "a"}', '{"file": "a\\u0000", "label": "a"}'])
def test_hostile_labelled_pictures_are_one_sentence(tmp_path, content):
    (tmp_path / "l.jsonl").write_text(content)
    refused(read_labelled, tmp_path / "l.jsonl", lambda picture: "a")
