"""Two later methods in their smallest faithful form, in the same trainer and on the same pairs; the code is ours.

    r(x, y) = mean log p(y | x)          s, l: the short prompt (critical chunks alone) and the long one

    SoLoPO    - log sigma( beta (r(s, y_w) - r(s, y_l)) - gamma )  +  alpha beta |r(s, y_w) - r(l, y_w)|
    LongPO    - lambda log sigma( b [log p(y_w | l) - log q(y_w | s)] - b [log p(y_l | l) - log q(y_l | s)] )
              - r(l, y_w)                                         q: the model before training, which reads the short

where
    beta, gamma, alpha   10, 3 (SimPO's and LOGO's for Llama-3) and 1, ours
    b, lambda            0.1 and 0.01, LongPO's; its log-probabilities are sums

What is known of them. Of SoLoPO (arXiv 2505.11166) we know the abstract alone, which names two parts: preference on the
short prompt, and equal rewards of a response under both. The formula above is how we write them: SimPO as the
preference, an absolute difference, alpha. That the second part takes the chosen answer alone is a variant of the
authors', as a review of the paper says. Their formula may differ, so this arm is no judgement on it. LongPO's formula,
beta and lambda are as others quote them; its constraint is the model that reads the short prompt. Departures from it:
one rejected answer, one turn. The long prompt is LOGO's, of some 650 tokens, at the positions of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minilib.longcontext import Packed
from minilib.longcontext.scoring import sequence_logps
from minilib.trainers.collator import PairCollator, as_packed
from minilib.trainers.logo import LogoTrainer

BETA, GAMMA, ALPHA = 10.0, 3.0, 1.0
LONGPO_BETA, LAMBDA = 0.1, 0.01
NAMES = ("SoLoPO", "LongPO")


def neighbour_trainer(name: str, model, args, pairs: Sequence[dict], **more: Any) -> LogoTrainer:
    """A trainer whose step minimises the loss of this name; rows need `short_prompt`. args has one rejected answer."""
    trainer = _Trainer(model, args, pairs, **more)
    trainer.data_collator = _WithShort(trainer.data_collator)
    trainer.objective = _Objective(name)
    return trainer


class _WithShort:
    """The collated batch of long prompts, and under "short" that of the short ones with the same answers."""

    def __init__(self, long: PairCollator):
        self.long, self.short = long, PairCollator(long.tokenizer, num_rejected=long.num_rejected)

    def __call__(self, rows: Sequence[dict]) -> dict[str, Any]:
        return self.long(rows) | {"short": self.short([row | {"prompt": row["short_prompt"]} for row in rows])}


class _Trainer(LogoTrainer):
    def pack(self, inputs: dict[str, Any], mode: str = "train") -> Packed:
        self.objective.short = as_packed(inputs["short"]).to(self.args.device)
        return super().pack(inputs, mode)

    def computed_tokens(self, batch: Packed) -> int:
        """Those of the short prompts, too."""
        return sum(int((part.segment_ids >= 0).sum()) for part in self.objective.reads(batch))


class _Objective:
    """Called as the objectives of the library are: (model, packed batch) -> loss and metrics."""

    reference, route, loss_type = None, "auto", "neighbour"

    def __init__(self, name: str):
        self.loss = {"SoLoPO": _solopo, "LongPO": _longpo}[name]
        self.short: Packed | None = None

    def reads(self, long: Packed) -> tuple[Packed, Packed | None]:
        """What a step computes for this batch."""
        return (_chosen_only(long) if self.loss is _solopo else long), self.short

    def __call__(self, model, batch: Packed) -> tuple[Tensor, dict[str, Tensor]]:
        loss, chosen, rejected = self.loss(model, batch, self.short)
        won = (chosen > rejected).float().mean()
        found = {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected}
        return loss, {name: value.detach().mean() for name, value in found.items()} | {"rewards/accuracies": won}


def _solopo(model, long: Packed, short: Packed) -> tuple[Tensor, Tensor, Tensor]:
    near = BETA * sequence_logps(model, short)  # (b, 2)
    far = BETA * sequence_logps(model, _chosen_only(long))[:, 0]  # (b,)
    loss = F.softplus(GAMMA - near[:, 0] + near[:, 1]) + ALPHA * (near[:, 0] - far).abs()
    return loss.mean(), near[:, 0], near[:, 1]


def _longpo(model, long: Packed, short: Packed) -> tuple[Tensor, Tensor, Tensor]:
    means = sequence_logps(model, long)  # (b, 2)
    with torch.no_grad(), model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext():
        before = sequence_logps(model, short)
    tokens = long.answer.bincount().view_as(means)
    rewards = LONGPO_BETA * tokens * (means - before)
    loss = LAMBDA * F.softplus(rewards[:, 1] - rewards[:, 0]) - means[:, 0]
    return loss.mean(), rewards[:, 0], rewards[:, 1]


def _chosen_only(batch: Packed) -> Packed:
    """A batch of one prompt without its rejected answer, which nobody needs under the long prompt."""
    kept = batch.segment_ids[0] < 2
    first = batch.answer == 0
    cut = (field[:, kept] for field in batch[:3])
    return Packed(*cut, batch.predict[first], batch.labels[first], batch.answer[first])
