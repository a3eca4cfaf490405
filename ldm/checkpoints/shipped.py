"""The weights that are part of the repository, in sets by name, and the manifests that verify them.

The set 'demo' is the folder data/demo. Its MANIFEST.json holds for each file its identity (sha256, bytes), its provenance
(command, seed, minutes, cores, device) and the results that were measured with it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import ldm
from ldm.checkpoints.reading import CheckpointError
from ldm.util.files import atomic_write, digest

ROOT = Path(ldm.__file__).resolve().parents[1]  # of the checkout
FOLDER = Path("data")  # of the sets, relative to ROOT
SHIPPED = "demo"  # the set that programs use by default
OF_SCENES = {"rendered": "demo", "shapes": "flat", "more_shapes": "flat"}  # the set for each world of synthetic scenes
ADAPTERS = "adapters.safetensors"
TEMPORAL = "video.safetensors"  # temporal layers beside the image model of a set
MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class Entry:
    """The manifest's entry of a file.

    Attributes:
        sha256: checksum of the file, 64 hexadecimal digits.
        bytes: size of the file.
        command: the command that trained the weights, run in the root of the checkout.
        seed: the seed of the training.
        minutes: duration of the training.
        cores: number of CPU cores that it used.
        device: the device that it ran on.
        measured: results by name.
    """

    sha256: str
    bytes: int
    command: str
    seed: int
    minutes: float
    cores: int
    device: str
    measured: dict[str, float | str]


def shipped_adapters(weights: str = SHIPPED) -> Path:
    """The path of a set's adapters, after all files of its manifest have been verified.

    Args:
        weights: name of the set.

    Raises:
        CheckpointError: a file is missing, or differs from the one in the manifest.
    """
    folder = ROOT / FOLDER / weights
    for name, entry in read_manifest(folder).items():
        # A relative path in a config is looked up in the current folder first, so that file is the one to verify.
        verify(folder / name if name == ADAPTERS else find_in_checkout(FOLDER / weights / name), entry)
    if not (folder / ADAPTERS).is_file():
        raise CheckpointError(f"{folder / ADAPTERS}: there is no such file; {_remedy(folder)}")
    return folder / ADAPTERS


def weights_for(scenes: str | None) -> str:
    """Name of the set for a world of synthetic scenes; the default set for other scenes, and for None."""
    return OF_SCENES.get(scenes or "", SHIPPED)


def shipped_temporal(weights: str = OF_SCENES["shapes"]) -> Path:
    """The path of a set's temporal layers, after all files of its manifest have been verified.

    Args:
        weights: name of the set; by default that of flat shapes.

    Raises:
        CheckpointError: the set has none, or a file is missing or differs from the one in the manifest.
    """
    path = shipped_adapters(weights).with_name(TEMPORAL)
    if path.is_file():
        return path
    if TEMPORAL in read_manifest(path.parent):
        raise CheckpointError(f"{path}: there is no such file; {_remedy(path.parent)}")
    raise CheckpointError(
        f"no temporal layers for clips are shipped in {path.parent}; train some (configs/{weights}/video.yaml) and name their "
        "run with --run, or what scripts/export.py wrote of it with --ckpt"
    )


def find_in_checkout(path: str | Path) -> Path:
    """`path` in the root of the checkout if it exists there and not relative to the current folder; else unchanged."""
    path = Path(path).expanduser()
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path


def verify(path: Path, entry: Entry) -> None:
    """Raises CheckpointError if `path` is missing or differs from the file that `entry` describes."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file, though {MANIFEST} lists it; {_remedy(path.parent)}")
    if (found := digest(path)) != entry.sha256:
        raise CheckpointError(
            f"{path}: differs from the file in {MANIFEST} (its sha256 begins with {found[:12]}, not "
            f"{entry.sha256[:12]}); {_remedy(path.parent)}"
        )


def read_manifest(folder: Path) -> dict[str, Entry]:
    """Reads the MANIFEST.json of a folder: file name -> entry. Raises CheckpointError."""
    path = folder / MANIFEST
    try:
        return {name: Entry(**entry) for name, entry in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file; {_remedy(folder)}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a manifest of weights ({error}); {_remedy(folder)}") from error


def record_in_manifest(
    path: str | Path,
    *,
    command: str,
    seed: int,
    minutes: float,
    cores: int,
    device: str,
    measured: dict[str, float | str],
) -> Entry:
    """Adds or replaces the entry of a file in the MANIFEST.json beside it; see `Entry` for the arguments.

    Raises:
        CheckpointError: the file is missing, or the manifest cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file to list in a manifest; export it first")
    manifest = path.parent / MANIFEST
    entries = read_manifest(path.parent) if manifest.exists() else {}
    entries[path.name] = Entry(digest(path), path.stat().st_size, command, seed, minutes, cores, device, measured)
    content = {name: asdict(entries[name]) for name in sorted(entries)}
    with atomic_write(manifest) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    return entries[path.name]


def _remedy(folder: Path) -> str:
    return f"restore {folder} with git, or name other weights with --run, --ckpt or --config"
