import math
from itertools import product

import numpy as np
import pytest
import torch
from image_files import save_image

from ldm.evaluation.image_quality import evaluate, fid, inception_score, psnr, ssim
from ldm.evaluation.image_sets import Folder
from ldm.evaluation.metric_networks import EvaluationError, Networks


def save_corners(folder, mean, spread):
    """Eight images of one colour each, at mean +- spread in each channel, so that the channels are independent."""
    for number, signs in enumerate(product((-1, 1), repeat=3)):
        save_image(folder / f"{number}.png", np.array(mean) + np.array(signs) * spread)
    return Folder(folder, 32)


def mean_colour(images):
    """A feature extractor for images of one colour: the colour, as features and as logits."""
    return images.double().mean((2, 3)), images.double().mean((2, 3))


def l1(first, second):
    return (first.double() - second.double()).abs().mean((1, 2, 3))


# --- closed-form values --------------------------------------------------------------------------------------


def gaussian(covariance, mean, count=2000):
    """Features with exactly this sample mean and covariance."""
    points = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(0)).double()
    points -= points.mean(0)
    white = points @ torch.linalg.inv(torch.linalg.cholesky(points.T.cov())).T
    return white @ torch.linalg.cholesky(torch.tensor(covariance).double()).T + torch.tensor(mean).double()


def test_fid_of_two_gaussians_is_their_frechet_distance():
    s1, s2 = [[4.0, 1.0], [1.0, 2.0]], [[3.0, -1.0], [-1.0, 5.0]]  # they do not commute
    p = np.array(s1) @ np.array(s2)
    root_trace = math.sqrt(np.trace(p) + 2 * math.sqrt(np.linalg.det(p)))  # Tr sqrt(P) of any 2x2 P
    expected = (1 - 3) ** 2 + (2 - -1) ** 2 + (4 + 2) + (3 + 5) - 2 * root_trace
    assert fid(gaussian(s1, [1.0, 2.0]), gaussian(s2, [3.0, -1.0])) == pytest.approx(expected, rel=1e-9)


def test_fid_of_images_is_the_frechet_distance_of_their_features(tmp_path):
    first = save_corners(tmp_path / "a", (100, 120, 90), (10, 20, 30))
    second = save_corners(tmp_path / "b", (110, 100, 120), (5, 40, 60))
    report = evaluate(first, second, ["fid"], Networks(inception=mean_colour), batch_size=3)
    # Diagonal covariances, spread^2 * 8 / 7: Tr(S1 + S2 - 2 sqrt(S1 S2)) is the squared difference of deviations.
    expected = 10**2 + 20**2 + 30**2 + (5**2 + 20**2 + 30**2) * 8 / 7
    assert report["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-9)
    assert (report["metrics"]["fid"]["samples"], report["metrics"]["fid"]["reference"]) == (8, 8)


def test_equal_folders_have_a_fid_of_zero(tmp_path):
    images = save_corners(tmp_path, (100, 120, 90), (10, 20, 30))
    report = evaluate(images, images, ["fid"], Networks(inception=mean_colour))
    assert report["metrics"]["fid"]["value"] == pytest.approx(0, abs=1e-9)


def test_the_inception_score_of_known_class_probabilities_is_exact():
    sure, unsure = math.log(0.9), math.log(0.1)
    logits = torch.tensor([[sure, unsure], [unsure, sure]]).repeat(50, 1)
    expected = math.exp(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5))
    assert inception_score(logits, splits=1)["mean"] == pytest.approx(expected, rel=1e-6)
    assert inception_score(1000 * torch.eye(7).repeat(3, 1), splits=1)["mean"] == pytest.approx(7, rel=1e-6)
    assert inception_score(torch.randn(1, 7).expand(20, 7)) == pytest.approx({"mean": 1, "std": 0}, abs=1e-6)


def test_psnr_of_a_constant_error_is_twenty_log_of_255_over_the_error():
    black, offset = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([5, 51], dtype=torch.uint8)
    expected = [20 * math.log10(255 / 5), 20 * math.log10(255 / 51)]
    assert psnr(black, black + offset[:, None, None, None]).tolist() == pytest.approx(expected, rel=1e-5)


def test_ssim_is_the_luminance_term_for_flat_images_and_one_for_equal_images():
    x, y = 60 / 255, 180 / 255
    flat = torch.full((1, 3, 32, 32), 60, dtype=torch.uint8)
    expected = (2 * x * y + 0.01**2) / (x**2 + y**2 + 0.01**2)
    assert ssim(flat, 3 * flat).item() == pytest.approx(expected, rel=1e-3)
    noise = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert ssim(noise, noise).item() == pytest.approx(1, abs=1e-5)


def test_paired_metrics_are_means_over_pairs_and_leave_out_infinities_with_a_remark(tmp_path):
    for name, grey in (("a", 0), ("b", 51), ("c", 5)):
        save_image(tmp_path / f"s/{name}.png", [grey] * 3)
        save_image(tmp_path / f"r/{name}.png", [0] * 3)
    samples, reference = Folder(tmp_path / "s", 32), Folder(tmp_path / "r", 32)
    report = evaluate(samples, reference, ["psnr", "lpips"], Networks(distance=l1), batch_size=2)
    low, high = 20 * math.log10(5), 20 * math.log10(51)
    found = report["metrics"]["psnr"]
    assert (found["mean"], found["std"]) == pytest.approx(((low + high) / 2, (high - low) / 2), rel=1e-5)
    assert found["pairs"] == 3 and any("1 pairs" in remark for remark in report["remarks"])
    assert report["metrics"]["lpips"]["mean"] == pytest.approx(56 / 3)

    report = evaluate(reference, reference, ["psnr"])
    assert report["metrics"]["psnr"]["mean"] is None


def test_diversity_is_the_mean_over_graphs_of_the_mean_over_their_pairs(tmp_path):
    for name, grey in (("x/1", 0), ("x/2", 10), ("x/3", 40), ("y/1", 7), ("y/2", 7), ("z/1", 200)):
        save_image(tmp_path / f"{name}.png", [grey] * 3)
    report = evaluate(Folder(tmp_path, 32), None, ["diversity"], Networks(distance=l1), batch_size=2)
    mean = (10 + 40 + 30) / 3
    found = report["metrics"]["diversity"]
    assert (found["mean"], found["std"]) == pytest.approx((mean / 2, mean / 2))
    assert (found["graphs"], found["pairs"]) == (2, 4)


# --- missing images -----------------------------------------------------------------------------------------


class UnreadableFolder(Folder):
    def __getitem__(self, index):
        raise AssertionError("an image was read")


@pytest.mark.parametrize(
    "metric, count, word",
    [("fid", 1, "covariance"), ("is", 9, "10"), ("diversity", 5, "graph")],
)
def test_too_few_images_are_refused_before_any_is_read(tmp_path, metric, count, word):
    for number in range(count):
        save_image(tmp_path / f"{number}.png", (0, 0, 0))
    images = UnreadableFolder(tmp_path, 32)
    with pytest.raises(EvaluationError, match=word):
        evaluate(images, images, [metric], Networks(mean_colour, l1))


def test_a_fid_of_fewer_images_than_features_has_a_remark(tmp_path):
    images = save_corners(tmp_path, (100, 120, 90), (10, 20, 30))
    report = evaluate(images, images, ["fid"], Networks(inception=mean_colour))
    assert any("8 samples and 8 reference images" in remark for remark in report["remarks"])


def test_n_limits_the_reference_images_of_fid_but_not_those_of_paired_metrics(tmp_path):
    for number in range(6):
        save_image(tmp_path / f"r/{number}.png", (number, 0, 0))
    for number in (4, 5):
        save_image(tmp_path / f"s/{number}.png", (number, 10, 0))
    samples, reference = Folder(tmp_path / "s", 32, n=2), Folder(tmp_path / "r", 32)
    report = evaluate(samples, reference, ["fid", "lpips"], Networks(mean_colour, l1), n=2)
    assert report["metrics"]["fid"]["reference"] == 2
    assert report["metrics"]["lpips"]["mean"] == pytest.approx(10 / 3)


def test_a_metric_that_compares_needs_a_reference(tmp_path):
    with pytest.raises(EvaluationError, match="--reference"):
        evaluate(save_corners(tmp_path, (100, 100, 100), (1, 1, 1)), None, ["is", "psnr"])
