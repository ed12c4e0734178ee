"""Mean log-probabilities of answers, and what LOGO's released trainer does other than the paper, one by one.

    name             the paper, and ours                       the released trainer
    "negatives"      mean over M = 2 rejected answers inside   two losses, one against the first answer alone and one
                     the sigmoid                               against their mean: weights 3/4 and 1/4 to first order
    "sft_unshifted"  hidden state t scores token t + 1 in the  hidden state t scores token t, which the model has just
                     SFT term                                  read: the term rewards copying
    "sft_padding"    padding is not scored                     the SFT term takes padding for the token 0
    "window"         every answer token is scored              only those between the first and the last place where the
                     in the preference term                    answers differ, without the first such token

All are off unless named. "negatives" belongs to the loss, `logo_loss(..., released={"negatives"})`; the others change
which hidden state scores which token, `released_logps(model, batch, {"sft_unshifted"})`. They were found by reading the
released trainer; which version made the published numbers is not known.

Departure from the released code: answers share one prompt, so as much padding is scored as the batch has behind its
last answer. A window without tokens gives 0 where the released code divides by 0; "negatives" works for any batch.
Taught in notebooks/09_turn_preferences_into_a_loss.ipynb.
"""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minilib.longcontext.model_checks import own_forward
from minilib.longcontext.shared_prefix import answer_hidden
from minilib.losses.logps import mean_by_answer, token_logps
from minilib.losses.validation import check_deviations

DEVIATIONS = ("negatives", "sft_unshifted", "sft_padding", "window")
SCALINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # what some models do to their logits


def sequence_logps(
    model, batch, *, route: str = "auto", backend: str = "auto", chunk_size: int | None = None
) -> Tensor:
    """Mean token log-probability of each answer, `(b, 1 + M)`, the chosen answer first: hidden states are made once.

    Args:
        model: a causal language model of transformers whose head is one matrix.
        batch: the layout of `pack_answers` (b = 1) or of `stack_packed`.
        route: how the prompt is shared, see `minilib.longcontext.answer_hidden`.
        backend, chunk_size: as for `token_logps`.
    """
    means = _means(model, batch, batch.num_answers, route, backend, chunk_size)
    return means.view(_examples(batch), -1)


def head_weight(model) -> Tensor:
    """The weight of a model's head (V, d); ValueError when the logits are more than hidden states times that weight."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"model is a {type(model).__name__} without a head of its own: give a causal language model.")
    if not isinstance(head, torch.nn.Linear):  # an adapter's wrapper shows the weight below it and hides its own part
        came = f"model has a head of class {type(head).__name__}"
        raise ValueError(f"{came}: leave the head out of the adapter, or merge the adapter.")
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"model is a {type(model).__name__} whose head has a bias: take the model's own logits.")
    for name in SCALINGS:
        value = getattr(model.config.get_text_config(), name, None)
        if value not in (None, 1):
            came = f"model has {name}={value}, which changes its logits after the head"
            raise ValueError(f"{came}: take them from the model itself.")
    if head.weight.shape[1] != head.in_features:  # exchanged by the caller, whose hidden states it is meant for
        return head.weight
    if reason := own_forward(model).head:
        came = f"model is a {type(model).__name__} whose logits are more than its head ({reason})"
        raise ValueError(f"{came}: take them from the model itself.")
    return head.weight


def released_logps(
    model, batch, released: Collection[str] = (), *,
    route: str = "auto", backend: str = "auto", chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Mean log-probabilities `(b, 1 + M)` and what the SFT term takes `(b,)`, with the named deviations.

    Arguments as for `sequence_logps`; `released` holds any of `DEVIATIONS`, of which "negatives" changes nothing here.
    Without any, the first is what `sequence_logps` gives and the second its first column.
    """
    examples = _examples(batch)
    answers = batch.num_answers // examples
    check_deviations(released, answers - 1, DEVIATIONS)
    kept = _window(batch, examples, answers) if "window" in released else slice(None)
    scored = [batch.predict[kept], batch.labels[kept], batch.answer[kept]]
    sft = _sft(batch, answers, released)
    sft[2] = sft[2] + batch.num_answers  # numbered behind the answers, so that one visit serves both
    predict, labels, answer = (torch.cat(pair) for pair in zip(scored, sft))
    both = batch._replace(predict=predict, labels=labels, answer=answer)
    means = _means(model, both, batch.num_answers + examples, route, backend, chunk_size)
    return means[: batch.num_answers].view(examples, answers), means[batch.num_answers :]


def _examples(batch) -> int:
    return len(batch.input_ids) if batch.input_ids.ndim == 2 else 1


def _means(model, batch, num_means: int, route: str, backend: str, chunk_size: int | None) -> Tensor:
    """Mean log-probabilities `(num_means,)` of the labels that share a number in `batch.answer`."""
    weight = head_weight(model)  # before the hidden states: a head that does not fit raises at once
    hidden = answer_hidden(model, batch, route)  # (n, d)
    labels, answer = batch.labels.to(hidden.device), batch.answer.to(hidden.device)
    logps = token_logps(hidden, weight, labels, backend=backend, chunk_size=chunk_size)
    return mean_by_answer(logps, answer, num_means)


def _window(batch, examples: int, answers: int) -> Tensor:
    """Which triples lie behind the first place where the answers of their example differ, and not behind the last."""
    kept = torch.zeros_like(batch.answer, dtype=torch.bool)
    for e in range(examples):
        rows = [(batch.answer == e * answers + a).nonzero()[:, 0] for a in range(answers)]
        tokens = pad_sequence([batch.labels[r] for r in rows], batch_first=True)  # (1 + M, longest), filled with 0
        places = (tokens != tokens[0]).any(0).nonzero()[:, 0]
        if len(places):
            for r in rows:
                kept[r[places[0] + 1 : places[-1] + 1]] = True
    return kept


def _sft(batch, answers: int, released: Collection[str]) -> list[Tensor]:
    """Triples (predict, label, example) of the SFT term; each row of the batch counts as one answer."""
    segments, tokens = batch.segment_ids.reshape(-1), batch.input_ids.reshape(-1)
    width = batch.segment_ids.shape[-1]
    chosen = batch.answer % answers == 0
    last_seen, own = batch.predict[chosen], (segments == 1).nonzero()[:, 0]  # what predicts a token; where it stands
    predict = own if "sft_unshifted" in released else last_seen
    labels = tokens[own]
    if "sft_padding" in released:
        padding = (segments == -1).nonzero()[:, 0]
        predict = torch.cat([predict, padding if "sft_unshifted" in released else _before(padding, own, width)])
        labels = torch.cat([labels, torch.zeros_like(padding)])
        own = torch.cat([own, padding])
    return [predict, labels, own // width]


def _before(padding: Tensor, chosen: Tensor, width: int) -> Tensor:
    """What predicts each padding token: the one before it, and for a row's first the end of the chosen answer."""
    ends = chosen[torch.searchsorted(chosen, (padding // width + 1) * width) - 1]
    return torch.where(torch.isin(padding - 1, padding), padding - 1, ends)
