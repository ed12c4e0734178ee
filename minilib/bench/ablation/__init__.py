"""An experiment on the tiny model: LOGO next to its neighbours and without each of its parts, three seeds each.

`arms` says what is compared, `one_run` trains and measures one arm under one seed in a process of its own, `campaign`
runs them all and goes on where it stopped, `summary` turns the records into means, spread and verdicts, `pages` into a
page with figures. `bench_alignment` is the command `python -m minilib bench alignment`.
"""

from minilib.bench.ablation.campaign import bench_alignment

__all__ = ["bench_alignment"]
