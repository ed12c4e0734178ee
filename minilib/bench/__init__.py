"""Side-by-side measurements, one file per claim: our losses beside named peers, in one process, in one run.

`bench_contrastive`, `bench_logps`, `bench_prefix` and `bench_step` are the commands `python -m minilib bench
contrastive | logps | prefix | step`; the parts below them are plain functions.
"""

from minilib.bench.contrastive import bench_contrastive
from minilib.bench.logps import bench_logps
from minilib.bench.prefix import bench_prefix
from minilib.bench.step import bench_step

__all__ = ["bench_contrastive", "bench_logps", "bench_prefix", "bench_step"]
