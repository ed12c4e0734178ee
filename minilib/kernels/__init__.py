"""Tensors in, tensors out: visits of the tiles of a logit matrix, without autograd and without models.

    contrastive_tiled    b x b logits of image-text pairs, plain torch          contrastive_fused    the same in Triton
    vocab_tiled          n x V logits of a language model's head                vocab_fused          the same in Triton

`triton_tiles` holds the jitted kernels, `triton_launch` their tile sizes and grids. The Triton modules are imported
where they are used, since not every machine has Triton.
"""


def contrastive_kernels(backend: str):
    """The module of tile visits behind "tiled" or "fused" for image-text pairs."""
    if backend == "tiled":
        from minilib.kernels import contrastive_tiled as kernels
    else:
        from minilib.kernels import contrastive_fused as kernels
    return kernels


def vocab_kernels(backend: str):
    """The module of tile visits behind "tiled" or "fused" for the logits of a language model."""
    if backend == "tiled":
        from minilib.kernels import vocab_tiled as kernels
    else:
        from minilib.kernels import vocab_fused as kernels
    return kernels
