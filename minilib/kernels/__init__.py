"""Tensors in, tensors out: the tile visits, without autograd and without models.

`tiled` is plain torch and runs everywhere; `fused` is its Triton twin (kernels in `triton_tiles`, tile sizes in
`launch`) and is imported where it is used, since not every machine has Triton. `ring` folds either of them over ranks:
the schedule there, the work in `ring_visits`, the messages in `wire`. `vocabulary` visits the logits of a large head
tile by tile; `vocabulary_fused` and `triton_vocabulary` are its Triton twins.
"""

from minilib.kernels import tiled

__all__ = ["tiled"]
