"""Synthetic worlds whose pictures have a known scene graph, and the checker that reads graphs back from pixels."""
