"""Tensors in, tensors out: the tile visits, without autograd and without models.

`tiled` is plain torch and runs everywhere.
"""

from minilib.kernels import tiled

__all__ = ["tiled"]
