"""An experiment on the tiny model, `python -m minilib bench alignment`: LOGO without each of its parts, three seeds."""

from minilib.bench.ablation.campaign import bench_alignment

__all__ = ["bench_alignment"]
