"""How good edits, samples and image sets are."""
