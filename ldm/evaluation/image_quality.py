"""Image quality metrics with published protocols: FID, Inception Score, PSNR, SSIM, LPIPS and diversity.

The computations are those of published packages: torch-fidelity (FID, Inception Score) and lpips;
PSNR and SSIM are the project's own, which agree with torchmetrics and scikit-image.
Their networks are in `ldm.evaluation.metric_networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from ldm.evaluation.image_sets import Folder, Pairs, Split, match, pairs_by_graph
from ldm.evaluation.metric_networks import CLASSES, FEATURES, NO_NETWORKS, EvaluationError, Networks
from ldm.util.image_similarity import psnr, ssim

PAIRED = ("psnr", "ssim", "lpips")
SPLITS = 10  # parts of the samples, for the Inception Score

# Definitions for the report.
METRICS = {
    "fid": f"torch-fidelity, {FEATURES} features of Inception v3's last pooling",
    "is": f"torch-fidelity, logits without bias, {SPLITS} parts of the shuffled samples",
    "psnr": "dB of a peak of 255, over all channels; mean and standard deviation over pairs",
    "ssim": "as torchmetrics, Gaussian window, sigma 1.5, mean over RGB, reflected edges; mean and standard deviation over pairs",
    "lpips": "lpips, mean and standard deviation over pairs",
    "diversity": "lpips, mean over all pairs of a graph's samples; mean and standard deviation over graphs",
}


# Metrics -------------------------------------------------------------------------------------------------------------


def fid(first: Tensor, second: Tensor) -> float:
    """Frechet distance |mu1 - mu2|^2 + Tr(S1 + S2 - 2 sqrt(S1 S2)) of two sets of features (Heusel et al. 1706.08500).

    Args:
        first, second: (N,D) and (M,D).
    """
    from torch_fidelity import metric_fid

    moments = [metric_fid.fid_features_to_statistics(features.double()) for features in (first, second)]
    return metric_fid.fid_statistics_to_metric(*moments, verbose=False)[metric_fid.KEY_METRIC_FID]


def inception_score(logits: Tensor, splits: int = SPLITS) -> dict[str, float]:
    """exp(E KL(p(y|x) || p(y))), its mean and standard deviation over parts (Salimans et al. 1606.03498).

    Args:
        logits: (N,classes).
        splits: parts of the samples, which are shuffled by the package's own seed.
    """
    from torch_fidelity import metric_isc

    score = metric_isc.isc_features_to_metric(logits, splits)
    return {"mean": score[metric_isc.KEY_METRIC_ISC_MEAN], "std": score[metric_isc.KEY_METRIC_ISC_STD]}


# The report ----------------------------------------------------------------------------------------------------------


def default_metrics(samples: Folder, paired: bool) -> list[str]:
    """The metrics that suit a folder of samples."""
    return ["fid", "is", *(PAIRED if paired else ()), *(["diversity"] if pairs_by_graph(samples) else ())]


def evaluate(
    samples: Folder,
    reference: Folder | Split | None,
    metrics: Collection[str],
    networks: Networks = NO_NETWORKS,
    n: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "cpu",
) -> dict:
    """Computes metrics of samples.

    Args:
        reference: real images; may be None for metrics that need none ('is', 'diversity').
        metrics: keys of `METRICS`.
        n: FID uses the first n real images; paired metrics look for partners among all of them.
        workers: processes that load images.

    Returns:
        The report, of JSON values: each number with its protocol, the networks, both sets, and remarks on pitfalls.

    Raises:
        EvaluationError, ImageSetError: something is missing or there are too few images; before any image is read.
    """
    compared = [metric for metric in metrics if metric in ("fid", *PAIRED)]
    if compared and reference is None:
        raise EvaluationError(f"{', '.join(compared)}: nothing to compare with; give --reference or --config")
    partners = real = None
    if reference is not None:
        partners = Pairs(samples, reference, match(samples, reference)) if set(PAIRED) & set(metrics) else None
        real = Subset(reference, range(len(reference))[:n]) if "fid" in metrics else None
    siblings = pairs_by_graph(samples) if "diversity" in metrics else []
    remarks = [*networks.remarks, *_size_remarks(metrics, len(samples), len(real or ()), len(siblings))]

    read: Reader = partial(_batches, batch_size=batch_size, workers=workers, device=device)
    numbers: dict[str, dict] = {}
    if {"fid", "is"} & set(metrics):
        numbers |= _distribution_metrics(metrics, samples, real, networks, read)
    if partners:
        numbers |= _paired_metrics(metrics, partners, networks, read)
        if equal := numbers.get("psnr", {}).pop("infinite", 0):
            remarks.append(f"psnr: infinite for {equal} pairs of equal images, which its mean leaves out")
    if siblings:
        numbers["diversity"] = _diversity(samples, siblings, networks, read)
    return {
        "metrics": {name: {**numbers[name], "protocol": METRICS[name]} for name in metrics},
        "networks": networks.protocol,
        "samples": {"source": str(samples), "images": len(samples)},
        "reference": {"source": str(reference), "images": len(reference)} if compared and reference else None,
        "resizing": f"to {samples.size}x{samples.size} whatever the shape, bilinear with antialiasing (Pillow); "
        "files rotated upright according to their EXIF data",
        "device": device,
        "remarks": remarks,
    }


def _size_remarks(metrics: Collection[str], samples: int, real: int, graphs: int) -> Iterator[str]:
    """Remarks on metrics that mean little for so few images; EvaluationError for those that do not exist."""
    if "fid" in metrics:
        if min(samples, real) < 2:
            raise EvaluationError(
                f"fid: {samples} samples and {real} reference images; a covariance needs at least two of each"
            )
        if min(samples, real) <= FEATURES:
            yield (
                f"fid: the covariance of {FEATURES} features is singular for {samples} samples and {real} reference images; "
                "the distance is biased upwards and comparable only between sets of the same sizes"
            )
    if "is" in metrics:
        if samples < SPLITS:
            raise EvaluationError(f"is: {samples} samples cannot be split into {SPLITS} parts; give at least {SPLITS}")
        if samples < SPLITS * CLASSES:
            yield f"is: with {samples} samples in {SPLITS} parts it cannot exceed {-(-samples // SPLITS)}"
    if "diversity" in metrics and not graphs:
        raise EvaluationError(
            "diversity: no graph has two samples; index.jsonl, or one subfolder per graph, tells which graph a sample shows"
        )


# Computation ---------------------------------------------------------------------------------------------------------

ImageSet = Folder | Split | Pairs | Subset
Reader = Callable[[ImageSet, str], Iterator]  # images and their description -> batches


def _distribution_metrics(
    metrics: Collection[str], samples: Folder, real: Subset | None, networks: Networks, read: Reader
) -> dict[str, dict]:
    numbers = {}
    features, logits = _outputs(networks.inception, read(samples, "samples"))
    if real is not None:
        others, _ = _outputs(networks.inception, read(real, "reference"))
        numbers["fid"] = {"value": fid(features, others), "samples": len(features), "reference": len(others)}
    if "is" in metrics:
        numbers["is"] = {**inception_score(logits), "samples": len(logits)}
    return numbers


def _paired_metrics(metrics: Collection[str], pairs: Pairs, networks: Networks, read: Reader) -> dict[str, dict]:
    measures = {"psnr": psnr, "ssim": partial(ssim, border="reflect"), "lpips": networks.distance}
    scores = _compare({name: measures[name] for name in PAIRED if name in metrics}, read(pairs, "pairs"))
    numbers = {name: {**_mean_and_std(values), "pairs": len(pairs)} for name, values in scores.items()}
    if "psnr" in scores:
        numbers["psnr"]["infinite"] = int(scores["psnr"].isinf().sum())
    return numbers


def _diversity(
    samples: Folder, siblings: Sequence[Sequence[tuple[int, int]]], networks: Networks, read: Reader
) -> dict:
    pairs = Pairs(samples, samples, list(chain.from_iterable(siblings)))
    scores = _compare({"lpips": networks.distance}, read(pairs, "diversity"))["lpips"]
    by_graph = torch.stack([of_graph.mean() for of_graph in scores.split([len(group) for group in siblings])])
    return {**_mean_and_std(by_graph), "graphs": len(siblings), "pairs": len(pairs)}


def _batches(images: ImageSet, description: str, batch_size: int, workers: int, device: str) -> Iterator:
    """Batches on the device (of pairs, lists of two batches), behind a progress bar."""
    with tqdm(total=len(images), desc=description, unit="image", leave=False) as bar:
        for batch in DataLoader(images, batch_size, num_workers=workers):
            sides = [side.to(device) for side in (batch if isinstance(batch, list) else [batch])]
            yield sides if isinstance(batch, list) else sides[0]
            bar.update(len(sides[0]))


@torch.no_grad()
def _outputs(network: Callable[[Tensor], tuple[Tensor, ...]], images: Iterable[Tensor]) -> list[Tensor]:
    """Each output (B,D) of the network over all batches, as (N,D) on the CPU."""
    return [torch.cat(parts) for parts in zip(*([output.cpu() for output in network(batch)] for batch in images))]


@torch.no_grad()
def _compare(measures: dict[str, Callable[[Tensor, Tensor], Tensor]], pairs: Iterable) -> dict[str, Tensor]:
    """Each measure over all batches of pairs, as (N,) on the CPU."""
    scores = [[measure(*sides).double().cpu() for measure in measures.values()] for sides in pairs]
    return {name: torch.cat(parts) for name, parts in zip(measures, zip(*scores))}


def _mean_and_std(scores: Tensor) -> dict[str, float | None]:
    """Over the finite scores; None if there are none, since JSON has no infinity."""
    finite = scores[scores.isfinite()]
    return {
        "mean": finite.mean().item() if len(finite) else None,
        "std": finite.std(correction=0).item() if len(finite) else None,
    }
