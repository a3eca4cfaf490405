"""Scene graphs: their values and files, batches, differences, and placement of objects."""

from ldm.graph.batch import Batch, GraphBatch, Latents, collate, decode, encode
from ldm.graph.graph_files import read_graph, read_graphs, write_graphs
from ldm.graph.scene_graph import SceneGraph
from ldm.graph.validation import Box, GraphError, Triple
from ldm.graph.vocab import GAP, IMAGE, IN_IMAGE, Vocab

__all__ = [
    "GAP",
    "IMAGE",
    "IN_IMAGE",
    "Batch",
    "Box",
    "GraphBatch",
    "GraphError",
    "Latents",
    "SceneGraph",
    "Triple",
    "Vocab",
    "collate",
    "decode",
    "encode",
    "read_graph",
    "read_graphs",
    "write_graphs",
]
