"""The classifier of crops and the verdict that it gives on edited photographs."""

import pytest
import torch
from photograph_files import COLOURS, SHOWN, picture, write_photographs
from safetensors.torch import save_file

from ldm.evaluation.edit_benchmark import measure
from ldm.evaluation.edit_judges import WorldJudge
from ldm.evaluation.edit_report import summarise
from ldm.evaluation.editors import EditResult
from ldm.evaluation.photographs.annotations import PhotographError, PhotographSplit
from ldm.evaluation.photographs.classifier import CropClassifier, load_classifier, save_classifier
from ldm.evaluation.photographs.crops import CROP, NOTHING, crop_around, overlap, read_crops
from ldm.evaluation.photographs.judge import CropJudge
from ldm.evaluation.photographs.tasks import OPERATIONS, PhotographTasks
from ldm.evaluation.photographs.training import TrainingOptions, confusion, train
from ldm.util.errors import UserError


class ByColour(CropJudge):
    """Judges by the colour in the middle of a box, without a network."""

    class Names:
        def name(self, image, box):
            pixel = image.getpixel((round(32 * (box[0] + box[2])), round(32 * (box[1] + box[3]))))
            near = [name for name, colour in COLOURS.items() if max(abs(a - b) for a, b in zip(pixel, colour)) < 30]
            return near[0] if near else NOTHING

    classifier = Names()


@pytest.fixture
def tasks(tmp_path):
    return PhotographTasks(str(write_photographs(tmp_path)))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_true_answer_passes_and_the_source_does_not(tasks, operation):
    judge, task = ByColour(None), tasks.task(operation, 0)
    row, complaints, _ = judge.judge(task, task.truth)
    assert row["success"] and row["changed"] and row["intact"] and not complaints
    row, complaints, _ = judge.judge(task, task.picture)
    assert not row["success"] and not row["changed"] and row["intact"] and complaints


def test_a_thing_that_stays_and_is_lost_is_a_fault(tasks):
    task = tasks.task("add", 0)
    row, complaints, _ = ByColour(None).judge(task, picture([("Bolt", SHOWN[1][1][1])], 1))
    assert (
        row["changed"]
        and not row["intact"]
        and not row["success"]
        and (row["untouched"], row["of_untouched"]) == (0, 1)
    )
    assert complaints == ["the Rock is read as nothing"]


def test_a_thing_that_is_moved_and_still_at_its_old_place_is_a_fault(tasks):
    task = tasks.task("move", 0)
    row, complaints, _ = ByColour(None).judge(task, picture([*SHOWN[1], SHOWN[3][1]], 1))
    assert not row["changed"] and complaints == ["where the Bolt was, it is read"]


class Confused(ByColour):
    """Takes every Rock for a Hammer, and every Bolt for nothing."""

    class Names:
        def name(self, image, box):
            return {"Rock": "Hammer", "Bolt": NOTHING}.get(found := ByColour.Names().name(image, box), found)

    classifier = Names()


def test_a_thing_that_stays_may_be_misread_as_before_and_a_new_one_may_not(tasks):
    judge, task = Confused(None), tasks.task("replace", 0)
    assert judge.judge(task, task.truth).row["success"]  # the Rock is read as before
    row, complaints, _ = judge.judge(tasks.task("add", 0), task.picture)
    assert row["intact"] and not row["changed"] and complaints == ["the Bolt is read as nothing"]


def test_a_moved_thing_that_is_not_seen_is_a_fault_though_it_was_not_seen_before(tasks):
    task = tasks.task("move", 0)
    assert not Confused(None).judge(task, task.truth).row["changed"]


def test_the_rows_of_photographs_have_no_share_of_whole_graphs(tasks):
    judge = ByColour(None)
    jobs = [("answer", operation, "0", 0) for operation in OPERATIONS]
    rows = [measure(tasks.task(job[1], 0), lambda task: EditResult(task.truth, 0), judge=judge)[0] for job in jobs]
    summary = summarise(jobs, rows)[-1]
    assert (summary["success"], summary["graph"], summary["shadow"], summary["psnr"]) == (1, None, None, 99)


def test_a_judge_is_by_default_the_checker_of_the_world():
    assert WorldJudge("shapes").judges_shadows and WorldJudge("shapes").identity() is None


# Crops ----------------------------------------------------------------------------------------------------------------


def test_a_crop_shows_the_box_in_its_middle_and_its_surroundings():
    crop = crop_around(picture([("Bolt", (24, 24, 16, 16))], 0), (24 / 64, 24 / 64, 40 / 64, 40 / 64))
    red = (crop[0].float() - crop[1]) > 80
    rows, columns = red.any(1).nonzero().flatten(), red.any(0).nonzero().flatten()
    assert crop.shape == (3, CROP, CROP)
    for edges in (rows, columns):  # 16 of 25.6 pixels
        assert edges.min() == pytest.approx(12, abs=1.5) and edges.max() == pytest.approx(51, abs=1.5)


def test_crops_at_the_edge_are_mirrored():
    crop = crop_around(picture([("Bolt", (0, 0, 8, 8))], 0), (0, 0, 8 / 64, 8 / 64))
    red = ((crop[0].float() - crop[1]) > 80).float()
    assert red[1:50, 1:50].all() and not red[54:, 54:].any()  # 12.8 pixels, of which 2.4 lie beyond the edge


def test_crops_are_of_unaltered_photographs_and_bare_ground_alone(tmp_path):
    crops = read_crops(PhotographSplit(write_photographs(tmp_path, real=12), "val"))
    assert crops.classes == ("Bolt", "Hammer", "Rock", NOTHING)
    counts = torch.bincount(crops.labels).tolist()
    assert counts[:3] == [4, 4, 5] and counts[3] >= 8  # the Rock of the first scene, but none of its compositions
    bare = crops.pixels[crops.labels == 3].float()
    assert (bare.amax((1, 2, 3)) - bare.amin((1, 2, 3))).max() < 70  # noise, no colour


def test_things_of_unknown_classes_are_an_error(tmp_path):
    split = PhotographSplit(write_photographs(tmp_path, real=3), "val")
    with pytest.raises(PhotographError, match="'Hammer' is unknown to the classifier"):
        read_crops(split, classes=("Bolt", "Rock", NOTHING))


@pytest.mark.parametrize("other, share", [((0.5, 0, 1.5, 1), 0.5), ((2, 2, 3, 3), 0), ((0.25, 0.25, 0.75, 0.75), 0.25)])
def test_the_overlap_is_a_share_of_the_first_box(other, share):
    assert overlap((0, 0, 1, 1), other) == pytest.approx(share)


# The classifier -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_classifier_learns_from_one_split_what_another_shows(tmp_path):
    for split in ("train", "val"):
        write_photographs(tmp_path, split, real=24)
    crops = read_crops(PhotographSplit(tmp_path, "train"))
    losses = []
    options = TrainingOptions(epochs=12, batch=16)
    classifier = train(crops, options, tmp_path / "c.state", lambda epoch, loss: losses.append(loss))
    assert losses[-1] < 0.7 * losses[0]
    save_classifier(classifier, tmp_path / "c.safetensors")
    loaded = load_classifier(tmp_path / "c.safetensors")
    counts = confusion(loaded, read_crops(PhotographSplit(tmp_path, "val"), classes=loaded.classes))
    assert counts.diagonal().sum() >= 0.85 * counts.sum()
    judge = CropJudge(str(tmp_path / "c.safetensors"))
    task = PhotographTasks(str(tmp_path)).task("add", 0)
    assert len(judge.identity()) == 16 and isinstance(judge.judge(task, task.truth).row["success"], bool)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    crops = read_crops(PhotographSplit(write_photographs(tmp_path, real=6), "val"))
    options = TrainingOptions(epochs=3, batch=8)
    torch.manual_seed(5)
    train(crops, options, tmp_path / "whole.state")

    def stop(epoch, loss):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(crops, options, tmp_path / "c.state", stop)
    epochs = []
    train(crops, options, tmp_path / "c.state", lambda epoch, loss: epochs.append(epoch))
    assert epochs == [3]
    with pytest.raises(UserError, match="other crops or options"):
        train(crops, TrainingOptions(epochs=4, batch=8), tmp_path / "c.state")
    (tmp_path / "c.state").write_bytes(b"x")
    with pytest.raises(UserError, match="damaged"):
        train(crops, options, tmp_path / "c.state")


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_file_that_holds_no_classifier_is_an_error_of_one_sentence(tmp_path, content):
    path = tmp_path / "c.safetensors"
    if content is None:
        save_file({"x": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="holds no classifier of crops") as error:
        load_classifier(path)
    assert "\n" not in str(error.value)


def test_the_answer_does_not_depend_on_mirroring():
    torch.manual_seed(0)
    classifier = CropClassifier(("a", "b", NOTHING)).eval()
    crops = torch.randint(0, 256, (2, 3, CROP, CROP), dtype=torch.uint8)
    for axes in ((-1,), (-2,), (-1, -2)):
        assert torch.allclose(classifier.probabilities(crops), classifier.probabilities(crops.flip(axes)), atol=1e-5)
