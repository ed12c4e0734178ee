"""A ring of processes next to one process, at the same global batch: time, work, messages, and the loss they agree on.

    work      CPU seconds of all ranks together  /  CPU seconds of one process
    sent      bytes that one rank sends in a step / (b d), counted by the trace of the ring itself
    released  the same for the authors' ring of n ranks: 8 (2 (n - 1) / n + 1), both directions, everything in fp32

On a CPU the ranks meet over gloo and have one thread each; on GPUs over NCCL. The rings run one after the other: ranks
of one would stand in the way of the next. With more ranks than cores the wall time, which lasts until the last rank is
done, tells of the cores, and the work of what the ring costs. Every rank makes all b pairs of width d from the same
seed and keeps its own rows.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from minilib.bench import harness
from minilib.bench.baselines import EXACT, Inputs, backward, fresh, make_inputs
from minilib.bench.correctness import relative
from minilib.bench.device import wall_clock
from minilib.losses.contrastive import clip_loss

PATIENCE = 600.0  # seconds that one ring may take altogether
SILENCE = timedelta(seconds=120)  # after which a rank that does not answer ends the ring


def possible(ranks: Sequence[int], device: str) -> tuple[list[int], str | None]:
    """The rings that this machine can form, and a sentence when there are none though some were asked for."""
    if device == "cpu" or not ranks:
        return list(ranks), None
    gpus = torch.cuda.device_count()
    why = f"NCCL needs a GPU for each rank and there is {gpus}: use a machine with more, or --device cpu."
    fitting = [count for count in ranks if count <= gpus]
    return fitting, None if fitting else why


def measure_ring(ranks: Sequence[int], settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for one process and one for each ring; RuntimeError of one sentence when a rank fails or is wrong."""
    single = None
    for count in [1, *ranks] if ranks else []:
        row = summarise(run_ranks(count, settings), settings)
        if row["error"] > EXACT:
            raise RuntimeError(f"the ring of {count} differs from fp64 by {row['error']:.1e}, so it was not timed")
        single = single or row
        yield row | {"work": row["cpu"]["median"] / single["cpu"]["median"]}


def run_ranks(count: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What every rank of a ring of `count` fresh processes measured; the first that fails ends the others."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"join": False, "start_method": settings.get("start", "spawn")}
        ranks = multiprocessing.start_processes(_write_rank, (count, folder, settings), count, **options)
        started = time.monotonic()
        try:
            while not ranks.join(timeout=1.0):  # false until all have ended
                if time.monotonic() - started > PATIENCE:
                    raise RuntimeError(f"a ring of {count} took longer than {PATIENCE:.0f} s")
        except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as failure:
            line = failure.msg.strip().splitlines()[-1].rstrip(".")
            raise RuntimeError(f"rank {failure.error_index} of {count} failed ({line})") from None
        finally:
            for process in ranks.processes:
                process.kill()  # without effect on one that has ended
        return [json.loads(Path(folder, f"{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


def summarise(found: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """One row of the table from what the ranks wrote: the slowest rank's wall, all ranks' CPU seconds."""
    size = {"batch": settings["ring_batch"], "dim": settings["dim"]}
    sent = statistics.mean(sum(rank["sent"].values()) for rank in found) / (size["batch"] * size["dim"])
    row = {"ranks": len(found), **size, "sent": sent, "released": released_bytes(len(found)), "raw": found}
    for name, together in (("wall", max), ("cpu", sum)):
        row[name] = harness.spread([together(step) for step in zip(*(rank[name] for rank in found))])
    return row | {"error": max(rank["error"] for rank in found)}


def released_bytes(count: int) -> float:
    """Bytes per element of b x d that a rank of the authors' ring sends in a step; none where there is no ring."""
    return 8 * (2 * (count - 1) / count + 1) if count > 1 else 0.0


def _write_rank(rank: int, ranks: int, folder: str, settings: dict[str, Any]) -> None:
    """What one process does: meet the others, measure, write its samples, what it sent, and its error."""
    torch.set_num_threads(1)
    gpu = settings["device"] == "cuda"
    if gpu:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    meeting = {"store": dist.FileStore(f"{folder}/store", ranks), "rank": rank, "world_size": ranks}
    dist.init_process_group("nccl" if gpu else "gloo", timeout=SILENCE, **meeting)
    try:
        options = {"dim": settings["dim"], "scale": settings["scale"], "device": settings["device"]}
        own = _own_rows(make_inputs(settings["ring_batch"], **options), rank, ranks)
        small, alone = make_inputs(settings["ring_gate_batch"], **options), settings.get("alone", False)
        found = {"error": _error(rank, ranks, small, alone), "sent": _sent(fresh(own), ranks), "wall": [], "cpu": []}
        _step(fresh(own), ranks, alone)
        for _ in range(settings["ring_steps"]):
            x = fresh(own)
            dist.barrier()  # begun together: a rank that came early would wait inside the step
            wall, cpu = wall_clock(), time.process_time()
            _step(x, ranks, alone)
            found["wall"].append(wall_clock() - wall)
            found["cpu"].append(time.process_time() - cpu)
        Path(folder, f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    finally:
        dist.destroy_process_group()


def _own_rows(whole: Inputs, rank: int, ranks: int) -> Inputs:
    img, txt = (side.detach().tensor_split(ranks)[rank].clone() for side in (whole.img, whole.txt))
    return fresh(Inputs(img, txt, whole.scale, whole.bias))


def _step(x: Inputs, ranks: int, alone: bool = False) -> Tensor:
    """A step of one process or of a ring; with `alone` a single rank is a ring too, and sends to nobody."""
    if alone and ranks == 1:
        from minilib.distributed.ring_comm import RingComm
        from minilib.losses.contrastive_ring import ring_clip_loss

        return backward(ring_clip_loss(RingComm(dist.group.WORLD), [x.img], [x.txt], x.scale).sum())
    # No tiles kept: a ring is compared with one process at the same matmuls and the same memory.
    return backward(clip_loss(*x[:3], group=dist.group.WORLD if ranks > 1 else None, cache_bytes=0))


def _sent(x: Inputs, ranks: int) -> dict[str, int]:
    """Bytes that this rank sends in one step, by what is sent."""
    if ranks == 1:
        return {}
    from minilib.distributed.ring_comm import RingComm, Trace
    from minilib.losses.contrastive_ring import ring_clip_loss

    trace = Trace()
    backward(ring_clip_loss(RingComm(dist.group.WORLD, trace), [x.img], [x.txt], x.scale).sum())
    return trace.sent(dist.get_rank())


def _error(rank: int, ranks: int, whole: Inputs, alone: bool) -> float:
    """Largest relative error of the averaged loss, of the gradients of the own rows and of the averaged scale's."""
    truth = Inputs(*(tensor.detach().double().requires_grad_() for tensor in whole))
    loss64 = backward(clip_loss(*truth[:3], backend="dense"))
    x = _own_rows(whole, rank, ranks)
    averages = torch.stack([_step(x, ranks, alone), x.scale.grad])
    dist.all_reduce(averages)
    loss, scale_grad = averages.double() / ranks
    errors = [relative(loss, loss64), relative(scale_grad, truth.scale.grad)]
    for grad, grad64 in ((x.img.grad, truth.img.grad), (x.txt.grad, truth.txt.grad)):
        errors.append(relative(grad / ranks, grad64.tensor_split(ranks)[rank]))
    return max(errors)
