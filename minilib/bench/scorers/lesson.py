"""What lesson 15 computes with: features of the chunks and questions of some texts, before and after tuning, stored.

Eight bits a number, with the largest number of each array: some 1 MB. The texts themselves are made anew from their
seed, so that the features fit as long as generator and running text stay as they are; their digest is kept.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minilib.bench.scorers import people, recall
from minilib.bench.scorers.encoder import CosineScorer

CELL, TEXTS, PAIRS = "other words, unseen", 20, 1_024
PATH = Path(__file__).parents[3] / "book" / "results" / "scorers.npz"


def write(as_it_comes: CosineScorer, tuned: CosineScorer, settings: dict[str, Any], path: Path) -> None:
    """Store the features of both encoders for the first texts, and of the first for some training pairs."""
    texts = recall.asked_texts(CELL, settings)[:TEXTS]
    kept: dict[str, np.ndarray] = {}
    for name, model in (("MiniLM", as_it_comes), ("tuned", tuned)):
        _keep(kept, f"{name} chunks", model.features([c for text in texts for c in text["chunks"]]))
        _keep(kept, f"{name} questions", model.features([row["question"] for text in texts for row in text["rows"]]))
    pairs = people.training_pairs(
        min(PAIRS, settings["tuning_pairs"]), settings["tuning_words"], settings["tuning_seed"]
    )
    _keep(kept, "train questions", as_it_comes.features(pairs["image"]))
    _keep(kept, "train chunks", as_it_comes.features(pairs["caption"]))
    np.savez_compressed(path, digest=np.array(digest(texts)), **kept)


def _keep(kept: dict[str, np.ndarray], name: str, features: Tensor) -> None:
    largest = features.abs().max()
    kept[name] = (features / largest * 127).round().to(torch.int8).numpy()  # (n, d)
    kept[f"{name}, largest"] = largest.numpy()


def digest(texts: list[dict]) -> str:
    """A fingerprint of chunks and questions."""
    return hashlib.sha256(repr([(t["chunks"], [r["question"] for r in t["rows"]]) for t in texts]).encode()).hexdigest()


def stored(settings: dict[str, Any], path: Path = PATH) -> tuple[list[dict], dict[str, Tensor]]:
    """The texts, and by name the unit features `(n, d)` that belong to them; ValueError where they do not."""
    texts, features = recall.asked_texts(CELL, settings)[:TEXTS], {}
    with np.load(path) as kept:
        if str(kept["digest"]) != digest(texts):
            raise ValueError(f"{path} belongs to other texts: make it anew with python -m minilib bench scorers.")
        for name in kept.files:
            if f"{name}, largest" in kept.files:
                numbers = torch.from_numpy(kept[name].astype(np.float32)) * float(kept[f"{name}, largest"])
                features[name] = torch.nn.functional.normalize(numbers, dim=1)
    return texts, features


def record(path: Path = PATH) -> dict[str, Any]:
    """What the experiment has found so far."""
    return json.loads(path.with_suffix(".json").read_text())
