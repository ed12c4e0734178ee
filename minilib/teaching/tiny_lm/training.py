"""Trains `tiny_lm` on short haystacks: one command, minutes on one core, and a record of what came out.

    python -m minilib.teaching.tiny_lm.training --output runs/tiny_lm

    loss = CE(answers) + text_weight * CE(running text) + hints * (L_name + L_value)

    L_name = - mean log A_0[q, p]        L_value = - mean log A_1[q, p]

where
    CE     cross entropy, mean over tokens; of the running text every eighth token, drawn anew each step
    A_k    attention of head 0 in layer k; every row sums to one
    q, p   places of the hints (`documents.py`): who should look where

The hints help at the beginning only. Finding a value by its name takes two steps of attention, and neither is of use
before the other is there: in trials without hints (two layers, documents of 64 tokens) 700 steps did not get beyond
guessing among the values of a document, with them a hundred steps did. They are gone in the last stage, and they only
ever show distances within the window. A longer run with more counts and shared values learned those no better and found
0.7 of the details at four windows, so it was not kept: how far such a model reaches by luck differs from run to run.

Stages lengthen the documents from 64 to 256 tokens. Matrices learn by Muon, the rest by AdamW. Every hundred steps the
model answers fresh haystacks that fill the window, and the best model of the last stage is kept.

Taught in notebooks/08_see_long_context_models_fail.ipynb.
"""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minilib.data.facts import KINDS, as_prompt
from minilib.data.haystack import haystack
from minilib.models.tiny_lm import WINDOW, new_model, new_tokenizer, tiny_lm
from minilib.teaching.tiny_lm.documents import Batch, Stage, make_batch

STAGES = (
    Stage(steps=150, batch=48, length=64, names=(2, 4), asked=(3, 4), hints=1.0),
    Stage(steps=150, batch=32, length=128, names=(2, 8), asked=(2, 7), hints=1.0),
    Stage(steps=200, batch=16, length=WINDOW, names=(2, 10), asked=(2, 10), hints=0.3),
    Stage(steps=500, batch=16, length=WINDOW, names=(2, 10), asked=(1, 10), hints=0.0),
)
EVERY = 100  # steps between two reports
PROBES = 64  # haystacks that a report asks about


def train_tiny_lm(
    output: Path = Path("runs/tiny_lm"),
    seed: int = 0,
    lr: float = 5e-3,
    text_weight: float = 0.1,
    stages: tuple[Stage, ...] = STAGES,
    samples: int = 200,
    progress: bool = True,
) -> dict:
    """Train from scratch; save config, weights, tokenizer and training.json in `output`; return the record.

    Args:
        output: the folder; `tiny_lm(folder)` loads from it.
        seed: of weights and documents.
        lr: peak learning rate, reached after 30 steps; it falls to a tenth over the last stage.
        text_weight: weight of the running text, where answers have weight 1.
        stages: the curriculum.
        samples: haystacks behind every score of the finished model, for each of three seeds.
        progress: show a bar.
    """
    from tqdm.auto import tqdm

    torch.manual_seed(seed)
    tokenizer, rng = new_tokenizer(), Random(f"documents of {seed}")
    model = new_model(len(tokenizer))
    optimizers, begin, best, recent = _optimizers(model, lr), time.process_time(), -1.0, []
    record = {"seed": seed, "lr": lr, "text_weight": text_weight, "stages": [s._asdict() for s in stages], "curve": []}
    plan = [(stage, k / stage.steps if stage is stages[-1] else 0.0) for stage in stages for k in range(stage.steps)]
    bar = tqdm(plan, desc="tiny_lm", disable=not progress)
    for step, (stage, done) in enumerate(bar, start=1):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = lr * min(1.0, step / 30) * (1 - 0.9 * done)
        recent.append(_step(model, optimizers, make_batch(rng, stage, tokenizer), text_weight, stage.hints))
        if step % EVERY and step < len(plan):
            continue
        point = {
            "step": step,
            "length": stage.length,
            **_mean(recent),
            "window": window_accuracy(model, tokenizer, seed),
        }
        record["curve"].append(point | {"cpu_seconds": round(time.process_time() - begin)})
        bar.set_postfix(answers=point["answer_accuracy"], window=point["window"])
        recent.clear()
        if stage is stages[-1] and point["window"] >= best:
            best = point["window"]
            _save(model, tokenizer, record | {"kept_step": step}, Path(output))
    return score_tiny_lm(output, samples=samples)


def score_tiny_lm(output: Path, seeds: tuple[int, ...] = (1, 2, 3), samples: int = 200) -> dict:
    """Measure the saved model inside its window and at four times its length; add that to training.json; return it.

    Accuracy by seed, `samples` haystacks each: every kind of question in the window, single details far beyond it.
    """
    from minilib.evals.longcontext import kind_scores

    model, tokenizer = tiny_lm(output)
    places = {f"{kind}, in the window": (kind, WINDOW - 32) for kind in KINDS}
    places |= {f"single, at {k} windows": ("single", k * WINDOW - 32) for k in (2, 4)}
    scores = {
        name: [kind_scores(model, tokenizer, kind=kind, length=n, samples=samples, seed=s)["accuracy"] for s in seeds]
        for name, (kind, n) in places.items()
    }
    path = Path(output) / "training.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record |= {"command": "python -m minilib.teaching.tiny_lm.training", "seeds": list(seeds), "samples": samples}
    record |= {"scores": scores, "torch": torch.__version__, "transformers": version("transformers")}
    path.write_text(json.dumps(record, indent=1) + "\n")
    return record


def _step(model: nn.Module, optimizers: list, batch: Batch, text_weight: float, hints: float) -> dict[str, float]:
    """One step of training; returns what it cost and how many first tokens of answers were right."""
    # Only the eager kernel hands out its attention, which the hints look at.
    model.set_attn_implementation("eager" if hints else "sdpa")
    # The mask is given although it is all ones: without one, transformers may read more into the positions.
    mask = torch.ones_like(batch.ids)
    out = model.model(input_ids=batch.ids, attention_mask=mask, use_cache=False, output_attentions=bool(hints))
    hidden, labels, answers = out.last_hidden_state[:, :-1], batch.ids[:, 1:], batch.answers[:, 1:]
    text = ~answers & (labels != model.config.pad_token_id) & (torch.rand(labels.shape) < 1 / 8)
    logits = model.lm_head(hidden[answers])  # (answer tokens, V): the head sees only what is scored
    answer_loss = F.cross_entropy(logits, labels[answers])
    text_loss = F.cross_entropy(model.lm_head(hidden[text]), labels[text])
    loss = answer_loss + text_weight * text_loss
    if hints:
        loss = loss + hints * (_unseen(out.attentions[0], batch.name) + _unseen(out.attentions[1], batch.value))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    begins = answers & ~F.pad(answers, (1, 0))[:, :-1]
    right = (logits.argmax(1) == labels[answers])[begins[answers]].float().mean()
    return {"answer_loss": answer_loss.item(), "text_loss": text_loss.item(), "answer_accuracy": right.item()}


def _unseen(attention: Tensor, hints: Tensor) -> Tensor:
    """- mean log A[q, p] over the hints (document, q, p), for head 0 of `attention` (b, heads, t, t)."""
    document, q, p = hints.unbind(1)
    return -(attention[document, 0, q, p] + 1e-6).log().mean()


def _optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    # With its update scaled to AdamW's usual size, Muon takes the same learning rate.
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)]


def _mean(points: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(sum(point[name] for point in points) / len(points), 4) for name in points[0]}


@torch.no_grad()
def window_accuracy(model: nn.Module, tokenizer, seed: int) -> float:
    """Share of fresh haystacks as long as the window whose single detail is the model's first choice."""
    right = 0
    rows = haystack(length=WINDOW - 16, seed=seed + 1_000_000, tokenizer=tokenizer)
    for row in islice(rows, PROBES):
        ids = tokenizer(as_prompt(row["context"], row["question"]), return_tensors="pt", return_token_type_ids=False)
        logits = model(**ids, logits_to_keep=1).logits[0, -1]
        right += logits.argmax().item() == tokenizer.encode(row["answer"])[0]
    return right / PROBES


def _save(model: nn.Module, tokenizer, record: dict, output: Path) -> None:
    """Config, weights, tokenizer, and how they came about."""
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    (output / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(train_tiny_lm, as_positional=False)
