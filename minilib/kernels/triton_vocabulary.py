"""Two Triton kernels over a vocabulary, on the tile of `triton_tiles`: what `vocabulary_fused` launches.

    row_sums    program (gm, gn) keeps block gm of the rows and folds every GN-th block of words into running pairs
                (m, s) in its registers
    row_grads   a tile of G_tv = ([v = y_t] - exp(x_tv - l_t)) f_t for each program, in the dtype of the scratch

where
    x_tv, l_t   logits <h_t, w_v> and their log-sum-exp over the V words, both in base 2 here, as in `triton_tiles`
    y_t, f_t    label of token t and its factor, the upstream gradient

Only sums over rows are wanted, so nothing is kept per column; there are no atomics, and results repeat bit by bit. The
label is subtracted in the tile, in fp32, before the rounding: p - 1 would not survive it.

Departure from the paper: none to speak of; LOGO's released code writes the logits down. Taught in
notebooks/10_score_a_long_answer.ipynb; proven in tests/test_fused_logps_equal_dense.py.
"""

import triton
import triton.language as tl

from minilib.kernels.triton_tiles import INF, LOG2E, fold, logits_tile, store_tile


@triton.jit
def row_sums(
    hidden, weight, row_m, row_s, rows, cols, dim, hidden_stride, weight_stride, partner,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Partial pairs (m, s) in base 2, each (GN, rows), to be merged over the first axis."""
    i, gn = tl.program_id(0) * BM, tl.program_id(1)
    row = i + tl.arange(0, BM)
    m, s = tl.full((BM,), -INF, tl.float32), tl.zeros((BM,), tl.float32)
    for j in range(gn * BN, cols, tl.num_programs(1) * BN):
        x = logits_tile(
            hidden, weight, 1.0, 0.0, i, j, rows, cols, dim, hidden_stride, weight_stride, partner,
            BM, BN, BK, EVEN, PRECISION,
        )  # fmt: skip
        m, s = fold(m, s, x, 1)
    slot = gn.to(tl.int64) * rows + row
    tl.store(row_m + slot, m, mask=row < rows)
    tl.store(row_s + slot, s, mask=row < rows)


@triton.jit
def row_grads(
    hidden, weight, labels, sums, factors, grad, rows, cols, dim, hidden_stride, weight_stride, partner,
    first, grad_stride,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk G (rows, cols) of the gradient of the logits; its first word is number `first` of the vocabulary."""
    i, j = tl.program_id(0) * BM, tl.program_id(1) * BN
    x = logits_tile(
        hidden, weight, 1.0, 0.0, i, j, rows, cols, dim, hidden_stride, weight_stride, partner,
        BM, BN, BK, EVEN, PRECISION,
    )  # fmt: skip
    row = i + tl.arange(0, BM)
    label = tl.load(labels + row, mask=row < rows, other=-1).to(tl.int32) - first - j  # counted within this tile
    total = tl.load(sums + row, mask=row < rows, other=0.0) * LOG2E
    factor = tl.load(factors + row, mask=row < rows, other=0.0)
    is_label = (label[:, None] == tl.arange(0, BN)[None, :]).to(tl.float32)
    store_tile(grad, (is_label - tl.exp2(x - total[:, None])) * factor[:, None], i, j, rows, cols, grad_stride, BM, BN)
