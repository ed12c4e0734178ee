"""What several ranks share: their group, an equal start, one exchange of gradients per step, and who writes.

    g = 1/n sum_p g_p

where
    n      ranks
    g_p    what the backward pass of rank p has left in the parameters, the gradient of its share of the loss
    g      the gradient of the loss of all pairs, exactly (see `minilib.losses.contrastive_ring`)

All gradients travel in one flat buffer, once per step: the gradient cache goes backward many times per step, and an
exchange after each of them would send the same bytes as many times.

Before the first step the ranks compare what they were called with: a disagreement is one sentence on every rank. A lost
rank is a ConnectionError (`ring_comm.lost_ranks_named`); with NCCL, not yet run here, torch may end the process itself.
Taught in notebooks/06_pass_tiles_around_a_ring.ipynb.
"""

from __future__ import annotations  # a torch without torch.distributed has no ProcessGroup to name

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minilib.distributed.ring_comm import lost_ranks_named


def default_group() -> dist.ProcessGroup | None:
    """The default group, once the processes have met."""
    return dist.group.WORLD if dist.is_available() and dist.is_initialized() else None


def unwrap(model: nn.Module, group: dist.ProcessGroup | None) -> tuple[nn.Module, dist.ProcessGroup | None]:
    """The bare model, and the group to train it in: the given one, that of its wrapper, or the default one.

    None stands for one process. TypeError for a group that is none, or of which this process is no member.
    """
    wrapped = isinstance(model, DistributedDataParallel)
    # A wrapper knows its group; without one, torchrun's default group is meant.
    if group is None:
        group = model.process_group if wrapped else default_group()
    return model.module if wrapped else model, group if spans_ranks(group) else None


def spans_ranks(group) -> bool:
    """Whether `group` is a process group of more than one rank."""
    if group is None:
        return False
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        such = "of which this process is a member, such as torch.distributed.group.WORLD, or None"
        raise TypeError(f"group is a {type(group).__name__}: give a process group {such}.")
    return dist.get_world_size(group) > 1


def place(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """The own rank and the number of ranks."""
    return (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))


def agree(group: dist.ProcessGroup | None, terms: dict[str, Any], fix: str = "give every rank the same") -> None:
    """ValueError, on every rank and in the same sentence, for terms that differ from those of rank 0."""
    check_agreement([terms] if group is None else _gather(group, terms), fix)


def check_agreement(everyone: Sequence[dict[str, Any] | None], fix: str) -> None:
    """ValueError where a rank has other terms than rank 0, or None because it has raised an error instead."""
    if None in everyone:
        fix = "fix what its own message names and start again"
        raise ValueError(f"rank {everyone.index(None)} has raised an error: {fix}.")
    # Every rank sees the same list and raises the same sentence, so none is left waiting.
    for rank, theirs in enumerate(everyone):
        for name in (*everyone[0], *theirs):
            first, other = (side.get(name, "absent") for side in (everyone[0], theirs))
            if first != other and not (first != first and other != other):  # NaN differs from itself
                raise ValueError(f"{name} is {first} on rank 0 and {other} on rank {rank}: {fix}.")


@contextmanager
def errors_told(group: dist.ProcessGroup | None) -> Iterator[None]:
    """An error of this rank reaches the others in their next `agree`, where they would wait for it otherwise."""
    try:
        yield
    except (ValueError, TypeError):
        if group is not None:
            with suppress(ConnectionError):
                _gather(group, None)
        raise


def share_weights(group: dist.ProcessGroup | None, model: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0, after a look that they are of the same kind."""
    if group is None:
        return
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    kinds = {name: f"{tuple(t.shape)} {t.dtype}" for name, t in tensors.items()}
    agree(group, kinds, "build the same model everywhere")
    # Buffers too: running statistics would differ otherwise.
    for tensor in tensors.values():
        whole = tensor.detach().contiguous()
        with lost_ranks_named(dist.get_rank(group), "sharing of the weights"):
            dist.broadcast(whole, group=group, group_src=0)
        tensor.detach().copy_(whole)


def average(group: dist.ProcessGroup | None, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Average the gradients of `parameters`, in place, and the loss over the ranks, in one exchange; returns the loss.

    `parameters` are the same on every rank, in the same order; `loss` is the share of this rank.
    """
    if group is None:
        return loss
    rank, ranks = place(group)
    parameters = [p for p in parameters if p.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    # One number per parameter tells whether a rank has a gradient for it.
    used = loss.new_tensor([p.grad is not None for p in parameters])
    # One dtype that holds all of them: a half-precision gradient must not round its neighbours.
    wide = reduce(torch.promote_types, (g.dtype for g in (*grads, loss)), torch.float32)
    flat = torch.cat([piece.reshape(-1).to(wide) for piece in (*grads, used, loss)])
    with lost_ranks_named(rank, "average of the gradients"):
        dist.all_reduce(flat, group=group)
    *pieces, used, loss = flat.div_(ranks).split([*(p.numel() for p in parameters), len(parameters), 1])
    # A parameter that no rank has used keeps no gradient, as in one process: weight decay must not touch it.
    for parameter, piece, is_used in zip(parameters, pieces, used.tolist()):
        if is_used:
            parameter.grad = piece.view(parameter.shape).to(parameter.dtype)
    return loss[0]


def _gather(group: dist.ProcessGroup, terms: dict[str, Any] | None) -> list[dict[str, Any] | None]:
    rank, ranks = place(group)
    # Objects of any kind, pickled by torch; only before training, never in a step.
    everyone = [None] * ranks
    with lost_ranks_named(rank, "comparison of the settings"):
        dist.all_gather_object(everyone, terms, group=group)
    return everyone
