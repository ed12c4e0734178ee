"""A text encoder that scores chunks, and its tuning with the tiled loss at a batch of a thousand.

    f(text)            mean over its tokens of what the encoder gives, normalised
    scorer(chunk)      <f(chunk), f(question)>
    tuning             clip_loss of (question, chunk) pairs; both sides are the same encoder, the gradient cache holds
                       the batch

Two pairs of a batch may answer each other's questions (same person, a kind that is asked for). Where several pairs have
one question, the loss asks for all of their chunks alike and ends above zero; such pairs are counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minilib.bench.real_alignment.one_run import OutOfTimeError
from minilib.bench.scorers import people
from minilib.models.loading import place_of
from minilib.models.pretrained import pooled
from minilib.trainers import ContrastiveTrainer
from minilib.trainers.contrastive import batch_indices

SCALE = 20.0  # where the logit scale starts: sentence-transformers' own
AT_ONCE = 64  # texts of like length that are read together


class TextEncoder(nn.Module):
    """One encoder for both sides of a pair, under the names that `ContrastiveTrainer` uses."""

    def __init__(self, model: nn.Module, tokenizer):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.logit_scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit features `(k, d)`; texts of like length are read together, so that little is padded."""
        order = sorted(range(len(texts)), key=lambda k: len(texts[k]))
        parts = [self._read([texts[k] for k in order[at : at + AT_ONCE]]) for at in range(0, len(order), AT_ONCE)]
        return torch.cat(parts)[torch.tensor(order).argsort()]

    encode_image = encode_text

    def _read(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        output = self.model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return F.normalize(pooled(output, tokens["attention_mask"], mean=True), dim=-1)

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> Tensor:
        """`encode_text` without a graph, in evaluation mode."""
        return self.eval().encode_text(texts)


def load_encoder(quick: bool = False, seed: int = 0) -> TextEncoder:
    """MiniLM as it comes; for a quick look a random encoder of two layers."""
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

    if not quick:
        place = place_of("minilm")
        return TextEncoder(
            AutoModel.from_pretrained(place, trust_remote_code=False),
            AutoTokenizer.from_pretrained(place, trust_remote_code=False),
        )
    from minilib.models.tiny_lm import tiny_lm

    torch.manual_seed(seed)
    tokenizer = tiny_lm()[1]
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.pad_token or tokenizer.eos_token, "right"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return TextEncoder(BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)), tokenizer)


class CosineScorer:
    """The scorer for `build_pairs`; what it has read before, it remembers."""

    def __init__(self, encoder: TextEncoder):
        self.encoder, self.known = encoder, {}

    def __call__(self, chunk: str, question: str, row: dict) -> float:
        chunk_features, question_features = self.features([chunk, question])
        return float(chunk_features @ question_features)

    def features(self, texts: Sequence[str]) -> Tensor:
        """Features `(k, d)` of the texts; those that are new are read together."""
        if new := [text for text in dict.fromkeys(texts) if text not in self.known]:
            self.known.update(zip(new, self.encoder.features(new)))
        return torch.stack([self.known[text] for text in texts])


def tune(batch: int, settings: dict[str, Any], folder: Path, deadline: float | None) -> dict[str, Any]:
    """Tune the encoder at this batch size, or go on; writes `encoder.pt` into the folder and returns the record."""
    columns = people.training_pairs(settings["tuning_pairs"], settings["tuning_words"], settings["tuning_seed"])
    groups, rows = columns.pop("groups"), _Rows(columns)
    steps = settings["tuning_steps"] * settings["batches"][0] // batch  # as many pairs at every batch
    encoder = load_encoder(settings["quick"])

    def stop(trainer: ContrastiveTrainer, record: dict) -> None:
        nonlocal began  # so that the sum goes on after an interrupt
        before = trainer.records[-2]["cpu_seconds"] if len(trainer.records) > 1 else 0.0
        record["cpu_seconds"], began = round(before + time.process_time() - began, 1), time.process_time()
        if deadline is not None and time.time() > deadline and record["step"] + 1 < steps:
            trainer.save()
            raise OutOfTimeError

    began = time.process_time()
    trainer = ContrastiveTrainer(
        encoder, rows, callbacks=[stop], batch_size=batch, micro_batch_size=settings["micro_batch"], steps=steps,
        lr=settings["lr"] * math.sqrt(batch / settings["batches"][0]), warmup=max(1, steps // 5),
        seed=settings["tuning_seed"], output_dir=folder, save_every=max(1, steps // 8), progress=f"batch {batch:,}",
    )  # fmt: skip
    records = trainer.train()
    torch.save(encoder.state_dict(), folder / "encoder.pt")
    return {
        "batch": batch, "steps": steps, "lr": trainer.settings["lr"], "others": _others(groups, batch, steps, trainer),
        "losses": [round(record["loss"], 4) for record in records], "last": records[-1]["loss"],
        "scale": records[-1]["scale"], "spent": records[-1]["cpu_seconds"], "distinct": len({*columns["image"]}),
    }  # fmt: skip


def _others(groups: list[tuple], batch: int, steps: int, trainer: ContrastiveTrainer) -> float:
    """How many other chunks of its batch answer a question, on average: the false negatives."""
    found, seed = [], trainer.settings["seed"]
    for step in range(min(steps, 8)):
        picked = [groups[k] for k in batch_indices(step, len(groups), batch, seed).tolist()]
        held: dict[tuple, int] = {}
        for person, _, kind in picked:
            held[person, kind] = held.get((person, kind), 0) + 1
        found += [sum(held.get((person, kind), 0) for kind in kinds) - 1 for person, kinds, _ in picked]
    return sum(found) / len(found)


class _Rows:
    """Columns by a list of row numbers, as ContrastiveTrainer reads them."""

    def __init__(self, columns: dict[str, list[str]]):
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["image"])

    def __getitem__(self, rows: list[int]) -> dict[str, list[str]]:
        return {name: [column[k] for k in rows] for name, column in self.columns.items()}
