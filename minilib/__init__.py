"""minilib: two memory walls and how they fell, as a small library to read.

Everything here folds running log-sum-exps (`minilib.lse`) over tiles, ranks or a vocabulary.
Importing it is quick and needs neither triton, transformers, datasets nor a GPU.
"""

from importlib import import_module

from minilib import lse
from minilib.losses import clip_loss, siglip_loss

__version__ = "0.1.0"

# These come on first use: the contrastive losses should not wait for what only training or LOGO needs.
LATER = {
    "ContrastiveTrainer": "minilib.trainers",
    "LogoConfig": "minilib.trainers.logo",
    "LogoTrainer": "minilib.trainers.logo",
    "build_pairs": "minilib.preferences",
    "cpo_loss": "minilib.losses.preference",
    "dpo_loss": "minilib.losses.preference",
    "logo_loss": "minilib.losses.preference",
    "orpo_loss": "minilib.losses.preference",
    "pack_answers": "minilib.longcontext",
    "pro_loss": "minilib.losses.preference",
    "sequence_logps": "minilib.longcontext.scoring",
    "simpo_loss": "minilib.losses.preference",
    "synthesize_positions": "minilib.longcontext",
    "token_logps": "minilib.losses.logps",
}
__all__ = ["clip_loss", "lse", "siglip_loss", *LATER]


def __getattr__(name: str):
    if name in LATER:
        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module 'minilib' has no attribute {name!r}")
