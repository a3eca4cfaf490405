"""Scene graphs: values, their file format, how two differ, and where objects can be placed."""

from ldm.graph.batch import Batch, GraphBatch, Latents, collate, decode, encode
from ldm.graph.scene_graph import GAP, IMAGE, IN_IMAGE, SceneGraph, Vocab, read_graph, read_graphs, write_graphs
from ldm.graph.validation import Box, GraphError, Triple

__all__ = [
    "GAP", "IMAGE", "IN_IMAGE", "Batch", "Box", "GraphBatch", "GraphError", "Latents", "SceneGraph", "Triple", "Vocab",
    "collate", "decode", "encode", "read_graph", "read_graphs", "write_graphs",
]
