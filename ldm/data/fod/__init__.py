"""FOD-A (Munyer et al., arXiv 2110.03072), photographs of things on the ground, made ready for training and for edits."""
