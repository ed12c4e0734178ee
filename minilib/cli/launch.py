"""How the commands meet torchrun and accelerate: the processes that were started become ranks of one group.

torchrun tells every process its place by environment variables. `distributed.ranks` has what ranks do from then on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from minilib.distributed import ranks
from minilib.distributed.ring_comm import lost_ranks_named

STARTED_BY = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # torchrun's and those of MPI


@contextmanager
def launched(timeout: float) -> Iterator[int]:
    """The processes that torchrun has started form the default group, and part at the end; yields the own rank.

    Without torchrun, or in a group that exists already, nothing is started and nothing ended. After `timeout` seconds a
    rank that does not answer counts as lost, a ConnectionError.
    """
    if not 0 < timeout < 1e9:  # some thirty years
        raise ValueError(f"timeout is {timeout}: give a positive number of seconds.")
    check_launcher()
    if not dist.is_available() or dist.is_initialized() or not dist.is_torchelastic_launched():
        yield ranks.place(ranks.default_group())[0]
        return
    rank, gpu = int(os.environ["RANK"]), None
    if comm_backend() == "nccl":
        gpu = _own_gpu(int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(gpu)
    with lost_ranks_named(rank, "meeting of the ranks"):
        dist.init_process_group(comm_backend(), timeout=timedelta(seconds=timeout), device_id=gpu)
    try:
        yield rank
    finally:
        dist.destroy_process_group()


def check_launcher() -> None:
    """ValueError where accelerate was asked for several processes and has started one, as its --cpu does."""
    told = {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys()  # MASTER_PORT: of several processes only
    if told and not any(name in os.environ for name in STARTED_BY):
        raise ValueError(
            "accelerate launch was asked for several processes and has started one: give it "
            "`--config_file book/accelerate/ddp.yaml`, or --multi_gpu instead of --cpu, which works without a GPU too."
        )


def comm_backend() -> str | None:
    """What ranks on this machine talk through: "nccl" between GPUs, else "gloo"; None without torch.distributed."""
    if not dist.is_available():
        return None
    # gloo cannot send what lies on a GPU, NCCL nothing else.
    if torch.cuda.is_available() and dist.is_nccl_available():
        return "nccl"
    return "gloo" if dist.is_gloo_available() else None


def who_trains(count: int, how: str) -> str:
    """How many ranks train, in a line for the user: a launcher that has started fewer than was wished is seen."""
    return "1 rank trains" if count == 1 else f"{count} ranks train, {how}"


def shard_on_cpus(args) -> None:
    """Let accelerate shard between CPUs as well, over gloo, where `args` or its launcher ask for FSDP.

    ValueError where they ask for DeepSpeed, which accelerate leaves out on CPUs without a word, too.
    """
    from accelerate.utils import DistributedType

    state = args.distributed_state  # what all of accelerate looks at
    if state is None or state.distributed_type != DistributedType.MULTI_CPU:
        return
    fsdp, deepspeed = (os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED"))
    if deepspeed or args.deepspeed:
        raise ValueError("DeepSpeed is asked for and training is on CPUs: shard with FSDP, which runs on CPUs as well.")
    if fsdp or args.fsdp:
        state.distributed_type = DistributedType.MULTI_GPU  # the name under which it shards; devices stay as they are


def _own_gpu(local_rank: int) -> torch.device:
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise ValueError(
            f"LOCAL_RANK is {local_rank} and this machine has {gpus} GPUs: start torchrun with --nproc-per-node {gpus}."
        )
    return torch.device("cuda", local_rank)


def any_rank(group: dist.ProcessGroup | None, flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether any rank of the group says yes, on all of them; a small exchange, for which `device` suits the group."""
    if group is None:
        return flag
    told = torch.tensor(float(flag), device=device)
    with lost_ranks_named(dist.get_rank(group), "question to all ranks"):
        dist.all_reduce(told, group=group)
    return bool(told.item())
