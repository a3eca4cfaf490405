"""Shards, their merge, the report and the votes, with models that are functions."""

import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from ldm.evaluation.validation import merge, models, pie_scores, shards, statistics, summary, votes
from ldm.evaluation.validation.lines import ValidationLine
from ldm.evaluation.validation.outcome import Extras, write_outcome
from ldm.evaluation.validation.plan import make_plan, write_plan
from ldm.evaluation.validation.score_options import ScoreOptions, make_scores
from ldm.util.errors import UserError
from ldm.util.image_folder import read_record

PAINTERS = """
import random
import numpy as np
from PIL import Image
from ldm.util.errors import UserError

calls = []

def _noise(line, spread):
    calls.append(line.id)
    rng = np.random.default_rng(line.seed)
    before = np.asarray(Image.open(line.photograph), int)
    return Image.fromarray((before + rng.integers(-spread, spread + 1, before.shape)).clip(0, 255).astype(np.uint8))

def near(line):
    return _noise(line, 10)

def far(line):
    return _noise(line, 30)

def fragile(line):
    if line.id == "line5":
        raise UserError("cannot paint this")
    return near(line)

def namer(picture):
    return "dark" if np.asarray(picture).mean() < 128 else "bright"
"""
COUNT = 12
WHOLE, NO_OPTIONS = shards.Shard(), ScoreOptions()


@pytest.fixture
def painters(tmp_path, monkeypatch):
    """A module of the user's with models and a classifier."""
    (tmp_path / "painters.py").write_text(PAINTERS)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("painters", None)
    import painters

    yield painters
    sys.modules.pop("painters", None)


@pytest.fixture
def lines(tmp_path):
    """Edits of twelve grey photographs, in three types; the second half may change."""
    made = []
    for index in range(COUNT):
        path = tmp_path / f"photo{index}.png"
        Image.new("L", (16, 16), 60 + 15 * index).convert("RGB").save(path)
        region = np.zeros((16, 16), bool)
        region[:, 8:] = True
        label = "dark" if index < 4 else "bright"
        values = {
            "photograph": path,
            "region": region,
            "prompt": f"<{index}>",
            "type": f"type {index % 3}",
            "label": label,
        }
        made.append(ValidationLine(f"line{index}", f"line {index}", seed=index, **values))
    return made


@pytest.fixture
def run(lines, painters, monkeypatch):
    """run(folder, specs, shard) -> Failures; rows and pictures are in the folder."""
    monkeypatch.setattr(shards, "source_digest", lambda: "code")

    def run(folder, named, shard=WHOLE, lines=lines, options=NO_OPTIONS, scores=("pixels",)):
        specs = models.parse_models("painters.near", named)
        measures = {
            key: value for score in make_scores(scores, options).values() for key, value in score.measures.items()
        }
        plan = make_plan(lines, [spec.name for spec in specs], scores, measures)
        folder.mkdir(exist_ok=True)
        write_plan(folder, plan)
        load = partial(models.make_maker, config=None, device="cpu", shared={})
        return shards.run_shard(plan, lines, specs, load, options, shard, folder)

    return run


def test_shards_that_know_nothing_of_each_other_merge_into_the_whole(run, tmp_path):
    run(tmp_path / "whole", ["far=painters.far"])
    folders = [tmp_path / f"part{index}" for index in range(3)]
    for index, folder in enumerate(folders):
        run(folder, ["far=painters.far"], shards.Shard(index, 3))
    whole, merged = merge.collect([tmp_path / "whole"]), merge.collect(folders)
    assert whole.rows == merged.rows and len(merged.rows["far"]) == COUNT
    assert summary.summarise(whole) == summary.summarise(merged)


def test_a_picture_does_not_depend_on_the_other_lines(run, lines, tmp_path):
    run(tmp_path / "all", [])
    run(tmp_path / "few", [], lines=lines[7:3:-2])
    few, every = (merge.collect([tmp_path / name]).rows["base"] for name in ("few", "all"))
    assert {id: row["pixels"] for id, row in few.items()} == {id: every[id]["pixels"] for id in few}


def test_the_merge_refuses_missing_pictures_and_names_model_and_shard(run, tmp_path):
    run(tmp_path / "out", ["far=painters.far"], shards.Shard(0, 3))
    run(tmp_path / "out", ["far=painters.far"], shards.Shard(2, 3))
    with pytest.raises(merge.IncompleteError) as error:
        merge.collect([tmp_path / "out"])
    assert "4 of 12 of model 'base'; 4 of 12 of model 'far' (shard 1 of 3)" in str(error.value)


def test_a_restart_makes_only_what_is_missing(run, painters, tmp_path):
    folder = tmp_path / "out"
    run(folder, [])
    before = merge.collect([folder]).rows
    rows = folder / "shards" / "0-of-1" / "rows.jsonl"
    content = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(content[:6]) + content[6][:20])  # as a kill leaves it
    for name in ("line3", "line8"):
        (folder / "pictures" / "base" / f"{name}.png").unlink()
    (folder / "pictures" / "base" / "line9.png").write_bytes(b"half a file")
    painters.calls.clear()
    run(folder, [])
    assert sorted(painters.calls) == ["line3", "line8", "line9"]
    assert merge.collect([folder]).rows == before


def test_a_line_that_fails_does_not_stop_the_others_and_is_told(run, tmp_path, capsys):
    failures = run(tmp_path / "out", ["fragile=painters.fragile"])
    failures.tell()
    message = capsys.readouterr().err
    assert failures.count == 1 and "shard 0 of 1: 1 of 24 pictures failed" in message
    assert "model 'fragile', line line5: cannot paint this" in message
    with pytest.raises(merge.IncompleteError, match="1 of 12 of model 'fragile'"):
        merge.collect([tmp_path / "out"])


def test_a_model_that_cannot_be_loaded_does_not_stop_the_others(run, tmp_path):
    failures = run(tmp_path / "out", ["none=no_such.ckpt"])
    assert failures.count == COUNT and "model 'none'" in failures.messages[0]
    with pytest.raises(merge.IncompleteError, match="12 of 12 of model 'none'"):
        merge.collect([tmp_path / "out"])


def test_the_base_under_another_name_makes_no_difference(run, tmp_path):
    run(tmp_path / "out", ["copy=base", "again=painters.near", "far=painters.far"])
    results = merge.collect([tmp_path / "out"])
    sentences = summary.verdict(results)
    assert sentences[0].startswith("copy: no difference; it is the base under another name")
    assert sentences[1].startswith("again: no difference") and sentences[2].startswith(
        "far (12 pictures): worse than the base"
    )
    verdicts = {each.comparison.verdict for each in summary.find_differences(results) if each.model == "copy"}
    assert verdicts == {statistics.NO_DIFFERENCE}
    assert "psnr_outside: no model is better than the base" in summary.remarks(
        results, summary.find_differences(results)
    )


def test_every_type_has_averages_of_its_own(run, tmp_path):
    run(tmp_path / "out", ["far=painters.far"])
    results = merge.collect([tmp_path / "out"])
    averages = summary.find_averages(results)["far"]
    assert set(averages) == {"all", "type 0", "type 1", "type 2"}
    numbers = results.numbers("far", "psnr_outside")
    of_type = [numbers[f"line{index}"] for index in range(1, COUNT, 3)]
    assert averages["type 1"]["psnr_outside"]["mean"] == pytest.approx(np.mean(of_type))
    assert averages["type 1"]["psnr_outside"]["pictures"] == 4


def test_a_share_of_nothing_but_failures_has_an_interval():
    numbers = {f"{index}": 0.0 for index in range(24)}
    units = {f"{index}": f"{index // 2}" for index in range(24)}
    result = summary.describe_average(numbers, units)
    assert result["mean"] == 0 and result["mean_95"] == pytest.approx(proportion(0, 12), abs=1e-6)


def proportion(successes, count):
    """Wilson's interval as scipy has it."""
    interval = binomtest(successes, count).proportion_ci(method="wilson")
    return interval.low, interval.high


def test_models_may_be_added_but_lines_may_not_change(run, lines, tmp_path, painters):
    folder = tmp_path / "out"
    run(folder, [])
    painters.calls.clear()
    run(folder, ["far=painters.far"])
    assert len(painters.calls) == COUNT
    Image.new("RGB", (16, 16), "red").save(lines[2].photograph)
    with pytest.raises(UserError, match="line 'line2' was another one"):
        run(folder, [])


def test_shards_with_different_pictures_of_one_line_are_refused(run, painters, tmp_path):
    run(tmp_path / "one", [])
    run(tmp_path / "two", [])
    rows = tmp_path / "two" / "shards" / "0-of-1" / "rows.jsonl"
    pixels = merge.collect([tmp_path / "two"]).rows["base"]["line4"]["pixels"]
    rows.write_text(rows.read_text().replace(pixels, "0" * 16))
    with pytest.raises(UserError, match="line line4: .* have different pictures of it"):
        merge.collect([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize(
    ("index", "count"),
    [(3, 3), (-1, 2)],
)
def test_a_shard_that_does_not_exist_is_refused(index, count):
    with pytest.raises(UserError, match=f"of {count} shards"):
        shards.Shard(index, count)


# Models --------------------------------------------------------------------------------------------------------------


def test_scales_of_a_lora_make_as_many_models_and_base_stands_for_the_base():
    specs = models.parse_models(
        "logs/a@steps=20", ["l=base+x.safetensors:0.5,1", "m=b.ckpt+y.safetensors", "n=base@steps=5"]
    )
    assert [spec.name for spec in specs] == ["base", "l-0.5", "l-1", "m", "n"]
    assert specs[1].source == "logs/a" and specs[1].loras == (("x.safetensors", 0.5),)
    assert specs[1].options == {"steps": 20} and specs[4].options == {"steps": 5}
    assert specs[3].loras == (("y.safetensors", 1.0),)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("a", "write NAME=CHECKPOINT"),
        ("base=x", "there already is a model"),
        ("a=", "its source is empty"),
        ("a=x@stepz=3", "stepz"),
        ("a=base+x:b,c", "the scales of"),
    ],
)
def test_a_wrong_model_is_refused(model, message):
    with pytest.raises(UserError, match=message):
        models.parse_models("shipped", [model])


def test_pictures_made_before_are_found_by_id_or_by_path(tmp_path, lines):
    (tmp_path / "made" / "1_change").mkdir(parents=True)
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "made" / "line0.png")
    Image.new("RGB", (16, 16), "green").save(tmp_path / "made" / "1_change" / "1.jpg")
    spec = models.parse_models(f"pictures:{tmp_path / 'made'}", [])[0]
    maker = models.make_maker(spec, None, "cpu", {})
    by_path = ValidationLine("z", picture_path="1_change/1.jpg")
    first, second = maker.make([lines[0], by_path])
    assert first.getpixel((0, 0)) == (0, 0, 255) and second.getpixel((0, 0))[1] > 100
    with pytest.raises(UserError, match=r"has none of line1.png, line1.jpg"):
        maker.make([lines[1]])


# The report and the votes --------------------------------------------------------------------------------------------


def test_the_report_says_everything_once_all_rows_are_there(run, lines, tmp_path, painters):
    options = ScoreOptions(classifier="painters.namer")
    run(tmp_path / "out", ["far=painters.far", "copy=base"], options=options)
    labelled = [{"file": line.photograph.name, "label": line.label} for line in lines]
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(each) + "\n" for each in labelled))
    results = merge.collect([tmp_path / "out"])
    with pytest.raises(UserError, match="name labelled pictures with --labelled"):
        write_outcome(results, tmp_path / "out", options, Extras(), {})
    extras = Extras(labelled=str(tmp_path / "labelled.jsonl"))
    table = write_outcome(results, tmp_path / "out", options, extras, {"n": 3})
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["classes"]["models"]["copy"]["verdict"] == "no difference"
    assert report["pictures"] == COUNT and report["same_pictures"] == ["copy"] and report["arguments"] == {"n": 3}
    assert report["verdict"][0] in table and Image.open(tmp_path / "out" / "sheet.png").width > 200


def test_a_class_that_no_labelled_picture_shows_is_named(run, lines, tmp_path, painters):
    options = ScoreOptions(classifier="painters.namer")
    run(tmp_path / "out", [], options=options)
    grey = [ValidationLine(**{**line.__dict__, "label": "grey"}) for line in lines[:1]]
    (tmp_path / "labelled.jsonl").write_text(
        "".join(json.dumps({"file": line.photograph.name, "label": line.label}) + "\n" for line in lines)
    )
    run(tmp_path / "grey", [], lines=[*grey, *lines[1:]], options=options)
    results = merge.collect([tmp_path / "grey"])
    with pytest.raises(UserError, match="class 'grey' is asked for by 1 lines, but no labelled picture shows it"):
        write_outcome(results, tmp_path / "grey", options, Extras(labelled=str(tmp_path / "labelled.jsonl")), {})


def test_the_page_for_votes_does_not_tell_the_model(run, lines, tmp_path):
    run(tmp_path / "out", ["secret=painters.far"])
    results = merge.collect([tmp_path / "out"])
    page = votes.write_page(results, lines, tmp_path / "out")
    folder = page.parent
    texts = [path.read_text() for path in (page, folder / "pairs.json")]
    assert not any("secret" in text or "line3" in text for text in texts) and "<3>" not in texts[0]
    assert not (folder / votes.KEY).exists() and "\\u003c3>" in texts[0]
    pictures = list((folder / "pictures").iterdir())
    assert len(pictures) == 3 * COUNT
    assert all(read_record(path) is None and not Image.open(path).text.get("record") for path in pictures)
    key = json.loads((tmp_path / "out" / votes.KEY).read_text())
    assert {entry["left"] for entry in key} == {"base", "secret"}
    shown = np.asarray(Image.open(folder / "pictures" / f"{key[0]['pair']}_left.png"))
    assert (shown == np.asarray(Image.open(results.picture(key[0]["left"], key[0]["id"])))).all()


def test_votes_are_counted_by_the_key(run, lines, tmp_path):
    run(tmp_path / "out", ["far=painters.far"])
    results = merge.collect([tmp_path / "out"])
    votes.write_page(results, lines, tmp_path / "out")
    key = json.loads((tmp_path / "out" / votes.KEY).read_text())
    ballot = []
    for index, entry in enumerate(key):
        side = "left" if entry["left"] == "far" else "right"
        other = {"left": "right", "right": "left"}[side]
        choice = "tie" if index == 0 else other if index < 3 else side  # 9 for the model, 2 for the base
        ballot.append({"pair": entry["pair"], "choice": choice, "rater": "ada"})
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(json.dumps(vote) + "\n" for vote in ballot))
    counted = votes.read_votes([file], tmp_path / "out" / votes.KEY, results)["far"]
    assert counted["share"] == pytest.approx((9 + 0.5) / 12) and counted["ties"] == 1 and counted["votes"] == 12
    assert "preferred to the base" in write_outcome(
        results, tmp_path / "out", ScoreOptions(), Extras(votes=[str(file)]), {}
    )
    with pytest.raises(UserError, match="'ada' voted on this pair before"):
        votes.read_votes([file, file], tmp_path / "out" / votes.KEY, results)
    file.write_text('{"pair": "0", "choice": "left"}\n')
    with pytest.raises(UserError, match="line 1: no vote on a pair"):
        votes.read_votes([file], tmp_path / "out" / votes.KEY, results)


def test_the_row_of_the_published_table_is_printed_where_all_its_metrics_were_measured(run, tmp_path):
    run(tmp_path / "out", ["far=painters.far"], scores=("pie-pixels",))
    results = merge.collect([tmp_path / "out"])
    assert "CLIP edited" not in summary.tables(results)
    known = pie_scores.STRUCTURE | pie_scores.PIXELS | pie_scores.LPIPS | pie_scores.CLIP
    rest = {key: 0.02 for key in pie_scores.PUBLISHED if key not in pie_scores.PIXELS}
    for rows in results.rows.values():
        for row in rows.values():
            row["scores"] |= rest
    plan = replace(results.plan, measures=known)
    table = summary.tables(replace(results, plan=plan))
    (row,) = [line for line in table.splitlines() if line.startswith("| far |") and len(line.split("|")) == 10]
    mse = np.mean(list(results.numbers("far", "mse_unedit_part").values()))
    assert row.split("|")[2].strip() == "20.00" and row.split("|")[5].strip() == f"{10000 * mse:.2f}"
