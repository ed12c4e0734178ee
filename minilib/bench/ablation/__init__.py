"""Experiments on the tiny model: `python -m minilib bench alignment`, LOGO without each of its parts, three seeds;
`python -m minilib bench preference`, when its preference term pays, and on how many texts its gain holds."""

from minilib.bench.ablation.campaign import bench_alignment
from minilib.bench.ablation.questions import bench_preference

__all__ = ["bench_alignment", "bench_preference"]
