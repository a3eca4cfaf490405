"""Scene graphs in the formats of other projects, recognised by their content: a module per format, and one table of them.

formats.py                  the table, and the way from a file's content to graphs
entries.py                  what a format gives for each image of a file, and checks of JSON values
images.py                   sizes of images, and boxes in pixels to boxes in fractions
sgedit.py, gqa.py, coco.py, visual_genome.py, scene_graph_benchmark.py
"""

from ldm.graph.importers.formats import Source, parse_graphs

__all__ = ["Source", "parse_graphs"]
