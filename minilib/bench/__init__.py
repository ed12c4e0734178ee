"""Side-by-side measurements, one file per claim: our losses beside named peers, in one process, in one run.

`bench_contrastive`, `bench_logps` and `bench_prefix` are the commands `python -m minilib bench contrastive | logps |
prefix`; the parts below them are plain functions.
"""

from minilib.bench.contrastive import bench_contrastive
from minilib.bench.logps import bench_logps
from minilib.bench.prefix import bench_prefix

__all__ = ["bench_contrastive", "bench_logps", "bench_prefix"]
