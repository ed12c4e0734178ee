"""The trainers: one bare loop that a reader can follow line by line, one on top of transformers' own.

`ContrastiveTrainer` trains two towers at any batch size through the embedding cache, in one process or on many ranks;
what ranks share is in `ranks`, what a step depends on in `schedule`. `LogoTrainer` aligns a language model on pairs of
answers: `numbered` looks through its rows, `pair_rows` makes its batches, `objectives` its losses, `adapters` its LoRA;
`wrapped` takes it past DDP and FSDP, `means` and `memory` fill its log, `resume` finds the checkpoint to go on from.
"""

from importlib import import_module

from minilib.trainers.contrastive import ContrastiveTrainer
from minilib.trainers.embedding_cache import cached_backward

LATER = {  # these import transformers, which contrastive training can do without
    "LogoTrainer": "minilib.trainers.logo",
    "last_checkpoint": "minilib.trainers.resume",
    "lora_config": "minilib.trainers.adapters",
}
__all__ = ["ContrastiveTrainer", "cached_backward", *LATER]


def __getattr__(name: str):
    if name in LATER:
        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module 'minilib.trainers' has no attribute {name!r}")
