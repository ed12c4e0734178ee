"""Means of metrics over the rows of many batches, in one process or on all ranks.

    mean = sum over batches of (rows x value) / sum over batches of rows

A batch that is cut short at the end of the data thus counts for no more rows than it has. Where ranks share an
evaluation and its rows do not come out even, accelerate gives a few rows twice; they are counted twice here.

Proven in tests/test_logo_trainer_minimises_its_losses.py and tests/test_logo_training_on_two_ranks_equals_one.py.
"""

import torch
from torch import Tensor


class RowMeans:
    """Named numbers that were averaged over the rows of their batch, waiting for the next log."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.rows = 0

    def add(self, metrics: dict[str, Tensor], rows: int) -> None:
        """One batch of so many rows; stays on the device of the metrics."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + rows * value.float()
        self.rows += rows

    def take(self, accelerator) -> dict[str, float]:
        """The means so far, over all ranks; then starts anew."""
        if not self.rows:
            return {}
        names, sums = list(self.sums), torch.stack(list(self.sums.values()))
        totals = accelerator.reduce(torch.cat([sums, sums.new_tensor([self.rows])]), "sum")
        self.__init__()
        return dict(zip(names, (totals[:-1] / totals[-1]).tolist()))
