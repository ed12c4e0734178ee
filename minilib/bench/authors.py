"""The authors' package, `inf-cl` 1.2.1, called as its authors call it: once per direction, and averaged.

    loss = ( mean_i flash(img, txt)_i + mean_i flash(txt, img)_i ) / 2

where
    flash   `cal_flash_loss`, log-sum-exp minus positive of every row; it multiplies the rows by the scale, widens both
            sides to fp32 and multiplies them as TF32

Its two backward kernels per direction each compute the logits again: 1 + 4 products per direction, 10 in all. It works
on blocks of 256 features, so the width must be a multiple of 256, and its backward pass reads past the end of a batch
that is not a multiple of 64. It is patched nowhere; where it cannot run, a sentence says so.

Proven, as far as its call goes, in tests/bench/test_the_gpu_bench_is_ready.py.
"""

import importlib.util

import torch
from torch import Tensor

from minilib.bench.harness import first_line
from minilib.bench.methods import ROUNDED, Inputs, Method, UnavailableError, backward

BLOCK = 256  # features that its kernels take at a time


def inf_cl(half: torch.dtype = torch.bfloat16) -> Method:
    """`cal_flash_loss` twice; needs a CUDA card, for its kernels hold instructions of such a card."""
    if not torch.cuda.is_available():
        raise UnavailableError(
            "inf-cl needs a CUDA card: its kernels hold instructions of such a card, which no interpreter runs."
        )
    if importlib.util.find_spec("inf_cl") is None:
        raise UnavailableError("inf-cl is not installed: `pip install inf-cl==1.2.1` adds it beside torch and triton.")
    try:
        from inf_cl import cal_flash_loss
    except Exception as error:  # a package that meets another triton than its own may fail in any way
        raise UnavailableError(f"inf-cl cannot be imported ({first_line(error)}): repair its installation.") from None

    def step(x: Inputs) -> Tensor:
        images = cal_flash_loss(x.img, x.txt, scale=x.scale).mean()
        texts = cal_flash_loss(x.txt, x.img, scale=x.scale).mean()
        return backward((images + texts) / 2)

    return Method("inf-cl", step, products=10, matrices=0, tolerance=ROUNDED, dtype=half, multiple=BLOCK)
