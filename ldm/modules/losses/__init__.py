"""Losses that make the reconstructions of a first stage crisp."""
