"""The settings of one `logo` run: what was asked for, with every gap filled, and nothing that cannot be trained.

    setting        "tiny"              other models       where the others' comes from
    lora_rank      16                  32                 the released scripts
    lora_modules   q_proj k_proj       and v_proj o_proj  the released code
    lr             1e-3                1e-5               one of the authors' experiment scripts
    batch_size     8                   1                  the paper's, on each card
    accumulate     1                   8                  the paper's
    num_chunks     8                   16                 the paper
    chunk_size     min(512, floor(7/8 W / num_chunks))    512 in the paper, less where the window is small
    target         4 W                                    the paper asks for 8 times its real 8K tokens

where
    W              the model's window; an eighth of it is kept for the question and the answer

Full fine-tuning (`lora_rank` 0) has no default learning rate: that of an adapter would wreck the weights.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from minilib.longcontext.positions import MODES
from minilib.longcontext.rope import METHODS
from minilib.models.loading import is_tiny, pick_attention, pick_dtype
from minilib.trainers.lora import ATTENTION
from minilib.trainers.objectives import make_objective

TINY = {"lora_rank": 16, "lora_modules": list(ATTENTION[:2]), "lr": 1e-3, "batch_size": 8, "accumulate": 1}
TINY |= {"num_chunks": 8}
OTHERS = {"lora_rank": 32, "lora_modules": list(ATTENTION), "lr": 1e-5, "batch_size": 1, "accumulate": 8}
OTHERS |= {"num_chunks": 16}
THRESHOLDS = {"exact": 0, "rare_words": 6, "entities": 6}
COUNTS = (
    "steps",
    "batch_size",
    "accumulate",
    "save_every",
    "rows",
    "num_rejected",
    "answer_tokens",
    "chunk_size",
    "length",
)
HAYSTACK = "haystack"


def fill(given: dict, window: int) -> dict:
    """The arguments of `logo` with their defaults for a model of this window; ValueError for what cannot be trained."""
    _check_names(given)
    if given["lora_rank"] == 0 and given["lr"] is None:
        raise ValueError("lr has no default without LoRA (lora_rank 0): give one, the released scripts have 5e-7.")
    defaults = TINY if is_tiny(given["model"]) else OTHERS
    filled = {name: defaults.get(name) if value is None else value for name, value in given.items()}
    if given["target"] is None:
        filled["target"] = 4 * window
    if given["chunk_size"] is None:
        filled["chunk_size"] = min(512, window * 7 // 8 // filled["num_chunks"])
    if given["length"] is None:  # a little more than four times what is read at a time, as tiny_lm's 960 tokens
        filled["length"] = 30 * filled["chunk_size"] * filled["num_chunks"] // 7
    if given["scorer"] is None:
        filled["scorer"] = "exact" if given["data"] == HAYSTACK else "rare_words"
    if given["threshold"] is None:
        filled["threshold"] = THRESHOLDS[filled["scorer"]]
    _check_numbers(filled, window)
    return filled | {"window": window}


def to_compare(settings: dict) -> dict:
    """What makes a run the run it is: all but where it lies and how often it saves, with its data and its ranks."""
    kept = {name: value for name, value in settings.items() if name not in ("output", "save_every")}
    return kept | {"data_sha256": _fingerprint(settings["data"]), "ranks": int(os.environ.get("WORLD_SIZE", 1))}


def _check_names(given: dict) -> None:
    make_objective(**{name: given[name] for name in ("loss", "beta", "gamma", "sft_weight")})
    pick_dtype(given["dtype"], "cpu")
    pick_attention(given["attention"])
    for name, known in (("positions", MODES), ("rope", METHODS), ("scorer", (None, *THRESHOLDS))):
        if given[name] not in known:
            raise ValueError(
                f"{name} {given[name]!r} is unknown: choose one of {', '.join(repr(k) for k in known if k)}."
            )
    for name, fixed in (("scorer", "exact"), ("threshold", 0)):
        if given["data"] == HAYSTACK and given[name] not in (None, fixed):
            raise ValueError(f"{name} is {given[name]!r} and data 'haystack', where facts are known: leave it out.")
    if given["data"] != HAYSTACK and given["scorer"] == "exact":
        raise ValueError("scorer 'exact' needs the facts of haystacks: choose 'rare_words' or 'entities'.")
    if given["data"] != HAYSTACK and not Path(given["data"]).is_file():
        raise ValueError(f"data {given['data']!r} is no file: give 'haystack', or the path of pairs or questions.")


def _check_numbers(settings: dict, window: int) -> None:
    for name in COUNTS:
        if settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}: give a positive whole number.")
    for name in ("lora_rank", "warmup", "temperature", "target"):
        if settings[name] < 0:
            raise ValueError(f"{name} is {settings[name]}: give 0 or more.")
    if not settings["lr"] > 0:
        raise ValueError(f"lr is {settings['lr']}: give a positive learning rate.")
    if settings["rope"] != "none" and settings["target"] <= window:
        raise ValueError(
            f"rope is {settings['rope']!r} and target {settings['target']}: angles are stretched to a target beyond "
            f"the window of {window} tokens."
        )


def _fingerprint(data: str) -> str | None:
    if data == HAYSTACK:
        return None
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
