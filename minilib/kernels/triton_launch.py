"""How a kernel of `triton_tiles` meets the machine: tile sizes, tuning, the grid of programs, the interpreter.

On a GPU, tile sizes are timed on the first large call of each kernel, width and dtype; small calls, and calls under
`torch.use_deterministic_algorithms(True)`, take one fixed choice. On a CPU the interpreter needs TRITON_INTERPRET=1.
"""

from functools import cache

import torch
import triton
from torch import Tensor

from minilib.kernels import triton_tiles

INTERPRETED = not isinstance(triton_tiles.logits_tile, triton.runtime.JITFunction)
GRID = (2, 2) if INTERPRETED else (16, 16)  # programs of a sums kernel: two for each of 128 multiprocessors
WORTH_TUNING = 8192**2  # logits in a call; below it there is too little to time
NO_PARTNER = 2**30  # a column that no row reaches

# Rows, columns, warps, pipeline stages, most registers per thread. With at most 128 registers and half of the shared
# memory, two programs share a multiprocessor: one multiplies while the other takes its exponentials.
FIXED = {2: (128, 128, 8, 3, None), 4: (128, 64, 8, 3, None)}  # by bytes per element of the features
CAP = (128, 128, 8, 3, 128)  # up to 252 registers left alone, 128 without spilling
CAPPED = dict.fromkeys(("shifted_sums", "row_sums", "row_grads"), CAP)
TUNED = [*FIXED.values(), CAP, (128, 128, 4, 3, None), (128, 256, 8, 3, None), (256, 128, 8, 3, None)]
NEVER_TUNED = ("pair_sums", "row_sums", "row_grads")
SMALLEST_TILE = 64
INTERPRETED_TILE = {"BM": 64, "BN": 64}


def launch(
    name: str, img: Tensor, txt: Tensor, tensors: list[Tensor], partner: int, *sizes: int,
    grid: tuple[int, int] | None = None, **flags,
) -> None:  # fmt: skip
    """Run kernel `name` over img (rows, d) against txt (cols, d); without a grid, one program per tile.

    `partner` is the distance from a row to the column it pairs with, NO_PARTNER for blocks without pairs.
    """
    img, txt = (side if side.stride(1) == 1 else side.contiguous() for side in (img, txt))
    rows, cols, dim = len(img), len(txt), img.shape[1]
    line = 128 // img.element_size()  # features in one 128-byte line of shared memory: the step along d
    full_fp32 = img.dtype == torch.float32 and not INTERPRETED  # three TF32 products, on the tensor cores
    flags |= {"BK": line, "EVEN": dim % line == 0, "PRECISION": "tf32x3" if full_fp32 else "ieee"}
    kernel, options = choose(name, img.element_size(), rows * cols)
    grid = grid or (lambda tile: (triton.cdiv(rows, tile["BM"]), triton.cdiv(cols, tile["BN"])))
    with torch.cuda.device_of(img):
        kernel[grid](
            img, txt, *tensors, rows, cols, dim, img.stride(0), txt.stride(0), partner, *sizes, **options, **flags
        )


def choose(name: str, itemsize: int, logits: int):
    """The kernel and its tile options, none for a kernel that tunes itself."""
    kernel = getattr(triton_tiles, name)
    if INTERPRETED:
        return kernel, INTERPRETED_TILE
    if name not in NEVER_TUNED and logits >= WORTH_TUNING and not torch.are_deterministic_algorithms_enabled():
        return tuned(name), {}
    tile = CAPPED.get(name, FIXED[2]) if itemsize == 2 else FIXED[4]
    return kernel, config(*tile).all_kwargs()


@cache
def tuned(name: str):
    """The kernel behind Triton's tuner, once per process; what a trial has summed is cleared before the next."""
    kernel = getattr(triton_tiles, name)
    key = [argument for argument in ("dim", "PAIRS", "GAIN") if argument in kernel.arg_names]
    sums = [argument for argument in ("col_sums", "losses", "slopes") if argument in kernel.arg_names]
    return triton.autotune([config(*tile) for tile in TUNED], key, reset_to_zero=sums)(kernel)


def config(rows: int, cols: int, warps: int, stages: int, registers: int | None) -> triton.Config:
    """One row of the tables above in Triton's words."""
    return triton.Config({"BM": rows, "BN": cols}, num_warps=warps, num_stages=stages, maxnreg=registers)
