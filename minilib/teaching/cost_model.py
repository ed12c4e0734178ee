"""What a step of contrastive training costs on n GPUs, on paper: memory of each GPU, seconds, bytes on the wire.

Memory of the loss, forward and backward, in numbers of 4 bytes, in addition to the features of the own m = b / n rows:

    CLIP       4 b^2  + 3 b d                 four matrices of all logits; both sides gathered, one of them scaled
    OpenCLIP   4 m b  + 2 b d + 2 m d         four matrices of the own rows; both sides gathered, two own ones scaled
    Ring-CL    4 m^2  + 15 m d                four matrices of one block, and blocks of features
    Inf-CL              15 m d                blocks of features; 17 from 131,072 rows on
    ours                 7 m d + 6 b + tiles  5 blocks on two ranks, 2 on one

Memory of a step, with the gradient cache, so that the encoders see one micro-batch at a time:

    16 bytes a parameter  +  the pairs of this GPU  +  4 m d numbers  +  the larger of loss and activations

where
    16         weights, gradients and two moments of AdamW in fp32
    pairs      224 x 224 x 3 numbers of 4 bytes and 77 token ids of 8; nothing with data offload
    4 m d      features of both sides and their gradients

What is fitted, what is predicted. The paper's GB are read as 1,000 MiB: of three readings the only one that gives the
cells of CLIP and OpenCLIP to the last digit or two, with nothing fitted. Fitted are three numbers, each on the one cell
that `FITTED` names: the 15 blocks, the 17, and the activations of ViT-L/14. Where 15 becomes 17 was read off the tables
as well (110,592 rows still have 15), and we do not know why. All other cells are predictions. The 7 blocks of ours are
counted in lesson 06 and measured on real processes. `cells()` compares; the test is
tests/teaching/test_the_cost_model_gives_the_tables.py.
Taught in notebooks/14_leave_one_machine.ipynb.
"""

from collections.abc import Iterator
from typing import NamedTuple

from minilib.kernels.contrastive_tiled import TILE_COLS, TILE_ROWS
from minilib.teaching.ring_bytes import bytes_sent

GB, FP32, THOUSAND = 1000 * 2**20, 4, 1024  # the tables' "GB" and "k"
METHODS = ("CLIP", "OpenCLIP", "Inf-CL", "ours")
PRODUCTS = {"CLIP": 3, "OpenCLIP": 6, "Inf-CL": 10, "ours": 4}  # of b x b x d; CLIP makes all of them on every GPU
BLOCKS, MORE_BLOCKS, MANY_ROWS = 15, 17, 131_072  # of Inf-CL, the second from so many rows of a GPU on


class Backbone(NamedTuple):
    """Two encoders: the width of their features, and what a run of them costs."""

    dim: int
    parameters: float
    pair_bytes: int
    activations: float  # bytes of a micro-batch of 128
    seconds: float  # a pair on one GPU, both passes of the gradient cache


class Cluster(NamedTuple):
    """GPUs, the FLOP/s that a product reaches on each, and each one's link: bytes/s, seconds before the first byte."""

    gpus: int
    rate: float = 156e12  # half of an A800's peak in half precision, an assumption
    bandwidth: float = 25e9
    latency: float = 20e-6
    memory: float = 80 * GB


# Parameters are those of the public model. The activations are fitted on one cell of Table 1, the seconds on one bar of
# Figure 4: 64k on 8 GPUs, 49.4 s, of which we give the loss 0.2.
PAIR = 224 * 224 * 3 * FP32 + 77 * 8
VIT_L14 = Backbone(768, 427.6e6, PAIR, 35.3 * GB, 49.2 * 8 / 65_536)

# Loss GB and, in Table 1, the peak of the whole step: method -> GPUs -> {thousand pairs: GB}. A star is data offload.
TABLE_1 = {
    "CLIP": {8: {32: (16.67, 46.40), 64: (66.11, 77.94)}, 32: {32: (16.66, 42.85), 64: (66.11, 75.52)}},
    "OpenCLIP": {
        8: {32: (2.27, 43.97), 64: (8.63, 46.38), 128: (33.64, 51.23)},
        32: {32: (0.71, 42.46), 64: (2.45, 43.06), 128: (8.98, 44.26), 256: (34.35, 46.71)},
    },
    "Inf-CL": {
        8: {32: (0.18, 44.20), 64: (0.36, 46.63), 128: (0.72, 51.46), 256: (1.45, 61.13)},
        32: {32: (0.05, 42.48), 64: (0.09, 43.08), 128: (0.18, 44.30), 256: (0.35, 46.71), 1024: (1.44, 61.20)},
    },
    "Inf-CL*": {8: {32: (0.18, 42.40), 64: (0.36, 42.49), 128: (0.72, 42.69), 256: (1.45, 43.07), 1024: (6.53, 45.40)}},
}
# The largest batch: (backbone, width, GPUs, star) -> {method: (thousand pairs, loss GB)}.
TABLE_2 = {
    ("B/16", 512, 8, ""): {"CLIP": (68, 74.39), "OpenCLIP": (172, 59.95), "Inf-CL": (800, 3.01)},
    ("B/16", 512, 32, ""): {"CLIP": (68, 74.39), "OpenCLIP": (360, 66.29), "Inf-CL": (3456, 3.27)},
    ("L/14", 768, 8, ""): {"CLIP": (64, 66.11), "OpenCLIP": (152, 47.23), "Inf-CL": (448, 2.52)},
    ("L/14", 768, 32, ""): {"CLIP": (64, 66.11), "OpenCLIP": (352, 64.13), "Inf-CL": (2048, 2.89)},
    ("L/14", 768, 8, "*"): {"CLIP": (64, 66.11), "OpenCLIP": (184, 69.10), "Inf-CL": (4096, 26.12)},
    ("L/14", 768, 32, "*"): {"CLIP": (64, 66.11), "OpenCLIP": (368, 64.13), "Inf-CL": (12288, 19.59)},
}
FITTED = {(1, "Inf-CL", 8, 64, "loss"), (2, "Inf-CL*", 8, 4096, "loss"), (1, "Inf-CL", 8, 64, "peak")}


class Cell(NamedTuple):
    """A cell of the paper next to its prediction, both in its GB; `fitted` where a number was read off it."""

    table: int
    method: str
    gpus: int
    thousands: int
    what: str  # "loss" or "peak"
    paper: float
    predicted: float
    fitted: bool


def loss_parts(method: str, batch: int, dim: int, gpus: int) -> dict[str, float]:
    """Bytes of the loss on one GPU by part, as in the formulas above."""
    rows = batch / gpus
    side, own = FP32 * batch * dim, FP32 * rows * dim  # bytes of one side of all pairs, and of the own ones
    if method == "CLIP":
        return {"four matrices": 4 * FP32 * batch**2, "gathered features": 2 * side, "scaled features": side}
    if method == "OpenCLIP":
        return {"four matrices": 4 * FP32 * rows * batch, "gathered features": 2 * side, "scaled features": 2 * own}
    if method == "Ring-CL":
        return {"four matrices": 4 * FP32 * rows**2, "blocks of features": BLOCKS * own}
    if method == "Inf-CL":
        return {"blocks of features": (BLOCKS if rows < MANY_ROWS else MORE_BLOCKS) * own}
    if method == "ours":
        tiles = 2 * FP32 * min(TILE_ROWS, rows) * (min(TILE_COLS, rows) + dim)
        return {"blocks of features": ring_blocks(gpus) * own, "tiles": tiles, "sums of columns": 6 * FP32 * batch}
    raise ValueError(f"method is {method!r}: choose one of {', '.join(METHODS)} or Ring-CL.")


def ring_blocks(gpus: int) -> int:
    """Blocks of m x d numbers that a rank of our ring holds at its peak, in the backward pass; measured.

    At home the gradients of images and own texts. Travelling: texts here and arriving, a gradient that leaves, one that
    arrives and one in the making. On two ranks a gradient sets out once, at the last step: no text arrives any more.
    """
    return {1: 2, 2: 5}.get(gpus, 7)


def step_parts(method: str, batch: int, gpus: int, backbone: Backbone, *, offload: bool = False) -> dict[str, float]:
    """Bytes of a whole step on one GPU at its peak: what stays, and the larger of loss and activations."""
    rows, loss = batch / gpus, sum(loss_parts(method, batch, backbone.dim, gpus).values())
    top = {"loss": loss} if loss > backbone.activations else {"activations": backbone.activations}
    return {
        "weights and optimizer": 16 * backbone.parameters,
        "pairs": 0 if offload else rows * backbone.pair_bytes,
        "features and gradients": 4 * FP32 * rows * backbone.dim,
    } | top


def largest_batch(method: str, cluster: Cluster, backbone: Backbone, *, offload: bool = False) -> int:
    """The largest batch, in whole thousands (1,024) of pairs, whose step fits into the memory of each GPU."""

    def fits(thousands: int) -> bool:
        parts = step_parts(method, thousands * THOUSAND, cluster.gpus, backbone, offload=offload)
        return sum(parts.values()) <= cluster.memory

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * THOUSAND


def wire_parts(method: str, batch: int, dim: int, gpus: int, *, feature_bytes: int = FP32) -> dict[str, float]:
    """Bytes that one GPU sends in a step of the loss, forward and backward.

    CLIP and OpenCLIP gather both sides and add up the gradients of both; the released Inf-CL sends each side on a ring
    of its own, twice, and its gradient once more, all in fp32; ours is `ring_bytes.bytes_sent`.
    """
    if method == "ours":
        return bytes_sent([(batch + rank) // gpus for rank in range(gpus)], 0, dim, feature_bytes)
    travelled, side = (gpus - 1) / gpus, FP32 * batch * dim
    if method == "Inf-CL":
        return {"features": 2 * 2 * travelled * side, "gradients": 2 * side if gpus > 1 else 0}
    return {"features": 2 * travelled * side, "gradients": 2 * travelled * side}


def overlapped(work: float, transfer: float, steps: int) -> float:
    """Seconds of a ring: each transfer is under way during the work on the block before, none during the last."""
    return (steps - 1) * max(work, transfer) + work


def step_seconds(method: str, batch: int, cluster: Cluster, backbone: Backbone) -> dict[str, float]:
    """Seconds of a step by part: encoders, products of the loss, waiting for features, averaging the gradients."""
    gpus, rows, dim = cluster.gpus, batch / cluster.gpus, backbone.dim

    def send(size: float) -> float:
        return cluster.latency + size / cluster.bandwidth

    products = PRODUCTS[method] * 2 * batch**2 * dim / cluster.rate / (1 if method == "CLIP" else gpus)
    if method in ("CLIP", "OpenCLIP"):  # nothing to multiply before all features are there
        total = sum(wire_parts(method, batch, dim, gpus).values()) / cluster.bandwidth
        waiting = total + 4 * (gpus - 1) * cluster.latency
    else:
        one = 2 * rows**2 * dim / cluster.rate  # seconds of one product of one block
        forward, backward = send(2 * rows * dim), send((2 + FP32) * rows * dim)  # features in bf16, gradients in fp32
        sweeps = [(one, forward), (3 * one, backward)]
        if method == "Inf-CL":  # one direction after the other, all in fp32
            sweeps = 2 * [(one, send(FP32 * rows * dim)), (4 * one, send(2 * FP32 * rows * dim))]
        waiting = sum(overlapped(*sweep, gpus) - gpus * sweep[0] for sweep in sweeps)
    average = 2 * (gpus - 1) / gpus * FP32 * backbone.parameters / cluster.bandwidth
    return {
        "encoders": rows * backbone.seconds,
        "products of the loss": products,
        "waiting for features": waiting,
        "average of the gradients": average,
    }


def cells() -> Iterator[Cell]:
    """Every memory cell of Tables 1 and 2, next to its prediction."""
    for method, of_gpus in TABLE_1.items():
        for gpus, row in of_gpus.items():
            for thousands, pair in row.items():
                yield from _cell(1, method, gpus, thousands, VIT_L14.dim, *pair)
    for (_, dim, gpus, star), methods in TABLE_2.items():
        for method, (thousands, loss) in methods.items():
            yield from _cell(2, method + star * (method == "Inf-CL"), gpus, thousands, dim, loss)


def _cell(table: int, method: str, gpus: int, thousands: int, dim: int, *paper: float) -> Iterator[Cell]:
    name, batch = method.rstrip("*"), thousands * THOUSAND
    predicted = loss_parts(name, batch, dim, gpus), step_parts(name, batch, gpus, VIT_L14, offload=name != method)
    for what, told, parts in zip(("loss", "peak"), paper, predicted):  # Table 2 has no peaks
        place = table, method, gpus, thousands, what
        yield Cell(*place, told, sum(parts.values()) / GB, place in FITTED)
