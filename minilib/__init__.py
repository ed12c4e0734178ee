"""minilib: two memory walls and how they fell, as a small library to read.

Everything here folds running log-sum-exps (`minilib.lse`) over tiles, ranks or a vocabulary.
Importing it is quick and needs neither triton, transformers, datasets nor a GPU.
"""

from minilib import lse
from minilib.losses import clip_loss, siglip_loss

__version__ = "0.1.0"
__all__ = ["ContrastiveTrainer", "clip_loss", "lse", "siglip_loss"]


def __getattr__(name: str):
    # The trainer comes on first use: the losses should not wait for what only training needs.
    if name == "ContrastiveTrainer":
        from minilib.trainers import ContrastiveTrainer

        return ContrastiveTrainer
    raise AttributeError(f"module 'minilib' has no attribute {name!r}")
