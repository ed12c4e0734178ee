"""Six Triton kernels around one shared tile, for `contrastive_fused` and `vocab_fused`, on a GPU or in the interpreter.

Every kernel asks for one (BM, BN) tile of base-2 logits after the other and folds it at once:

    tile_ij = log2(e) (scale <img_i, txt_j> - shift),    -inf outside the matrix and where row i pairs with column j
    exp(scale <img_i, txt_j> - shift) = 2^tile_ij

where
    base 2   the GPU has an instruction for 2^x, so log2(e) is folded into the scale: one multiply-add, one 2^x
    scale    multiplies the finished fp32 product, never the half-precision features, whose rounding it would enlarge
    partner  row i pairs with column i + partner; the host puts it out of reach for blocks without pairs

Program (gm, gn) of a GM x GN grid owns every GM-th row block and every GN-th column block. Row sums stay in registers
along a row of tiles; column sums are kept in row gm of a (GM, cols) table that only this program touches at its
columns. So one visit gives both, without atomics or locks, and repeats itself bit by bit.

Departure from the paper: Inf-CL's kernels sum one direction each, recompute every tile for each gradient and pad; here
both directions share a tile, and a tile that juts out reads the last real row again.
Taught in notebooks/05_fuse_it_in_triton.ipynb.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
INF = tl.constexpr(float("inf"))


@triton.jit
def logits_tile(
    img, txt, scale, shift, i, j, rows, cols, dim, img_stride, txt_stride, partner,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Base-2 logits (BM, BN) of the rows from i against the columns from j; EVEN says that BK divides dim."""
    # 1. rows past the end read the last row again, so that no load needs a mask; b x d may exceed 2^31, a tile does not
    k = tl.arange(0, BK)
    a_row, b_col = tl.minimum(tl.arange(0, BM), rows - 1 - i), tl.minimum(tl.arange(0, BN), cols - 1 - j)
    img += tl.cast(i, tl.int64) * img_stride
    txt += tl.cast(j, tl.int64) * txt_stride
    a, b = a_row[:, None] * img_stride + k[None, :], b_col[None, :] * txt_stride + k[:, None]  # (BM, BK), (BK, BN)
    # 2. the product of the raw features, fp32 accumulator
    x = tl.zeros((BM, BN), tl.float32)
    for start in range(0, dim, BK):
        if EVEN:
            x = tl.dot(tl.load(img + a), tl.load(txt + b), x, input_precision=PRECISION)
        else:
            inside = k < dim - start
            part_a = tl.load(img + a, mask=inside[None, :], other=0.0)
            part_b = tl.load(txt + b, mask=inside[:, None], other=0.0)
            x = tl.dot(part_a, part_b, x, input_precision=PRECISION)
        img += BK
        txt += BK
    # 3. scale and shift, in fp32
    x = x * (scale * LOG2E) - shift * LOG2E
    # 4. most tiles are neither at the edge nor on the diagonal: one test for the whole tile spares the others the mask
    at_edge = (i + BM > rows) | (j + BN > cols)
    on_diagonal = (i + partner < j + BN) & (j < i + partner + BM)
    if at_edge | on_diagonal:
        row, col = i + tl.arange(0, BM), j + tl.arange(0, BN)
        inside = (row < rows)[:, None] & (col < cols)[None, :]
        x = tl.where(inside & ((row + partner)[:, None] != col[None, :]), x, -INF)
    return x


@triton.jit
def shifted_sums(
    img, txt, scale, shift, row_sums, col_sums, rows, cols, dim, img_stride, txt_stride, partner,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Partial sums of 2^tile: `row_sums` (GN, rows) and `col_sums` (GM, cols), to be summed over the first axis."""
    gm, gn = tl.program_id(0), tl.program_id(1)
    scale, shift = tl.load(scale), tl.load(shift)
    for i in range(gm * BM, rows, tl.num_programs(0) * BM):
        row = i + tl.arange(0, BM)
        total = tl.zeros((BM,), tl.float32)
        # the first row block finds no earlier sums: a launch starts from nothing, however often it is repeated
        known = tl.where(i < tl.num_programs(0) * BM, 0, cols)
        for j in range(gn * BN, cols, tl.num_programs(1) * BN):
            col = j + tl.arange(0, BN)
            # min(j, 0) is 0: addresses that hang on j are computed per tile; kept across tiles, they would spill
            x = logits_tile(
                img, txt, scale, shift, i + tl.minimum(j, 0), j, rows, cols, dim, img_stride, txt_stride, partner,
                BM, BN, BK, EVEN, PRECISION,
            )  # fmt: skip
            e = tl.exp2(x)  # (BM, BN)
            total += tl.sum(e, 1)
            mine = col_sums + gm.to(tl.int64) * cols + col
            before = tl.load(mine, mask=col < known, other=0.0)
            tl.store(mine, before + tl.sum(e, 0), mask=col < cols)
        tl.store(row_sums + gn.to(tl.int64) * rows + row, total, mask=row < rows)


@triton.jit
def fold(m, s, x, AXIS: tl.constexpr):
    """The running step of `minilib.lse` in base 2: the pair (m, s) with tile x folded in along AXIS."""
    new = tl.maximum(m, tl.max(x, AXIS))
    reference = tl.where(new == -INF, 0.0, new)  # inf - inf is NaN; any finite reference serves an empty sum
    e = tl.exp2(x - tl.expand_dims(reference, AXIS))
    return new, s * tl.exp2(m - reference) + tl.sum(e, AXIS)


@triton.jit
def pair_sums(
    img, txt, scale, row_m, row_s, col_m, col_s, rows, cols, dim, img_stride, txt_stride, partner,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `shifted_sums` for logits of any size: partial pairs (m, s) for rows and columns, m in base 2."""
    gm, gn = tl.program_id(0), tl.program_id(1)
    scale = tl.load(scale)
    for i in range(gm * BM, rows, tl.num_programs(0) * BM):
        row = i + tl.arange(0, BM)
        m, s = tl.full((BM,), -INF, tl.float32), tl.zeros((BM,), tl.float32)
        known = tl.where(i < tl.num_programs(0) * BM, 0, cols)
        for j in range(gn * BN, cols, tl.num_programs(1) * BN):
            col = j + tl.arange(0, BN)
            x = logits_tile(
                img, txt, scale, 0.0, i, j, rows, cols, dim, img_stride, txt_stride, partner,
                BM, BN, BK, EVEN, PRECISION,
            )  # fmt: skip
            m, s = fold(m, s, x, 1)
            mine = gm.to(tl.int64) * cols + col
            cm = tl.load(col_m + mine, mask=col < known, other=-INF)
            cs = tl.load(col_s + mine, mask=col < known, other=0.0)
            cm, cs = fold(cm, cs, x, 0)
            tl.store(col_m + mine, cm, mask=col < cols)
            tl.store(col_s + mine, cs, mask=col < cols)
        tl.store(row_m + gn.to(tl.int64) * rows + row, m, mask=row < rows)
        tl.store(row_s + gn.to(tl.int64) * rows + row, s, mask=row < rows)


@triton.jit
def softmax_grads(
    img, txt, scale, shift, row_terms, col_terms, grad, rows, cols, dim, img_stride, txt_stride, partner, grad_stride,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """One chunk G (rows, cols) of the gradient with respect to the logits, in the dtype of `grad`.

    G_ij = 2^tile (row_i + col_j), one exponential for both directions; with PAIRS, where no shift serves all logits,
    G_ij = 2^(tile + row_i) + 2^(tile + col_j).
    """
    i, j = tl.program_id(0) * BM, tl.program_id(1) * BN
    x = logits_tile(
        img, txt, tl.load(scale), tl.load(shift), i, j, rows, cols, dim, img_stride, txt_stride, partner,
        BM, BN, BK, EVEN, PRECISION,
    )  # fmt: skip
    row, col = i + tl.arange(0, BM), j + tl.arange(0, BN)
    of_row = tl.load(row_terms + row, mask=row < rows, other=0.0)[:, None]  # (BM, 1)
    of_col = tl.load(col_terms + col, mask=col < cols, other=0.0)[None, :]  # (1, BN)
    if PAIRS:
        g = tl.exp2(x + of_row) + tl.exp2(x + of_col)
    else:
        g = tl.exp2(x) * (of_row + of_col)
    store_tile(grad, g, i, j, rows, cols, grad_stride, BM, BN)


@triton.jit
def store_tile(grad, g, i, j, rows, cols, grad_stride, BM: tl.constexpr, BN: tl.constexpr):
    """Write tile g to rows i and columns j of the chunk, rounded to its dtype."""
    row, col = tl.arange(0, BM), tl.arange(0, BN)
    grad += tl.cast(i, tl.int64) * grad_stride + j
    inside = (row < rows - i)[:, None] & (col < cols - j)[None, :]
    tl.store(grad + row[:, None] * grad_stride + col[None, :], g.to(grad.dtype.element_ty), mask=inside)


@triton.jit
def softplus_and_sigmoid(x):
    """log(1 + exp x) and its derivative for base-2 x, from one exponential and one division, exact for tiny exp x."""
    e = tl.exp2(-tl.abs(x))  # in (0, 1]
    shared = 1.0 / ((1.0 + e) * (2.0 + e))
    # log(1 + e) = 2 artanh(z), z = e / (2 + e) <= 1/3: a short odd series, where 1 + e would round a tiny e away
    z = e * (1.0 + e) * shared
    q = z * z
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    sigmoid = tl.where(x >= 0, 1.0, e) * (2.0 + e) * shared
    return tl.maximum(x, 0.0) * LN2 + 2.0 * z * series, sigmoid


@triton.jit
def sigmoid_visit(
    img, txt, scale, shift, losses, slopes, grad, rows, cols, dim, img_stride, txt_stride, partner, grad_stride,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    GAIN: tl.constexpr,
):  # fmt: skip
    """Softplus and sigmoid of the tiles: their sums to one slot per program, GAIN x sigmoid to `grad` unless GAIN is 0.

    The bias of the loss comes as a negative shift.
    """
    i, j = tl.program_id(0) * BM, tl.program_id(1) * BN
    x = logits_tile(
        img, txt, tl.load(scale), tl.load(shift), i, j, rows, cols, dim, img_stride, txt_stride, partner,
        BM, BN, BK, EVEN, PRECISION,
    )  # fmt: skip
    softplus, sigmoid = softplus_and_sigmoid(x)
    slot = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    # each thread sums its own rows first and the slopes before the losses: 104 to 127 registers in Triton 3.6, 3.7
    slope, loss = tl.sum(sigmoid, 1), tl.sum(softplus, 1)
    tl.store(losses + slot, tl.sum(loss))
    tl.store(slopes + slot, tl.sum(slope))
    if GAIN > 0:
        store_tile(grad, sigmoid * GAIN, i, j, rows, cols, grad_stride, BM, BN)


# Over a vocabulary: hidden states (rows, d) against the rows of a head (cols, d), sums over rows only


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
    """One chunk G (rows, cols) of the gradient of the logits, its first column entry `first` of the vocabulary."""
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
