"""What the trainers need around their steps: numbers that stay finite, means over rows, whole checkpoints.

    RowMeans         mean = sum over batches of (rows x value) / sum over batches of rows, on all ranks
    inside_forward   wrapper(*inputs) -> its own work -> function(module, *inputs) -> its own work
    last_checkpoint  the newest folder checkpoint-N whose trainer_state.json, written last, says N, and whose files are
                     those of its digests.json, if it has one; `remove_unfinished_checkpoints` deletes newer ones
    contents         a fingerprint of a dataset: all captions, and the pixels of rows that are spread evenly

Hidden states, head and loss are not what a model's own forward returns. But DDP, FSDP and DeepSpeed gather weights and
arrange the exchange of gradients around a forward pass: a computation outside of it would train each rank for itself.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilib.common import write_errors_named, write_text

DIGESTS = "digests.json"
CAPTIONS, PICTURES = 1_000_000, 256  # of so many rows at most the fingerprint has the captions, and the pixels
LARGEST_WEIGHT = 1e6  # what no training that goes well reaches


class DivergedError(ValueError):
    """The loss or a weight is no longer a finite number, so that training has stopped; what was saved stays."""

    @classmethod
    def at(cls, what: str, step: int, steps: int, rates: tuple[float, float], checkpoint: str | Path | None):
        """The sentence about a step, counted from 1, with its learning rate and the peak of the schedule."""
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        return cls(
            f"stopped at step {step} of {steps}, learning rate {rates[0]:.3g} (peak {rates[1]:g}): {what}, {kept}; "
            "give a smaller learning rate and another output, or fix the weights that training began with."
        )


def exploded(model: nn.Module) -> bool:
    """Whether a weight has grown beyond use though it is still finite."""
    return any(p.detach().abs().max() > LARGEST_WEIGHT for p in model.parameters() if p.numel())


@torch.no_grad()
def not_finite(model: nn.Module, *, trained: bool = False) -> str | None:
    """What of the weights, or of the trained ones, is NaN or infinite, in words; None where nothing is."""
    flags = {}
    for name, p in model.named_parameters():
        p = p.to_local() if hasattr(p, "to_local") else p  # FSDP's
        if (p.requires_grad or not trained) and p.is_floating_point() and p.element_size() > 1 and not p.is_meta:
            flags[name] = p.isfinite().all()
    # One read of the device for all of them: this happens in every step.
    if not flags or torch.stack([flag.to(p.device) for flag in flags.values()]).all().item():
        return None
    return f"the weight {next(name for name, flag in flags.items() if not flag.item())} has NaN or infinity"


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
        head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
        if hasattr(head, "unshard"):  # FSDP gathers what is called; the head is not, its weight is read
            head.unshard()
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


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest whole checkpoint in `output_dir`, to give to `train(resume_from_checkpoint=...)`; None without one."""
    return next((str(folder) for step, folder in _checkpoints(output_dir) if _fault_of(folder, step) is None), None)


def remove_unfinished_checkpoints(output_dir: str | Path) -> list[str]:
    """Delete folders newer than the last whole checkpoint: the Trainer would write into them; a sentence about each.

    Of several ranks one calls this, before the others look for the last checkpoint. Raises ValueError where folders
    were written to their end and all of them are damaged.
    """
    broken, last = [], "the start"
    for step, folder in _checkpoints(output_dir):
        if (fault := _fault_of(folder, step)) is None:
            last = folder.name
            break
        broken.append((folder, fault))
    if last == "the start" and any((folder / DIGESTS).exists() for folder, _ in broken):
        faults = ", ".join(f"{folder.name}: {fault}" for folder, fault in broken)
        raise ValueError(f"no checkpoint in {output_dir} is whole ({faults}): delete them to train anew.")
    for folder, _ in broken:
        shutil.rmtree(folder)
    return [f"{folder} is not whole ({fault}): the run goes on from {last}." for folder, fault in broken]


@contextmanager
def sealed(folder: Path, writes: bool, meet: Callable[[], None]) -> Iterator[None]:
    """A checkpoint folder gets the digests of its files when the block ends, and is taken away when it fails.

    writes: whether this rank is the one to do so. meet: waits until all ranks have written their files.
    """
    try:
        with write_errors_named(folder):
            yield
            meet()
            if writes:
                write_text(folder / DIGESTS, json.dumps(_digests(folder), indent=1) + "\n")
    except BaseException:
        if writes:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS):
        with open(path, "rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _checkpoints(output_dir: str | Path) -> list[tuple[int, Path]]:
    """Step and folder of every checkpoint, the newest first."""
    folders = [folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name[11:].isdecimal()]
    return sorted(((int(folder.name[11:]), folder) for folder in folders), reverse=True)


def _fault_of(folder: Path, step: int) -> str | None:
    """What is missing or damaged in a checkpoint; None for a whole one."""
    try:
        if json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] != step:
            return "trainer_state.json is of another step"
    except (OSError, ValueError, KeyError, TypeError):
        return "trainer_state.json is missing or damaged"
    try:
        wanted = dict(json.loads((folder / DIGESTS).read_text(encoding="utf-8"))) if (folder / DIGESTS).exists() else {}
        found = _digests(folder) if wanted else {}
    except (OSError, ValueError, TypeError):
        return f"{DIGESTS} is damaged"
    return next((f"{name} is missing or damaged" for name in wanted if wanted[name] != found.get(name)), None)


# Whether a run goes on with the data it was begun with


def contents(dataset, rows: int) -> str:
    """A fingerprint of rows with the columns image and caption, in a time that does not grow with the pixels.

    Columns that come out differently when they are read twice, such as augmented pictures, are left out.
    """
    if hasattr(dataset, "fingerprint"):  # such as a stream, which nobody reads to its end for that
        return dataset.fingerprint()
    digest = hashlib.sha256(str(rows).encode())
    picked = sorted({k * (rows - 1) // max(1, PICTURES - 1) for k in range(PICTURES)})
    first, again, sample = dataset[picked[:8]], dataset[picked[:8]], dataset[picked]
    for column in ("image", "caption"):
        if b"".join(_bytes(first[column])) == b"".join(_bytes(again[column])):
            for piece in _bytes(sample[column]):
                digest.update(piece)
    if hasattr(dataset, "select_columns"):  # a table of `datasets` gives its captions without decoding a picture
        captions = dataset.with_format(None).select_columns(["caption"])
        for start in range(0, min(rows, CAPTIONS), 10_000):
            digest.update(repr(captions[start : start + 10_000]["caption"]).encode())
    return digest.hexdigest()[:16]


def _bytes(value) -> Iterator[bytes]:
    """The bytes of a tensor, an array, a picture, a text, or a list of them."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().contiguous().view(torch.uint8).numpy()
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _bytes(part)
    else:
        yield str(value).encode() if isinstance(value, str) or value is None else np.asarray(value).tobytes()
