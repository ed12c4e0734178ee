"""The trainers: one bare loop that a reader can follow line by line, one on top of transformers' own.

`ContrastiveTrainer` trains two towers at any batch size through the gradient cache (`grad_cache`), in one process or on
many ranks, and keeps whole checkpoints (`checkpoint`). `LogoTrainer` aligns a language model on preference pairs:
`collator` makes its batches, `objectives` its losses, `lora` its adapters, `stay_finite` stops it when it diverges,
`trainer_utils` has the rest.
"""

from importlib import import_module

from minilib.trainers.contrastive import ContrastiveConfig, ContrastiveTrainer
from minilib.trainers.grad_cache import cached_backward

LATER = {  # most of these import transformers, which contrastive training can do without
    "DivergedError": "minilib.trainers.trainer_utils",
    "LogoConfig": "minilib.trainers.logo",
    "LogoTrainer": "minilib.trainers.logo",
    "last_checkpoint": "minilib.trainers.trainer_utils",
    "lora_config": "minilib.trainers.lora",
    "remove_unfinished_checkpoints": "minilib.trainers.trainer_utils",
}
__all__ = ["ContrastiveConfig", "ContrastiveTrainer", "cached_backward", *LATER]


def __getattr__(name: str):
    if name in LATER:
        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module 'minilib.trainers' has no attribute {name!r}")
