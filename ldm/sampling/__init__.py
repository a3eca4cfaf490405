"""Pictures of scene graphs, sampled from noise."""

from ldm.sampling.sample import Settings, sample_images

__all__ = ["Settings", "sample_images"]
