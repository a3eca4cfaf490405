"""A sentence encoder with a known answer: words lie at angles in a plane, all other texts far from everything."""

import zlib

import numpy as np

from ldm.words.sentence_encoder import DIM


class PlaneEncoder:
    """The cosine of two known words is that of the difference of their angles, given in degrees."""

    name = "plane"

    def __init__(self, angles: dict[str, float], unknown_pieces: int = 1):
        self.angles, self.unknown_pieces = angles, unknown_pieces

    def encode(self, texts):
        vectors = np.zeros((len(texts), DIM), np.float32)
        for row, text in zip(vectors, texts):
            if text in self.angles:
                angle = np.radians(self.angles[text])
                row[:2] = np.cos(angle), np.sin(angle)
            else:
                row[2 + zlib.crc32(text.encode()) % (DIM - 2)] = 1
        return vectors

    def pieces(self, text):
        return 1 if text in self.angles else self.unknown_pieces
