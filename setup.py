"""The one list of dependencies."""

from setuptools import find_packages, setup

EVALUATE = ["torch-fidelity>=0.4", "lpips", "torchmetrics"]  # scripts/evaluate.py

setup(
    name="scene-graph-editing",
    version="0.1.0",
    description="Scene-graph guided latent editing: train adapters on a frozen latent diffusion model, edit photographs",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["ldm", "ldm.*"]),
    py_modules=["trainer"],
    install_requires=[
        "torch>=2.7",
        "pytorch-lightning>=2.6,<3",  # the exact resume leans on its progress counts
        "omegaconf>=2.3",
        "einops",
        "open-clip-torch>=2.24",  # brings torchvision, which must match torch: pip resolves both
        "h5py",
        "numpy",
        "pillow",
        "safetensors",
        "tensorboard",
        "tqdm",
        "pycocotools",
        "taming-transformers-rom1504",  # the package named taming-transformers lacks VectorQuantizer2
    ],
    extras_require={
        "evaluate": EVALUATE,
        "test": ["pytest", "hypothesis", *EVALUATE],
    },
)
