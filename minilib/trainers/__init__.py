"""The trainers: bare loops that a reader can follow line by line.

`ContrastiveTrainer` trains two towers at any batch size through the embedding cache, in one process or on many ranks;
what ranks share is in `ranks`, what a step depends on in `schedule`.
"""

from minilib.trainers.contrastive import ContrastiveTrainer
from minilib.trainers.embedding_cache import cached_backward

__all__ = ["ContrastiveTrainer", "cached_backward"]
