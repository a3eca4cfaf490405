"""Pictures of scene graphs, sampled from noise."""

from ldm.sampling.sample import SampleOptions, sample_images

__all__ = ["SampleOptions", "sample_images"]
