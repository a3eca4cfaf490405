import importlib.util
import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.evaluation.image_quality import (
    INCEPTION,
    LPIPS,
    EvaluationError,
    Networks,
    evaluate,
    fid,
    find_weights,
    inception_score,
    load_lpips,
    load_networks,
    psnr,
    ssim,
)
from ldm.evaluation.image_sets import Folder
from ldm.util.errors import UserError

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"


def door():
    spec = importlib.util.spec_from_file_location("evaluate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def paint(path, colour, size=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), tuple(int(c) for c in colour)).save(path)


def corners(folder, mean, spread):
    """Eight one-coloured images, at mean +- spread in every channel: the channels are independent."""
    for number, signs in enumerate(product((-1, 1), repeat=3)):
        paint(folder / f"{number}.png", np.array(mean) + np.array(signs) * spread)
    return Folder(folder, 32)


def mean_colour(images):
    """An identity feature extractor for one-coloured images; as logits, the same."""
    return images.double().mean((2, 3)), images.double().mean((2, 3))


def l1(first, second):
    return (first.double() - second.double()).abs().mean((1, 2, 3))


# --- numbers with a known answer --------------------------------------------------------------------------------------


def gaussian(covariance, mean, count=2000):
    """Features whose sample mean and covariance are exactly these."""
    points = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(0)).double()
    points -= points.mean(0)
    white = points @ torch.linalg.inv(torch.linalg.cholesky(points.T.cov())).T
    return white @ torch.linalg.cholesky(torch.tensor(covariance).double()).T + torch.tensor(mean).double()


def test_fid_of_two_gaussians_is_the_closed_form():
    s1, s2 = [[4.0, 1.0], [1.0, 2.0]], [[3.0, -1.0], [-1.0, 5.0]]  # they do not commute
    p = np.array(s1) @ np.array(s2)
    root_trace = math.sqrt(np.trace(p) + 2 * math.sqrt(np.linalg.det(p)))  # Tr sqrt(P) of any 2x2 P
    expected = (1 - 3) ** 2 + (2 - -1) ** 2 + (4 + 2) + (3 + 5) - 2 * root_trace
    assert fid(gaussian(s1, [1.0, 2.0]), gaussian(s2, [3.0, -1.0])) == pytest.approx(expected, rel=1e-9)


def test_fid_of_images_through_an_identity_extractor_is_the_closed_form(tmp_path):
    first = corners(tmp_path / "a", (100, 120, 90), (10, 20, 30))
    second = corners(tmp_path / "b", (110, 100, 120), (5, 40, 60))
    report = evaluate(first, second, ["fid"], Networks(inception=mean_colour), batch_size=3)
    # Diagonal covariances, spread^2 * 8 / 7: Tr(S1 + S2 - 2 sqrt(S1 S2)) is the squared difference of deviations.
    expected = 10**2 + 20**2 + 30**2 + (5**2 + 20**2 + 30**2) * 8 / 7
    assert report["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-9)
    assert (report["metrics"]["fid"]["samples"], report["metrics"]["fid"]["reference"]) == (8, 8)


def test_equal_folders_have_a_fid_of_zero(tmp_path):
    images = corners(tmp_path, (100, 120, 90), (10, 20, 30))
    report = evaluate(images, images, ["fid"], Networks(inception=mean_colour))
    assert report["metrics"]["fid"]["value"] == pytest.approx(0, abs=1e-9)


def test_the_inception_score_of_known_class_probabilities_is_the_closed_form():
    sure, unsure = math.log(0.9), math.log(0.1)
    logits = torch.tensor([[sure, unsure], [unsure, sure]]).repeat(50, 1)
    expected = math.exp(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))
    assert inception_score(logits, splits=1)["mean"] == pytest.approx(expected, rel=1e-6)
    assert inception_score(1000 * torch.eye(7).repeat(3, 1), splits=1)["mean"] == pytest.approx(7, rel=1e-6)
    assert inception_score(torch.randn(1, 7).expand(20, 7)) == pytest.approx({"mean": 1, "std": 0}, abs=1e-6)


def test_psnr_is_twenty_log_of_255_over_the_error():
    black, offset = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([5, 51], dtype=torch.uint8)
    expected = [20 * math.log10(255 / 5), 20 * math.log10(255 / 51)]
    assert psnr(black, black + offset[:, None, None, None]).tolist() == pytest.approx(expected, rel=1e-5)


def test_ssim_of_flat_images_is_its_luminance_term_and_of_equal_ones_is_one():
    x, y = 60 / 255, 180 / 255
    flat = torch.full((1, 3, 32, 32), 60, dtype=torch.uint8)
    expected = (2 * x * y + 0.01**2) / (x**2 + y**2 + 0.01**2)
    assert ssim(flat, 3 * flat).item() == pytest.approx(expected, rel=1e-3)
    noise = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert ssim(noise, noise).item() == pytest.approx(1, abs=1e-5)


def test_paired_numbers_are_means_over_pairs_and_infinities_are_left_out_aloud(tmp_path):
    for name, grey in (("a", 0), ("b", 51), ("c", 5)):
        paint(tmp_path / f"s/{name}.png", [grey] * 3)
        paint(tmp_path / f"r/{name}.png", [0] * 3)
    samples, reference = Folder(tmp_path / "s", 32), Folder(tmp_path / "r", 32)
    report = evaluate(samples, reference, ["psnr", "lpips"], Networks(distance=l1), batch_size=2)
    low, high = 20 * math.log10(5), 20 * math.log10(51)
    found = report["metrics"]["psnr"]
    assert (found["mean"], found["std"]) == pytest.approx(((low + high) / 2, (high - low) / 2), rel=1e-5)
    assert found["pairs"] == 3 and any("1 pairs of equal images" in remark for remark in report["remarks"])
    assert report["metrics"]["lpips"]["mean"] == pytest.approx(56 / 3)

    report = evaluate(reference, reference, ["psnr"])
    assert report["metrics"]["psnr"]["mean"] is None


def test_diversity_is_the_mean_over_graphs_of_the_mean_over_their_pairs(tmp_path):
    for name, grey in (("x/1", 0), ("x/2", 10), ("x/3", 40), ("y/1", 7), ("y/2", 7), ("z/1", 200)):
        paint(tmp_path / f"{name}.png", [grey] * 3)
    report = evaluate(Folder(tmp_path, 32), None, ["diversity"], Networks(distance=l1), batch_size=2)
    mean = (10 + 40 + 30) / 3
    found = report["metrics"]["diversity"]
    assert (found["mean"], found["std"]) == pytest.approx((mean / 2, mean / 2))
    assert (found["graphs"], found["pairs"]) == (2, 4)


# --- too little, or not there -----------------------------------------------------------------------------------------


class Unread(Folder):
    def __getitem__(self, index):
        raise AssertionError("an image was read before the complaint")


@pytest.mark.parametrize(
    "metric, count, says",
    [("fid", 1, "needs two of each"), ("is", 9, "give 10 at least"), ("diversity", 5, "no graph has two samples")],
)
def test_too_few_images_are_said_before_any_is_read(tmp_path, metric, count, says):
    for number in range(count):
        paint(tmp_path / f"{number}.png", (0, 0, 0))
    images = Unread(tmp_path, 32)
    with pytest.raises(EvaluationError, match=says):
        evaluate(images, images, [metric], Networks(mean_colour, l1))


def test_fewer_images_than_features_are_remarked_on(tmp_path):
    images = corners(tmp_path, (100, 120, 90), (10, 20, 30))
    report = evaluate(images, images, ["fid"], Networks(inception=mean_colour))
    assert any("8 samples and 8 reference images" in remark for remark in report["remarks"])


def test_n_takes_the_first_reference_images_for_fid_and_partners_from_all(tmp_path):
    for number in range(6):
        paint(tmp_path / f"r/{number}.png", (number, 0, 0))
    for number in (4, 5):
        paint(tmp_path / f"s/{number}.png", (number, 10, 0))
    samples, reference = Folder(tmp_path / "s", 32, n=2), Folder(tmp_path / "r", 32)
    report = evaluate(samples, reference, ["fid", "lpips"], Networks(mean_colour, l1), n=2)
    assert report["metrics"]["fid"]["reference"] == 2
    assert report["metrics"]["lpips"]["mean"] == pytest.approx(10 / 3)


def test_a_number_that_compares_needs_something_to_compare_with(tmp_path):
    with pytest.raises(EvaluationError, match="--reference or --config"):
        evaluate(corners(tmp_path, (100, 100, 100), (1, 1, 1)), None, ["is", "psnr"])


# --- weights ----------------------------------------------------------------------------------------------------------


def alexnet_weights(path):
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.alexnet(weights=None)
    torch.save(model.state_dict(), path)
    return model


def test_missing_weights_are_named_with_their_address_and_folder(tmp_path):
    with pytest.raises(EvaluationError) as caught:
        find_weights(["fid", "is", "lpips"], tmp_path)
    for part in (INCEPTION.file, INCEPTION.url, LPIPS["alex"].file, LPIPS["alex"].url, str(tmp_path), "fid and is"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert find_weights(["psnr", "ssim"], tmp_path) == {}


def test_the_inception_weights_are_found_under_either_published_name(tmp_path):
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    path.touch()
    assert find_weights(["fid"], tmp_path) == {INCEPTION: path}


def test_lpips_is_filled_with_torchvisions_weights(tmp_path):
    published = alexnet_weights(tmp_path / "a.pth")
    model = load_lpips(tmp_path / "a.pth", "alex")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.net(x).relu5, published.features[:12](x))


def test_weights_that_are_not_the_published_ones_are_remarked_on(tmp_path):
    path = tmp_path / LPIPS["alex"].file
    alexnet_weights(path)
    networks = load_networks({LPIPS["alex"]: path})
    assert "not the published alexnet-owt-7be5be79.pth" in networks.remarks[0]
    assert len(networks.protocol["lpips"]["sha256"]) == 64


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("network", [INCEPTION, LPIPS["alex"]])
def test_a_weights_file_is_not_run(tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": torch.zeros(1), "payload": Payload()}, tmp_path / network.file)
    with pytest.raises(UserError):
        load_networks(find_weights([network.metrics[0]], tmp_path))
    assert not Path("ran").exists()


# --- the door ---------------------------------------------------------------------------------------------------------


def test_the_door_writes_a_report_with_the_protocol_of_every_number(tmp_path, capsys):
    from torch_fidelity import FeatureExtractorInceptionV3  # its own weights, at random

    corners(tmp_path / "s", (100, 120, 90), (10, 20, 30))
    for number in range(8, 12):
        paint(tmp_path / f"s/{number}.png", (number, 100, 200))
    alexnet_weights(tmp_path / LPIPS["alex"].file)
    torch.save(random_inception(FeatureExtractorInceptionV3), tmp_path / INCEPTION.file)
    command = f"images --samples {tmp_path}/s --reference {tmp_path}/s --paired --size 32 --workers 0 --device cpu"
    assert door().main([*command.split(), "--weights", str(tmp_path)]) == 0

    report = json.loads((tmp_path / "s" / "report.json").read_text())
    assert list(report["metrics"]) == ["fid", "is", "psnr", "ssim", "lpips"]
    assert report["metrics"]["fid"]["value"] == pytest.approx(0, abs=1e-2)
    assert report["metrics"]["lpips"]["mean"] == pytest.approx(0, abs=1e-6)
    assert report["networks"]["inception"]["package"].startswith("torch-fidelity ")
    assert report["samples"]["images"] == report["reference"]["images"] == 12
    assert "32x32" in report["resizing"] and "bilinear" in report["resizing"]
    assert report["arguments"]["size"] == 32 and "torch" in report["versions"]
    assert "fid" in capsys.readouterr().out


def random_inception(extractor, monkeypatch=pytest.MonkeyPatch):
    """The names and shapes of torch-fidelity's network, with random values."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        patch.setattr(torch, "load", lambda *_, **__: None)
        return extractor("random", ["2048"], feature_extractor_weights_path="none").state_dict()


def test_the_door_answers_a_mistake_with_one_sentence_and_two(tmp_path, capsys):
    corners(tmp_path / "s", (100, 120, 90), (10, 20, 30))
    images = ["images", "--samples", f"{tmp_path}/s", "--weights", str(tmp_path)]
    for more, says in (
        (["--reference", str(tmp_path / "r")], INCEPTION.url),
        (["--metrics", "psnr,sim"], "did you mean 'ssim'"),
        (["--metrics", "psnr"], "--reference or --config"),
        (["--metrics", "psnr", "--reference", str(tmp_path / "r")], "no such folder"),
        (["--metrics", "psnr", "--device", "cuda:77"], "--device cuda:77"),
        (["--metrics", "psnr", "--out", str(tmp_path / "s")], f"--out {tmp_path}/s"),
    ):
        assert door().main([*images, *more]) == 2
        complaint = capsys.readouterr().err
        assert says in complaint and complaint.count("\n") == 1


def test_psnr_and_ssim_need_no_weights(tmp_path):
    corners(tmp_path / "s", (100, 120, 90), (10, 20, 30))
    corners(tmp_path / "r", (90, 110, 80), (10, 20, 30))
    command = f"images --samples {tmp_path}/s --reference {tmp_path}/r --metrics psnr,ssim --workers 0"
    assert door().main([*command.split(), "--weights", str(tmp_path), "--out", str(tmp_path / "new/out.json")]) == 0
    report = json.loads((tmp_path / "new/out.json").read_text())
    assert report["metrics"]["psnr"]["mean"] == pytest.approx(20 * math.log10(255 / 10), rel=1e-5)
    assert report["networks"] == {}
