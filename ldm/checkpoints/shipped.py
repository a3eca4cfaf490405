"""The weights that ship with a checkout: where they are, and that they are those that their manifest describes.

data/demo/MANIFEST.json says of each file how to know it (sha256, bytes), how it was made (command, seed, minutes,
cores, device) and what it was measured to do.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import ldm
from ldm.checkpoints.loading import CheckpointError

ROOT = Path(ldm.__file__).resolve().parents[1]  # of the checkout
FOLDER = Path("data/demo")  # in it
ADAPTERS = "adapters.safetensors"
MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class Entry:
    """Of one file. command: the one that trained it, from the checkout's root. measured: figures by their names."""

    sha256: str
    bytes: int
    command: str
    seed: int
    minutes: float
    cores: int
    device: str
    measured: dict[str, float | str]


def shipped_adapters() -> Path:
    """The adapters that are used where nothing else is named, once every shipped file is known to be as shipped.

    Raises CheckpointError for a file that is missing or another one.
    """
    folder = ROOT / FOLDER
    for name, entry in read_manifest(folder).items():
        # A config's path means the current folder first, so the file that will be read is the one to look at.
        verify(folder / name if name == ADAPTERS else find_in_checkout(FOLDER / name), entry)
    if not (folder / ADAPTERS).is_file():
        raise CheckpointError(f"{folder / ADAPTERS}: there is no such file; {_remedy(folder)}")
    return folder / ADAPTERS


def find_in_checkout(path: str | Path) -> Path:
    """A path as it is, from the current folder; or else from the checkout's root, if something is there."""
    path = Path(path).expanduser()
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path


def verify(path: Path, entry: Entry) -> None:
    """Raises CheckpointError where `path` is not the file that `entry` describes."""
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file, though {MANIFEST} lists it; {_remedy(path.parent)}")
    if (found := sha256_of(path)) != entry.sha256:
        raise CheckpointError(
            f"{path}: not the file that {MANIFEST} describes (its sha256 begins with {found[:12]}, not "
            f"{entry.sha256[:12]}); {_remedy(path.parent)}"
        )


def read_manifest(folder: Path) -> dict[str, Entry]:
    """File name -> its entry, from the folder's MANIFEST.json. Raises CheckpointError."""
    path = folder / MANIFEST
    try:
        return {name: Entry(**entry) for name, entry in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file; {_remedy(folder)}") from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a manifest of weights ({error}); {_remedy(folder)}") from error


def record_in_manifest(path: str | Path, **how: object) -> Entry:
    """Enter a file as it is now, and how it was made, into the manifest beside it."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file to enter into a manifest; export it first")
    manifest = path.parent / MANIFEST
    entries = read_manifest(path.parent) if manifest.exists() else {}
    entries[path.name] = Entry(sha256_of(path), path.stat().st_size, **how)
    beside = manifest.with_suffix(".part")
    beside.write_text(json.dumps({name: asdict(entries[name]) for name in sorted(entries)}, indent=2) + "\n")
    beside.replace(manifest)
    return entries[path.name]


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remedy(folder: Path) -> str:
    return f"bring {folder} back with git, or name weights of your own with --run, --ckpt or --config"
