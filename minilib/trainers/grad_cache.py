"""The gradient cache: the exact gradient of one large batch in the encoders' memory of one micro-batch.

    pass 1    for each micro-batch:  remember the random state, encode without a graph, keep the features     f_k
    loss      the loss of all features together, and its gradient with respect to them                       df_k
    pass 2    for each micro-batch:  restore the random state, encode with a graph, backward through <f_k, df_k>

where
    f_k     features of micro-batch k, (k, d) per side: all that is kept of the whole batch, O(b d)
    df_k    dL / df_k, in which every other pair of the batch has its say

By the chain rule sum_k <f_k, df_k> has the gradient of the loss: this is exact, where gradient accumulation would
compare each pair with its own micro-batch only. The random state, of the CPU and the current GPU, makes dropout draw
the same masks in both passes; a layer that mixes the rows of a micro-batch (BatchNorm) would break the equality.
Source: the gradient cache of Inf-CL's experiments (Table 1). Taught in notebooks/07_train_with_giant_batches.ipynb.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

Encoder = Callable[[Any], Tensor]


def cached_backward(
    encoders: Sequence[Encoder], micro_batches: Sequence[Any], loss_fn: Callable[..., Tensor], *,
    frozen: Sequence[bool] | None = None, wrapped: Sequence[DistributedDataParallel] = (),
) -> Tensor:  # fmt: skip
    """Accumulate the gradient of `loss_fn` over the whole batch into the encoders' parameters.

    Args:
        encoders: one function per side, micro-batch -> features `(k, d)`.
        micro_batches: the batch in pieces, each handed to every encoder, once per pass.
        loss_fn: features of each side, `(b, d)` -> scalar loss; parameters inside it get their gradient as well.
        frozen: per side, True where the encoder is not trained; its features are then computed once.
        wrapped: modules inside the encoders that are wrapped in DistributedDataParallel, each part of one encoder:
            they exchange gradients once, with the last micro-batch, and not after each. Parameters inside `loss_fn`
            are the caller's to average.

    Returns:
        The loss of the whole batch, detached; in a group, whatever `loss_fn` gives this rank, such as its share.
    """
    for module in wrapped:
        if not isinstance(module, DistributedDataParallel):
            raise TypeError(f"wrapped holds a {type(module).__name__}: give DistributedDataParallel modules only.")
    frozen = frozen or [False] * len(encoders)
    states, features = _encode_without_graph(encoders, micro_batches)
    leaves = [torch.cat(side).requires_grad_(not skip) for side, skip in zip(features, frozen)]  # (b, d) each
    loss = loss_fn(*leaves)
    loss.backward()
    gradients = [
        None if skip else leaf.grad.split([len(piece) for piece in side])
        for skip, leaf, side in zip(frozen, leaves, features)
    ]
    _encode_with_graph(encoders, micro_batches, states, gradients, wrapped)
    return loss.detach()


def _encode_without_graph(encoders, micro_batches):
    states = [[] for _ in encoders]
    features = [[] for _ in encoders]
    with torch.no_grad():
        for batch in micro_batches:
            for side, encode in enumerate(encoders):
                states[side].append(_random_state())
                features[side].append(encode(batch))  # (k, d)
    return states, features


def _encode_with_graph(encoders, micro_batches, states, gradients, wrapped):
    after = _random_state()
    for number, batch in enumerate(micro_batches):
        last = number + 1 == len(micro_batches)
        with ExitStack() as silent:
            # Forward and backward both happen in here, since DDP asks at the forward pass whether to exchange.
            for module in () if last else wrapped:
                silent.enter_context(module.no_sync())
            for side, encode in enumerate(encoders):
                if gradients[side] is not None:
                    _set_random_state(states[side][number])
                    part = encode(batch)
                    if part.requires_grad:  # not where the caller has frozen all its weights
                        part.backward(gradients[side][number])
    _set_random_state(after)


def _random_state() -> list[Tensor]:
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1])
