"""The networks of image quality metrics: which weights they need, and loading these from disk.

Nothing is downloaded, and no code in a weights file is executed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ldm.checkpoints.loading import read_state_dict
from ldm.util.errors import UserError
from ldm.util.files import digest

FEATURES = 2048  # of Inception v3's last pooling layer, used by FID
CLASSES = 1008  # of its logits


class EvaluationError(UserError):
    """A metric that cannot be computed from what is given."""


class Network(NamedTuple):
    """A network that metrics need, and where its weights are published.

    Args:
        package: that implements it, by its name on PyPI.
        metrics: that need it.
        url: of the weights; the file name ends in the first eight digits of their SHA-256.
        alias: another name under which the same file is published.
    """

    package: str
    metrics: tuple[str, ...]
    url: str
    alias: str = ""

    @property
    def file(self) -> str:
        """Name of the weights file."""
        return self.url.rsplit("/", 1)[1]

    def weights_in(self, folder: Path) -> Path | None:
        """The weights file in a folder, if it is there."""
        return next((folder / name for name in (self.file, self.alias) if name and (folder / name).is_file()), None)


INCEPTION = Network(
    "torch-fidelity",
    ("fid", "is"),
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    alias="pt_inception-2015-12-05-6726825d.pth",  # pytorch-fid's name
)
LPIPS = {
    net: Network("lpips", ("lpips", "diversity"), f"https://download.pytorch.org/models/{file}")
    for net, file in {
        "alex": "alexnet-owt-7be5be79.pth",
        "vgg": "vgg16-397923af.pth",
        "squeeze": "squeezenet1_1-b8a52dc0.pth",
    }.items()
}


def _not_loaded(*images: Tensor) -> Any:
    raise EvaluationError("the network of this metric is not loaded; see load_networks")


@dataclass(frozen=True)
class Networks:
    """The networks that are loaded.

    Args:
        inception: uint8 images (B,3,H,W) -> features (B,2048), logits (B,1008).
        distance: LPIPS of uint8 images (B,3,H,W) and (B,3,H,W) -> (B,).
        protocol: package and weights of each, for the report.
        remarks: sentences on weights that are not the published ones.
    """

    inception: Callable[[Tensor], tuple[Tensor, Tensor]] = _not_loaded
    distance: Callable[[Tensor, Tensor], Tensor] = _not_loaded
    protocol: dict[str, dict] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


NO_NETWORKS = Networks()


def default_weights_folder() -> Path:
    """Where torchvision and torch.hub keep the weights that they download."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(metrics: Collection[str], folder: Path, lpips_net: str = "alex") -> dict[Network, Path]:
    """Finds the weights that the metrics need.

    Raises:
        EvaluationError: a package or a file is missing; the message says where to get it.
    """
    needed = [network for network in (INCEPTION, LPIPS[lpips_net]) if set(network.metrics) & set(metrics)]
    missing, found = [], {}
    for network in needed:
        purpose = " and ".join(metric for metric in network.metrics if metric in metrics)
        try:
            version(network.package)
        except PackageNotFoundError:
            missing.append(f"for {purpose} install {network.package} (pip install -e '.[evaluate]')")
        if path := network.weights_in(folder):
            found[network] = path
        else:
            missing.append(f"for {purpose} put {network.file} from {network.url} into {folder}")
    if missing:
        raise EvaluationError(f"{', and '.join(missing)}; psnr and ssim need no weights (--metrics psnr,ssim)")
    return found


def load_networks(weights: dict[Network, Path], lpips_net: str = "alex", device: str = "cpu") -> Networks:
    """Loads the networks whose weights are given. Raises EvaluationError for the weights of another network."""
    inception = distance = _not_loaded
    protocol, remarks = {}, []
    for network, path in weights.items():
        if network == INCEPTION:
            inception = load_inception(path).to(device)
            name, details = "inception", {"input": "299x299, resized bilinearly as TensorFlow 1 does"}
        else:
            distance = partial(_lpips, load_lpips(path, lpips_net).to(device))
            name, details = "lpips", {"net": lpips_net, "version": "0.1"}
        sha256 = digest(path)
        if sha256[:8] not in network.file:
            remarks.append(
                f"{path}: not the published {network.file} (its SHA-256 begins with {sha256[:8]}); the numbers are not "
                "comparable with published ones"
            )
        package = f"{network.package} {version(network.package)}"
        protocol[name] = {"package": package, "weights": str(path), "sha256": sha256, **details}
    return Networks(inception, distance, protocol, tuple(remarks))


def load_inception(path: Path) -> nn.Module:
    """torch-fidelity's Inception v3: uint8 images (B,3,H,W) -> features (B,2048), logits without bias (B,1008)."""
    from torch_fidelity import FeatureExtractorInceptionV3

    # torch-fidelity unpickles its file without restrictions, so it gets a copy that holds tensors only.
    tensors = io.BytesIO()
    torch.save(read_state_dict(path), tensors)
    tensors.seek(0)
    outputs = [str(FEATURES), "logits_unbiased"]
    try:
        return FeatureExtractorInceptionV3("inception-v3-compat", outputs, feature_extractor_weights_path=tensors)
    except RuntimeError:
        raise EvaluationError(f"{path}: holds the weights of another network; download {INCEPTION.url}") from None


def load_lpips(path: Path, net: str) -> nn.Module:
    """The authors' LPIPS with the package's linear heads: images (B,3,H,W) in [-1,1] twice -> (B,1,1,1)."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips passes a deprecated parameter to torchvision
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    published = read_state_dict(path)
    try:
        # lpips' slice2.3.weight is torchvision's features.3.weight
        weights = {name: published[f"features.{name.split('.', 1)[1]}"] for name in model.net.state_dict()}
        model.net.load_state_dict(weights)
    except (KeyError, RuntimeError):
        raise EvaluationError(f"{path}: holds the weights of another network; download {LPIPS[net].url}") from None
    return model


def _lpips(model: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    return model(first / 127.5 - 1, second / 127.5 - 1).flatten()
