"""The ring: every rank keeps its images, the text blocks travel, and each block meets all images once.

    step k     rank p holds the texts of rank p - k (mod W), and the images that are its own
    forward    rows stay      R_p  = sum over k of the row sums of block (p, p - k)
               columns meet   C    = sum over ranks of their column sums, one vector of b numbers
    backward   dimg_p stays   sum over k of G txt_{p-k}
               dtxt follows   rank p adds its G^T img to the gradient that came with the texts, and passes it on

where
    W, b, d    ranks, pairs of all ranks together, width of the features
    G          gradient of the logits of one block, tile by tile (`tiled`) or in registers (`fused`)
    bytes      a rank sends (b - m') d e per sweep of the texts and (b - m) d g of gradients, with m and m' its own rows
               and those of the next rank, e and g bytes per number of features and gradients; see `bytes_sent`

A rank's part is written as a generator: it yields what it hands on and receives what came in, and does not know whether
the others are processes on many machines or live beside it. Who carries the messages is the business of `wire`, what a
rank computes on a block that of `ring_visits`.

Departures from the paper: Inf-CL sends both sides around, one ring per direction, all in fp32, and lets every gradient
travel W hops; here one sweep of the texts serves both directions, in the dtype of the features, and a rank keeps the
gradient of its own block, so that gradients travel W - 1 hops: 9 instead of 20 bytes per element of b x d in fp32 on
4 ranks. Its Algorithm 3 takes text i + j - 1 at step j; what arrives from the previous rank is text i - j + 1.

Taught in notebooks/06_pass_tiles_around_a_ring.ipynb.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

Visit = Callable[[int, Tensor], Tensor | None]


class Place(NamedTuple):
    """Where a rank sits in the ring, and how many rows every rank brings."""

    rank: int
    counts: Sequence[int]

    @property
    def ranks(self) -> int:
        return len(self.counts)

    @property
    def pairs(self) -> int:
        return sum(self.counts)

    def holds(self, step: int) -> int:
        """The rank whose texts are here at `step`; after a whole round they are the own ones again."""
        return (self.rank - step) % self.ranks

    def columns(self, owner: int) -> slice:
        """The columns of the whole matrix that belong to `owner`."""
        start = sum(self.counts[:owner])
        return slice(start, start + self.counts[owner])


# What a rank asks of whoever runs it


class Pass(NamedTuple):
    """Hand `tensor` to the next rank and take what the previous one hands over, `rows` rows; answered by a `wait()`."""

    what: str  # "texts" or "gradients"
    step: int
    owner: int  # whose rows leave
    tensor: Tensor
    rows: int


class Work(NamedTuple):
    """Not a message: this rank now computes on the texts of `owner`."""

    what: str
    step: int
    owner: int


class Gather(NamedTuple):
    """Tell every rank these numbers; answered by the numbers of all ranks, in their order."""

    what: str
    numbers: Sequence[float]


class Total(NamedTuple):
    """Add up (or take the largest of) `tensor` over all ranks, entry by entry; answered by the result."""

    what: str
    tensor: Tensor
    largest: bool = False


Program = Generator[Pass | Work | Gather | Total, Any, Any]


def sweep(place: Place, txt: Tensor, what: str, visit: Visit) -> Program:
    """Let every text block pass this rank once; returns the gradient of the own texts, where there is one.

    `visit(owner, block)` is the work on one block. When it returns a gradient of the block, that gradient follows the
    block around the ring, each rank adding its part, and the last one hands it to the owner.
    """
    block, home, following = txt.contiguous(), None, None
    for step in range(place.ranks):
        owner, following_rows = place.holds(step), place.counts[place.holds(step + 1)]
        if step + 1 < place.ranks:  # on its way before the work begins, so that the wire and the arithmetic overlap
            arriving = yield Pass("texts", step, owner, block, following_rows)
        yield Work(what, step, owner)
        grad = visit(owner, block)  # (rows of owner, d)
        if grad is not None and step == 0:
            home = grad  # the own block has the longest way: its gradient waits here
        elif grad is not None:
            if following is not None:
                grad += following.wait()  # what the ranks before have added for this owner
            following = yield Pass("gradients", step, owner, grad, following_rows)
        if step + 1 < place.ranks:
            block = arriving.wait()
    if following is not None:
        home += following.wait()
    return home


def bytes_sent(
    counts: Sequence[int], rank: int, dim: int, feature_bytes: int, *, loss: str = "clip", txt_wanted: bool = True
) -> dict[str, int]:
    """Bytes that `rank` hands on in one step (forward and backward), by kind: the formulas above.

    Collective messages count as what a rank puts in: 2 (b + 1) numbers of the table of column sums.
    """
    if len(counts) == 1:
        return {}
    number = max(4, feature_bytes)  # sums and gradients are fp32 at least
    sweeps = 2 if loss == "clip" else 1
    texts = sweeps * (sum(counts) - counts[(rank + 1) % len(counts)]) * dim * feature_bytes
    gradients = (sum(counts) - counts[rank]) * dim * number if txt_wanted else 0
    columns = 2 * (sum(counts) + 1) * number if loss == "clip" else 0
    return {kind: size for kind, size in zip(("texts", "gradients", "columns"), (texts, gradients, columns)) if size}
