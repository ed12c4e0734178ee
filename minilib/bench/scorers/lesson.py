"""What lesson 15 computes with: MiniLM's features of the chunks and questions of some texts, stored.

Eight bits a number, with the largest number of each array: some 800 kB. The texts themselves are made anew from their
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
from minilib.bench.scorers.encoder import TextEncoder

CELL, TEXTS, PAIRS = "other words, unseen", 20, 1_024
PATH = Path(__file__).parents[3] / "book" / "results" / "scorers.npz"


def write(encoder: TextEncoder, settings: dict[str, Any], path: Path) -> None:
    """Store the encoder's features of the first texts, and of some training pairs."""
    texts = recall.asked_texts(CELL, settings)[:TEXTS]
    pairs = people.training_pairs(
        min(PAIRS, settings["tuning_pairs"]), settings["tuning_words"], settings["tuning_seed"]
    )
    kept: dict[str, np.ndarray] = {}
    _keep(kept, "chunks", encoder.features([chunk for text in texts for chunk in text["chunks"]]))
    _keep(kept, "questions", encoder.features([row["question"] for text in texts for row in text["rows"]]))
    _keep(kept, "train questions", encoder.features(pairs["image"]))
    _keep(kept, "train chunks", encoder.features(pairs["caption"]))
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
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
