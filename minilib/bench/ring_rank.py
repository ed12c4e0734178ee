"""One rank of a measured ring, `python -m minilib.bench.ring_rank SETTINGS`; `ring` starts it and reads what it writes.

Every rank makes all b pairs from the same seed and keeps its own rows. It measures, in this order: its error against
the dense fp64 loss, on a small batch; what it sends, by the diary of one step; then steps of
`clip_loss(..., group=...)`, forward and backward, each begun together. Averaging over n ranks is part of the
comparison: a feature's gradient here is n times that of one process.
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from minilib.bench.methods import Inputs, backward, fresh, make_inputs
from minilib.distributed.ring_comm import Diary, ProcessRing
from minilib.losses.contrastive import clip_loss
from minilib.losses.contrastive_ring import ring_clip_loss

SILENCE = timedelta(seconds=120)  # after which a rank that does not answer ends the ring


def main(settings: dict[str, Any]) -> dict[str, Any]:
    """Measure as one of `settings["ranks"]` ranks; returns the samples of its steps, what it sent, and its error."""
    rank, ranks, device = settings["rank"], settings["ranks"], settings["device"]
    if device == "cuda":
        torch.cuda.set_device(rank)
    if ranks > 1:
        store = dist.FileStore(f"{settings['folder']}/store", ranks)
        options = {"store": store, "rank": rank, "world_size": ranks, "timeout": SILENCE}
        dist.init_process_group("nccl" if device == "cuda" else "gloo", **options)
    try:
        whole = make_inputs(settings["batch"], settings["dim"], settings["scale"], device=device)
        own = _own_rows(whole, rank, ranks)
        del whole
        result = {"error": _error(settings), "sent": _sent(own, ranks), "wall": [], "cpu": []}
        _step(fresh(own), ranks)
        for _ in range(settings["steps"]):
            wall, cpu = _timed(fresh(own), ranks)
            result["wall"].append(wall)
            result["cpu"].append(cpu)
        return result
    finally:
        if ranks > 1:
            dist.destroy_process_group()


def _step(x: Inputs, ranks: int) -> Tensor:
    return backward(clip_loss(x.img, x.txt, x.scale, group=dist.group.WORLD if ranks > 1 else None))


def _timed(x: Inputs, ranks: int) -> tuple[float, float]:
    if ranks > 1:
        dist.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    _step(x, ranks)
    if x.img.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def _sent(own: Inputs, ranks: int) -> dict[str, int]:
    if ranks == 1:
        return {}
    x, diary = fresh(own), Diary()
    backward(ring_clip_loss(ProcessRing(dist.group.WORLD, diary), [x.img], [x.txt], x.scale).sum())
    return diary.sent(dist.get_rank())


def _error(settings: dict[str, Any]) -> float:
    """Largest relative error of the averaged loss, of the gradients of the own rows and of the averaged scale's."""
    rank, ranks = settings["rank"], settings["ranks"]
    whole = make_inputs(settings["ring_gate_batch"], settings["dim"], settings["scale"], device=settings["device"])
    truth = Inputs(*(tensor.detach().double().requires_grad_() for tensor in whole))
    loss64 = backward(clip_loss(truth.img, truth.txt, truth.scale, backend="dense"))
    x = _own_rows(whole, rank, ranks)
    averages = torch.stack([_step(x, ranks), x.scale.grad])
    if ranks > 1:
        dist.all_reduce(averages)
    loss, scale_grad = averages.double() / ranks
    pairs = [(loss, loss64), (scale_grad, truth.scale.grad)]
    for grad, grad64 in ((x.img.grad, truth.img.grad), (x.txt.grad, truth.txt.grad)):
        pairs.append((grad / ranks, grad64.tensor_split(ranks)[rank]))
    return max(_distance(*pair) for pair in pairs)


def _own_rows(whole: Inputs, rank: int, ranks: int) -> Inputs:
    img, txt = (side.detach().tensor_split(ranks)[rank].clone() for side in (whole.img, whole.txt))
    return fresh(Inputs(img, txt, whole.scale, whole.bias))


def _distance(value: Tensor, truth: Tensor) -> float:
    return (torch.linalg.vector_norm(value.double() - truth) / torch.linalg.vector_norm(truth)).item()


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    Path(asked["folder"], f"{asked['rank']}.json").write_text(json.dumps(main(asked)))
