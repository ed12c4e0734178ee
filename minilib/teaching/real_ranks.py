"""A few real ranks for one cell of one lesson: processes that meet over gloo on this machine, and leave in time.

Every process takes its shard, computes its share of the loss over a `RingComm`, sends the gradients back, and hands
over what it found. They meet through a file, so that no port is needed. What takes longer than `patience` is stopped.

This is for looking, not for training: there, `torchrun` starts the ranks. Used in
notebooks/06_pass_tiles_around_a_ring.ipynb.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from minilib.distributed.ring_comm import RingComm, Trace
from minilib.losses.contrastive_ring import ring_clip_loss


class Found(NamedTuple):
    """What one process returns: its share, the gradients of its own features `(m, d)`, the bytes it has sent."""

    share: Tensor
    img_grad: Tensor
    txt_grad: Tensor
    sent: dict[str, int]


def run(images: Sequence[Tensor], texts: Sequence[Tensor], scale: float, *, patience: float = 60.0) -> list[Found]:
    """The InfoNCE loss on one process per shard, images and texts `(m, d)` each, forward and backward.

    Raises:
        RuntimeError: one sentence, when processes cannot start here, fail, or take longer than `patience` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        context, deadline = multiprocessing.get_context("spawn"), time.monotonic() + patience
        processes = []
        for rank, shards in enumerate(zip(images, texts, strict=True)):
            arguments = (rank, len(images), folder, [side.detach().numpy() for side in shards], scale, patience)
            processes.append(context.Process(target=_live, args=arguments, daemon=True))
        try:
            for process in processes:
                process.start()
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
        except OSError as error:
            raise RuntimeError(f"processes cannot start here ({error}): read on with the local ranks.") from error
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                    process.join()
        lost = [rank for rank in range(len(images)) if not Path(folder, f"{rank}.pt").exists()]
        if lost:
            raise RuntimeError(f"rank {lost[0]} brought nothing within {patience:g} s: read on with the local ranks.")
        return [Found(*torch.load(Path(folder, f"{rank}.pt"))) for rank in range(len(images))]


def _live(rank: int, ranks: int, folder: str, shards: list, scale: float, patience: float) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=patience))
    img, txt = (torch.from_numpy(side).requires_grad_() for side in shards)
    ring = RingComm(dist.group.WORLD, Trace())
    (share,) = ring_clip_loss(ring, [img], [txt], scale)
    share.backward()
    found = [share.detach(), img.grad, txt.grad, ring.trace.sent(rank)]
    torch.save(found, Path(folder, f"{rank}.part"))
    Path(folder, f"{rank}.part").rename(Path(folder, f"{rank}.pt"))  # whole, or not there
    dist.destroy_process_group()
