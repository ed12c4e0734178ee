"""Side-by-side measurements, one file per claim: our losses and steps next to named peers, in one run.

The commands `python -m minilib bench contrastive | logps | prefix | step` are functions here, `alignment` and
`preference` in `ablation`, `answers` in `real_alignment`, `batches` in `batches`, `scorers` in `scorers`, `gpu` in
`gpu`; the other files are what they share.
"""

from minilib.bench.contrastive import bench_contrastive
from minilib.bench.logps import bench_logps
from minilib.bench.prefix import bench_prefix
from minilib.bench.step import bench_step

__all__ = ["bench_contrastive", "bench_logps", "bench_prefix", "bench_step"]
