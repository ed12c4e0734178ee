"""Bytes that a rank of the ring sends in one step of training, forward and backward, on paper.

    texts       s (b - m') d e        once for each of s sweeps: two for InfoNCE, one for SigLIP
    gradients   (b - m) d g           the gradient of every block but the own one
    columns     2 (b + 1) g           what the rank puts into the table of column sums (InfoNCE)

where
    b, d     pairs of all ranks together, width of the features
    m, m'    rows of this rank and of the next one
    e, g     bytes per number of features, and of sums and gradients, which are fp32 at least

The ring itself counts what it sends (`minilib.distributed.ring_comm.Trace`); a test compares both. Taught in
notebooks/06_pass_tiles_around_a_ring.ipynb.
"""

from collections.abc import Sequence


def bytes_sent(
    counts: Sequence[int], rank: int, dim: int, feature_bytes: int, *, loss: str = "clip", txt_wanted: bool = True
) -> dict[str, int]:
    """Bytes that `rank` sends by kind of message, for `counts` rows on each rank: the formulas above."""
    if len(counts) == 1:
        return {}
    number = max(4, feature_bytes)
    sweeps = 2 if loss == "clip" else 1
    texts = sweeps * (sum(counts) - counts[(rank + 1) % len(counts)]) * dim * feature_bytes
    gradients = (sum(counts) - counts[rank]) * dim * number if txt_wanted else 0
    columns = 2 * (sum(counts) + 1) * number if loss == "clip" else 0
    return {kind: size for kind, size in zip(("texts", "gradients", "columns"), (texts, gradients, columns)) if size}
