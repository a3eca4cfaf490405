"""Where things are: the checkout, and the shared data beside it, which may be missing."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
