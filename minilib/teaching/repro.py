"""Make a lesson give the same numbers twice: seeds, threads and example features.

A lesson prints three or four digits and compares them on every run, so whatever draws random numbers or adds in a
different order has to be pinned first. Seeds pin the draws. One thread pins the order in which partial sums are added:
fp32 addition is not associative, so more threads may change the last digit.

Used by the setup cell of every notebook.
"""

import random
import warnings
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def seed_everything(seed: int = 0) -> None:
    """Seed the global generators of Python, NumPy and torch.

    Raises ValueError for a seed outside 0 .. 2**32 - 1, the range that all three accept.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, but NumPy only takes 0 to 2**32 - 1: choose one in that range")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_threads(count: int = 1) -> None:
    """Let torch use `count` CPU threads, so that sums are added in the same order on every machine."""
    if count < 1:
        raise ValueError(f"count is {count}, but torch needs at least one thread: pass 1 or more")
    torch.set_num_threads(count)


def random_features(
    batch: int, dim: int, *, seed: int = 0, match: float = 0.5, dtype=torch.float32
) -> tuple[Tensor, Tensor]:
    """Two views of the same `batch` items: unit rows `(batch, dim)` whose partners resemble each other.

    `match` is the share of the common part: 0 gives unrelated views, 1 gives identical ones, and between them a view is
    `match * common + (1 - match) * own noise`, normalised. The same seed gives the same rows.
    """
    if not 0.0 <= match <= 1.0:
        raise ValueError(f"match is {match}, but it is a share: choose a number from 0 to 1")
    generator = torch.Generator().manual_seed(seed)
    common, img, txt = torch.randn(3, batch, dim, generator=generator, dtype=dtype)  # (b, d) each
    return tuple(F.normalize(match * common + (1 - match) * own, dim=-1) for own in (img, txt))


@contextmanager
def quiet():
    """One thread, and libraries say nothing but errors; all as before afterwards."""
    from transformers.utils import logging

    threads, verbosity, bars = torch.get_num_threads(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that will be another
            yield
    finally:
        torch.set_num_threads(threads)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
