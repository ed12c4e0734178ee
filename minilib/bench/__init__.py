"""Side-by-side measurements, one file per claim: our losses beside named peers, in one process, in one run.

`bench_contrastive` is the command `python -m minilib bench contrastive`; the parts below it are plain functions.
"""

from minilib.bench.contrastive import bench_contrastive

__all__ = ["bench_contrastive"]
