"""Three ways to one training step on a prompt with 1 + M answers, and the gate that they pass before any is timed.

    way              what the model reads                  loss
    shared           the prompt once, all answers behind   LOGO from answer tokens alone, in one sweep of the vocabulary
    concatenated     1 + M full sequences as a batch       the same: what sharing is compared with
    TRL CPOTrainer   2 full sequences (M = 1)              SimPO and an SFT term from the logits of all tokens

The first two are `LogoTrainer`'s objective, the third `compute_loss` of TRL's trainer, whose loss is ours for one pair:
the mean of its cross entropy is that over the chosen answer. TRL counts plain positions, which cost the same. AdamW has
learning rate 0: all work is done, and every way meets the same weights in every round.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minilib.bench import correctness, step_models
from minilib.bench.harness import describe
from minilib.longcontext import pack_answers, prompt_positions, stack_packed

SHARED, CONCATENATED, TRL = "shared", "concatenated", "TRL CPOTrainer"
LOSS = {"beta": 10.0, "gamma": 3.0, "sft_weight": 0.1}
CHUNKS = 16  # pieces that a prompt is cut into, as in the paper
TOLERANCE = 1e-4
GATE = {"prompt": 96, "answer": 12, "target": 768}
GATE_REJECTED = (1, 3)


class Way(NamedTuple):
    """One way with M rejected answers."""

    kind: str
    rejected: int

    @property
    def name(self) -> str:
        return f"{self.kind}, M = {self.rejected}"

    @property
    def base(self) -> str:  # the one that this is compared with
        return Way(CONCATENATED, self.rejected).name

    def tokens(self, prompt: int, answer: int) -> int:  # that the model reads in one step
        answers = 1 + self.rejected
        return prompt + answers * answer if self.kind == SHARED else answers * (prompt + answer)


class Row(NamedTuple):
    """Token ids and positions of one example with as many answers as any method needs."""

    prompt: Tensor
    answers: list[Tensor]
    positions: Tensor


def available(rejected: Sequence[int]) -> tuple[list[Way], dict[str, str]]:
    """The methods that run here, and a sentence for each of the others."""
    found, trl = [Way(way, count) for count in rejected for way in (CONCATENATED, SHARED)], Way(TRL, 1)
    if 1 not in rejected:
        return found, {}
    there = importlib.util.find_spec("trl")
    return ([trl, *found], {}) if there else (found, {trl.name: "trl is not installed: pip install trl."})


def make_row(vocab: int, prompt: int, answer: int, target: int, *, count: int, seed: int = 0, uneven=False) -> Row:
    """A random example with `count` answers, its prompt of 16 chunks stretched to `target`."""
    generator = torch.Generator().manual_seed(seed)
    sizes, tail = [prompt // CHUNKS] * CHUNKS, prompt % CHUNKS
    positions = prompt_positions(0, sizes, tail, target, answer=answer, generator=generator)
    ids, answers = (torch.randint(vocab, size, generator=generator) for size in ((prompt,), (count, answer)))
    return Row(ids, [y[: answer - k % 4] if uneven else y for k, y in enumerate(answers)], positions)


class Bench:
    """A model, its optimizer and TRL's trainer where it is wanted: what one step needs."""

    def __init__(self, model, route: str = "auto", with_trl: bool = False):
        from minilib.trainers.objectives import make_objective

        self.model, self.vocab = model, model.config.vocab_size
        self.flex = route == "flex"
        routes = {SHARED: route, CONCATENATED: "separate"}
        self.objectives = {way: make_objective("logo", **LOSS, route=route) for way, route in routes.items()}
        self.trainer = _trl_trainer(model) if with_trl else None
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=0.0, weight_decay=0.0)

    def batch(self, method: Way, row: Row, plain: bool = False):
        """What this method is given for one row, on the model's device; `plain` leaves its positions unstretched."""
        answers = row.answers[: 1 + method.rejected]
        if method.kind == TRL:
            return _trl_batch(self.trainer, row.prompt.tolist(), [y.tolist() for y in answers])
        return stack_packed([pack_answers(row.prompt, answers, None if plain else row.positions)]).to(self.model.device)

    def loss(self, method: Way, batch) -> Tensor:
        """The loss with its graph."""
        attention = "flex_attention" if self.flex and method.kind == SHARED else "sdpa"
        getattr(self.model, "get_base_model", lambda: self.model)().set_attn_implementation(attention)
        if method.kind == TRL:
            return self.trainer.compute_loss(self.model, batch)
        return self.objectives[method.kind](self.model, batch)[0]

    def step(self, method: Way, batch) -> Tensor:
        """One training step; its gradients are let go, so that the next step finds the memory that this one found."""
        loss = self.loss(method, batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def outcome(self, method: Way, batch) -> list[Tensor]:
        """The loss and the gradient of every trained parameter."""
        loss = self.loss(method, batch)
        return [loss.detach(), *torch.autograd.grad(loss, self.trained)]


def gate(
    route: str, device: str, checkpointing: bool, with_trl: bool, rejected: Sequence[int] = GATE_REJECTED, plain=False
) -> tuple[dict[str, float], dict[str, str]]:
    """The largest relative error of loss and gradients of each method against the concatenated way, by norm.

    With it goes a sentence, without its end, for every way that is wrong or cannot be run.
    """
    model = step_models.build("toy", device=device, checkpointing=checkpointing, plain=plain)
    bench = Bench(model, route, with_trl)
    row = make_row(bench.vocab, **GATE, count=1 + max(rejected), uneven=True)
    errors, complaints = {}, {}
    for method in [*(Way(SHARED, count) for count in rejected), *[Way(TRL, 1)] * with_trl]:
        judge, plain = Way(CONCATENATED, method.rejected), method.kind == TRL
        try:
            error = correctness.largest(*(bench.outcome(m, bench.batch(m, row, plain)) for m in (method, judge)))
        except Exception as failure:  # a way may fail in any way; the run goes on and the report says so
            complaints[method.kind] = f"it failed ({describe(failure)})"
            continue
        errors[method.name] = error
        if not error <= TOLERANCE:  # NaN is within no tolerance
            complaints[method.kind] = f"its loss or gradients differ by {error:.1e} (M = {method.rejected})"
    return errors, complaints


def _trl_trainer(model):
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from datasets import Dataset, disable_progress_bars
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    from minilib.models.tiny_lm import tiny_lm

    disable_progress_bars()
    settings = {
        "loss_type": "simpo",
        "beta": LOSS["beta"],
        "simpo_gamma": LOSS["gamma"],
        "cpo_alpha": LOSS["sft_weight"],
    }
    settings |= {"max_length": 2**20, "remove_unused_columns": False, "report_to": []}
    # The model brings its precision and its checkpointing with it.
    settings |= {"bf16": False, "gradient_checkpointing": False, "use_cpu": model.device.type == "cpu"}
    rows = Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}])  # asked for, and never read
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = CPOConfig(folder, **settings)
        return CPOTrainer(model=model, args=args, train_dataset=rows, processing_class=tiny_lm()[1])


def _trl_batch(trainer, prompt: list[int], answers: list[list[int]]) -> dict[str, Tensor]:
    row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        ids = prompt + answer
        row |= {f"{name}_input_ids": ids, f"{name}_attention_mask": [1] * len(ids)}
        row[f"{name}_labels"] = [-100] * len(prompt) + answer
    return {name: value.to(trainer.args.device) for name, value in trainer.data_collator([row]).items()}
