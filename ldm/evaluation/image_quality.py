"""How good generated images are, in the numbers that the field compares by, each with its protocol.

The arithmetic is that of published packages: torch-fidelity (FID, Inception Score), lpips, torchmetrics (PSNR, SSIM).
Their networks get their weights from disk here: nothing is downloaded, and nothing that a weights file says is run.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from tqdm import tqdm

from ldm.checkpoints.loading import read_state_dict
from ldm.evaluation.image_sets import Folder, Pairs, Split, match, of_one_graph
from ldm.util.errors import UserError

PAIRED = ("psnr", "ssim", "lpips")
SPLITS = 10  # of the samples, for the Inception Score
WIDTH = 2048  # of Inception v3's last pooling, the features of FID
CLASSES = 1008  # of its logits

# What a reader needs to know to compare a number; the report says it beside each.
METRICS = {
    "fid": f"torch-fidelity, {WIDTH} features of Inception v3's last pooling",
    "is": f"torch-fidelity, logits without bias, {SPLITS} parts of the shuffled samples",
    "psnr": "torchmetrics, dB of a peak of 255, the channels together; mean and deviation over pairs",
    "ssim": "torchmetrics, Gaussian window, sigma 1.5, mean over RGB, edges reflected; mean and deviation over pairs",
    "lpips": "lpips, mean and deviation over pairs",
    "diversity": "lpips, mean over all pairs of a graph's samples; mean and deviation over graphs",
}


class EvaluationError(UserError):
    """What cannot be measured as it was asked for."""


class Network(NamedTuple):
    """A package's network, and where its weights are published."""

    package: str  # as pip knows it
    metrics: tuple[str, ...]  # that need it
    url: str  # ends in the weights' file name, which ends in the first eight digits of their sha256
    alias: str = ""  # another name that the same file is published under

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    def weights_in(self, folder: Path) -> Path | None:
        return next((folder / name for name in (self.file, self.alias) if name and (folder / name).is_file()), None)


INCEPTION = Network(
    "torch-fidelity",
    ("fid", "is"),
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    alias="pt_inception-2015-12-05-6726825d.pth",  # pytorch-fid's name
)
LPIPS = {
    net: Network("lpips", ("lpips", "diversity"), f"https://download.pytorch.org/models/{file}")
    for net, file in {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}.items()
}


class Networks(NamedTuple):
    inception: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None  # uint8 (B,3,H,W) -> features, logits (B,d)
    distance: Callable[[Tensor, Tensor], Tensor] | None = None  # LPIPS of uint8 (B,3,H,W) twice -> (B,)
    protocol: dict[str, dict] = {}  # for the report
    remarks: tuple[str, ...] = ()


def find_weights(metrics: Collection[str], folder: Path, lpips_net: str = "alex") -> dict[Network, Path]:
    """The files that the metrics need. Raises EvaluationError that says which package or file to put where."""
    needed = [network for network in (INCEPTION, LPIPS[lpips_net]) if set(network.metrics) & set(metrics)]
    missing = []
    for network in needed:
        purpose = " and ".join(metric for metric in network.metrics if metric in metrics)
        try:
            version(network.package)
        except PackageNotFoundError:
            missing.append(f"for {purpose} install {network.package} (pip install -e '.[evaluate]')")
        if not network.weights_in(folder):
            missing.append(f"for {purpose} put {network.file} from {network.url} into {folder}")
    if missing:
        raise EvaluationError(f"{', and '.join(missing)}; psnr and ssim need nothing (--metrics psnr,ssim)")
    return {network: network.weights_in(folder) for network in needed}


def load_networks(weights: dict[Network, Path], lpips_net: str = "alex", device: str = "cpu") -> Networks:
    """Every network that there are weights for, with its protocol. Raises EvaluationError for weights of another."""
    inception = distance = None
    protocol, remarks = {}, []
    for network, path in weights.items():
        if network == INCEPTION:
            inception = load_inception(path).to(device)
            name, details = "inception", {"input": "299x299, resized bilinearly as TensorFlow 1 does"}
        else:
            distance = partial(_lpips, load_lpips(path, lpips_net).to(device))
            name, details = "lpips", {"net": lpips_net, "version": "0.1"}
        digest = _sha256(path)
        if digest[:8] not in network.file:
            remarks.append(
                f"{path}: not the published {network.file}, since its sha256 begins {digest[:8]}; "
                "the numbers compare with none but its own"
            )
        package = f"{network.package} {version(network.package)}"
        protocol[name] = {"package": package, "weights": str(path), "sha256": digest, **details}
    return Networks(inception, distance, protocol, tuple(remarks))


def load_inception(path: Path) -> nn.Module:
    """torch-fidelity's Inception v3: uint8 images (B,3,H,W) -> features (B,2048), logits without bias (B,1008)."""
    from torch_fidelity import FeatureExtractorInceptionV3

    tensors = io.BytesIO()  # the package runs what its file says, so it is given a copy that holds tensors alone
    torch.save(read_state_dict(path), tensors)
    tensors.seek(0)
    outputs = [str(WIDTH), "logits_unbiased"]
    try:
        return FeatureExtractorInceptionV3("inception-v3-compat", outputs, feature_extractor_weights_path=tensors)
    except RuntimeError:
        raise EvaluationError(f"{path}: weights of another network; download {INCEPTION.url}") from None


def load_lpips(path: Path, net: str) -> nn.Module:
    """The authors' LPIPS, its linear heads from the package: images (B,3,H,W) in [-1,1] twice -> (B,1,1,1)."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls torchvision by a retired parameter
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    published = read_state_dict(path)
    try:
        # its slice2.3.weight is torchvision's features.3.weight
        ours = {name: published[f"features.{name.split('.', 1)[1]}"] for name in model.net.state_dict()}
        model.net.load_state_dict(ours)
    except (KeyError, RuntimeError):
        raise EvaluationError(f"{path}: weights of another network; download {LPIPS[net].url}") from None
    return model


def fid(first: Tensor, second: Tensor) -> float:
    """|mu1 - mu2|^2 + Tr(S1 + S2 - 2 sqrt(S1 S2)) of features (N,d) and (M,d) (Heusel et al., arXiv 1706.08500)."""
    from torch_fidelity import metric_fid

    moments = [metric_fid.fid_features_to_statistics(side.double()) for side in (first, second)]
    return metric_fid.fid_statistics_to_metric(*moments, verbose=False)[metric_fid.KEY_METRIC_FID]


def inception_score(logits: Tensor, splits: int = SPLITS) -> dict[str, float]:
    """exp(E KL(p(y|x) || p(y))) of logits (N,classes), over parts of the samples, shuffled by the package's own seed
    (Salimans et al., arXiv 1606.03498)."""
    from torch_fidelity import metric_isc

    score = metric_isc.isc_features_to_metric(logits, splits)
    return {"mean": score[metric_isc.KEY_METRIC_ISC_MEAN], "std": score[metric_isc.KEY_METRIC_ISC_STD]}


def psnr(first: Tensor, second: Tensor) -> Tensor:  # uint8 (B,3,H,W) twice -> (B,) in dB, infinite for equal images
    return peak_signal_noise_ratio(first / 255, second / 255, (0.0, 1.0), reduction="none", dim=(1, 2, 3))


def ssim(first: Tensor, second: Tensor) -> Tensor:  # uint8 (B,3,H,W) twice -> (B,)
    return structural_similarity_index_measure(first / 255, second / 255, data_range=1.0, reduction="none").reshape(-1)


def evaluate(
    samples: Folder,
    reference: Folder | Split | None,
    metrics: Collection[str],
    networks: Networks = Networks(),
    n: int | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "cpu",
) -> dict:
    """The report for JSON: every number with its settings, the networks, both sides, and remarks on what to beware of.

    FID takes the first `n` reference images; partners of samples are looked for among all of them.
    Raises EvaluationError or ImageSetError, before an image is read, for what is missing or too few.
    """
    compared = [metric for metric in metrics if metric in ("fid", *PAIRED)]
    if compared and reference is None:
        raise EvaluationError(f"{', '.join(compared)}: compared with what? Give --reference or --config")
    partners = match(samples, reference) if set(PAIRED) & set(metrics) else []
    siblings = of_one_graph(samples) if "diversity" in metrics else []
    real = Subset(reference, range(len(reference))[:n]) if "fid" in metrics else ()
    remarks = [*networks.remarks, *_refuse_too_few(metrics, len(samples), len(real), len(siblings))]

    read = partial(_batches, batch_size=batch_size, workers=workers, device=device)
    numbers = {}
    if {"fid", "is"} & set(metrics):
        features, logits = _outputs(networks.inception, read(samples, "samples"))
        if "fid" in metrics:
            others, _ = _outputs(networks.inception, read(real, "reference"))
            numbers["fid"] = {"value": fid(features, others), "samples": len(features), "reference": len(others)}
        if "is" in metrics:
            numbers["is"] = {**inception_score(logits), "samples": len(logits)}
    if partners:
        measures = {"psnr": psnr, "ssim": ssim, "lpips": networks.distance}
        asked = {name: measure for name, measure in measures.items() if name in metrics}
        scores = _compare(asked, read(Pairs(samples, reference, partners), "pairs"))
        numbers |= {name: {**_spread(of_pairs), "pairs": len(partners)} for name, of_pairs in scores.items()}
        if "psnr" in asked and (equal := int(scores["psnr"].isinf().sum())):
            remarks.append(f"psnr: infinite for {equal} pairs of equal images; its mean is over the others")
    if siblings:
        pairs = Pairs(samples, samples, list(chain.from_iterable(siblings)))
        scores = _compare({"lpips": networks.distance}, read(pairs, "diversity"))["lpips"]
        of_graphs = torch.stack([of_graph.mean() for of_graph in scores.split([len(group) for group in siblings])])
        numbers["diversity"] = {**_spread(of_graphs), "graphs": len(siblings), "pairs": len(pairs)}
    return {
        "metrics": {name: {**numbers[name], "protocol": METRICS[name]} for name in metrics},
        "networks": networks.protocol,
        "samples": {"source": str(samples), "images": len(samples)},
        "reference": {"source": str(reference), "images": len(reference)} if compared else None,
        "resizing": f"to {samples.size}x{samples.size} whatever the shape, bilinear with antialiasing (Pillow); "
        "files upright, as their EXIF says",
        "device": device,
        "remarks": remarks,
    }


def _refuse_too_few(metrics: Collection[str], samples: int, real: int, graphs: int) -> Iterator[str]:
    """EvaluationError for numbers that do not exist, a remark for those that mean little."""
    if "fid" in metrics:
        if min(samples, real) < 2:
            raise EvaluationError(f"fid: {samples} samples and {real} reference images; a covariance needs two of each")
        if min(samples, real) <= WIDTH:
            yield (
                f"fid: {samples} samples and {real} reference images have no full covariance of {WIDTH} features; the "
                "distance comes out too large, and compares with none but those of as many images"
            )
    if "is" in metrics:
        if samples < SPLITS:
            raise EvaluationError(f"is: {samples} samples cannot be split into {SPLITS} parts; give {SPLITS} at least")
        if samples < SPLITS * CLASSES:
            yield f"is: with {samples} samples in {SPLITS} parts it cannot exceed {-(-samples // SPLITS)}"
    if "diversity" in metrics and not graphs:
        raise EvaluationError(
            "diversity: no graph has two samples; index.jsonl says which graph a sample shows, or its subfolder does"
        )


def _batches(images: Dataset, what: str, batch_size: int, workers: int, device: str) -> Iterator[Any]:
    """Batches, or lists of the two sides' batches, on the device, behind a progress bar."""
    with tqdm(total=len(images), desc=what, unit="image", leave=False) as bar:
        for batch in DataLoader(images, batch_size, num_workers=workers):
            sides = [side.to(device) for side in (batch if isinstance(batch, list) else [batch])]
            yield sides if isinstance(batch, list) else sides[0]
            bar.update(len(sides[0]))


@torch.no_grad()
def _outputs(network: Callable[[Tensor], tuple[Tensor, ...]], images: Iterable[Tensor]) -> list[Tensor]:
    """Each output (B,d) of the network over all batches, as (N,d) on the CPU."""
    return [torch.cat(parts) for parts in zip(*([output.cpu() for output in network(batch)] for batch in images))]


@torch.no_grad()
def _compare(measures: dict[str, Callable[[Tensor, Tensor], Tensor]], pairs: Iterable) -> dict[str, Tensor]:
    """Each measure over all batches of pairs, as (N,) on the CPU."""
    scores = [[measure(*sides).double().cpu() for measure in measures.values()] for sides in pairs]
    return {name: torch.cat(parts) for name, parts in zip(measures, zip(*scores))}


def _lpips(model: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    return model(first / 127.5 - 1, second / 127.5 - 1).flatten()


def _spread(scores: Tensor) -> dict[str, float | None]:
    """None where there is no number: JSON knows no infinity."""
    finite = scores[scores.isfinite()]
    return {
        "mean": finite.mean().item() if len(finite) else None,
        "std": finite.std(correction=0).item() if len(finite) else None,
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
