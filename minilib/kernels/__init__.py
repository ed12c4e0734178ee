"""Tensors in, tensors out: the tile visits, without autograd and without models.

`tiled` is plain torch and runs everywhere; `fused` is its Triton twin (kernels in `triton_tiles`, tile sizes in
`launch`) and is imported where it is used, since not every machine has Triton.
"""

from minilib.kernels import tiled

__all__ = ["tiled"]
