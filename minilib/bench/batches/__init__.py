"""When does a larger batch pay? `python -m minilib bench batches`: recall against batch size and amount of data."""

from minilib.bench.batches.campaign import bench_batches

__all__ = ["bench_batches"]
