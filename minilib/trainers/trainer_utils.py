"""What LogoTrainer needs around its step: means over rows, a forward pass inside wrappers, whole checkpoints.

    RowMeans         mean = sum over batches of (rows x value) / sum over batches of rows, on all ranks
    inside_forward   wrapper(*inputs) -> its own work -> function(module, *inputs) -> its own work
    shard_on_cpus    accelerate shards (FSDP) on GPUs alone: on CPUs it would take DDP, without a word
    last_checkpoint  the newest folder checkpoint-N whose trainer_state.json says N: that file is written last;
                     newer folders are unfinished, and `remove_unfinished_checkpoints` deletes them

Hidden states, head and loss are not what a model's own forward returns. But DDP, FSDP and DeepSpeed gather weights and
arrange the exchange of gradients around a forward pass: a computation outside of it would train each rank for itself.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class RowMeans:
    """Named numbers that were averaged over the rows of their batch, waiting for the next log."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.rows = 0

    def add(self, metrics: dict[str, Tensor], rows: int) -> None:
        """One batch of so many rows; stays on the device of the metrics."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + rows * value.float()
        self.rows += rows

    def take(self, accelerator) -> dict[str, float]:
        """The means so far, over all ranks; then starts anew."""
        if not self.rows:
            return {}
        names, sums = list(self.sums), torch.stack(list(self.sums.values()))
        totals = accelerator.reduce(torch.cat([sums, sums.new_tensor([self.rows])]), "sum")
        self.__init__()
        return dict(zip(names, (totals[:-1] / totals[-1]).tolist()))


def inside_forward(wrapper: nn.Module, module: nn.Module, function: Callable[..., Any], *inputs: Any) -> Any:
    """`function(module, *inputs)`, called within `wrapper`'s forward pass; `module` is what it wraps, or itself."""
    own = vars(module).get("forward")  # accelerate gives a module one of its own; else the class has it

    def once(*given: Any) -> Any:
        restore()  # what we call in here may call the module itself
        _gather_head(module)
        return function(module, *given)

    def restore() -> None:
        vars(module).pop("forward", None)
        if own is not None:
            module.forward = own

    module.forward = once
    try:
        return wrapper(*inputs)  # a call even where both are the same: newer FSDP hooks the call of a bare model
    finally:
        restore()


def _gather_head(module: nn.Module) -> None:
    """FSDP gathers a module's weights when it is called; the head is not called, its weight is read."""
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    if hasattr(head, "unshard"):
        head.unshard()


def shard_on_cpus(args) -> None:
    """Let accelerate shard between CPUs as well, over gloo, where `args` or its launcher ask for FSDP.

    ValueError where they ask for DeepSpeed, which accelerate leaves out on CPUs without a word, too.
    """
    from accelerate.utils import DistributedType

    state = args.distributed_state  # what all of accelerate looks at
    if state is None or state.distributed_type != DistributedType.MULTI_CPU:
        return
    asked = {
        engine: os.environ.get(f"ACCELERATE_USE_{engine}", "").lower() == "true" for engine in ("FSDP", "DEEPSPEED")
    }
    if asked["DEEPSPEED"] or args.deepspeed:
        raise ValueError("DeepSpeed is asked for and training is on CPUs: shard with FSDP, which runs on CPUs as well.")
    if asked["FSDP"] or args.fsdp:
        state.distributed_type = DistributedType.MULTI_GPU  # the name under which it shards; devices stay as they are


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest whole checkpoint in `output_dir`, to give to `train(resume_from_checkpoint=...)`; None without one."""
    return next((str(folder) for step, folder in _checkpoints(output_dir) if _is_whole(folder, step)), None)


def remove_unfinished_checkpoints(output_dir: str | Path) -> None:
    """Delete the folders newer than the last whole checkpoint: the Trainer would write into them again.

    Of several ranks one calls this, before the others look for the last checkpoint.
    """
    for step, folder in _checkpoints(output_dir):
        if _is_whole(folder, step):
            return
        shutil.rmtree(folder)


def _checkpoints(output_dir: str | Path) -> list[tuple[int, Path]]:
    """Step and folder of every checkpoint, the newest first."""
    folders = [folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name[11:].isdecimal()]
    return sorted(((int(folder.name[11:]), folder) for folder in folders), reverse=True)


def _is_whole(folder: Path, step: int) -> bool:
    try:
        return json.loads((folder / "trainer_state.json").read_text())["global_step"] == step
    except (OSError, ValueError, KeyError, TypeError):
        return False
