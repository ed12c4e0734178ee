"""Who picks LOGO's chunks? `python -m minilib bench scorers`: recall, pairs and aligned models by scorer; our own."""

from minilib.bench.scorers.campaign import bench_scorers

__all__ = ["bench_scorers"]
