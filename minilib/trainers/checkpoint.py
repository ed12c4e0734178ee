"""Two checkpoint files, each always whole: the newest, and the one before it for when the newest is damaged.

    checkpoint.pt             written next to its place, then moved over; its last 64 bytes are the SHA-256 of the rest
    checkpoint.previous.pt    what checkpoint.pt was before

Loading compares the digest, then settings and model: a checkpoint of another run raises before anything is overwritten.
`torch.load` reads either file as it is.
"""

import hashlib
import os
import warnings
from mmap import ACCESS_READ, mmap
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minilib.common import Notice, atomic_path, different_setting

DIGEST = 64  # hexadecimal digits at the end of a file


def save(path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict, **state: Any) -> None:
    """Write model, optimizer, settings and further plain state to `path`, all or nothing; the old file is kept."""
    whole = {"optimizer": optimizer.state_dict(), "settings": settings, **state}
    whole = {"model": model.state_dict()} | {name: plain(value, name) for name, value in whole.items()}
    for left in path.parent.glob(f"{path.name}.*.unfinished"):  # by a process that was killed
        left.unlink(missing_ok=True)
    with atomic_path(path) as unfinished:
        torch.save(whole, unfinished)
        with open(unfinished, "r+b") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.write(digest.encode())  # the file has been read to its end
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, previous(path))


def plain(value: Any, name: str) -> Any:
    """`value` with NumPy's numbers as Python's; TypeError for an object that `torch.load` would not read again."""
    if isinstance(value, dict):
        return {key: plain(part, f"{name}[{key!r}]") for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)([plain(part, f"{name}[{place}]") for place, part in enumerate(value)])
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if not isinstance(value, (str, bytes, Number, Tensor, type(None))):
        raise TypeError(f"{name} is a {type(value).__name__}: a checkpoint keeps numbers, texts, tensors, and lists.")
    return value


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def exists(path: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return path.exists() or previous(path).exists()


def load(path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict) -> dict[str, Any]:
    """Load `path`, or the file before it, into model and optimizer; returns the rest, and as `path` which one it was.

    Raises ValueError for files that are damaged, or of another run or model.
    """
    path, saved = _newest_whole(path)
    found = saved.pop("settings")
    if different := different_setting({name: found.get(name) for name in settings}, settings):
        name, there, here = different
        came = f"checkpoint {path} was made with {name}={there!r}, this run has {name}={here!r}"
        raise ValueError(f"{came}: use the same setting or another output_dir.")
    _compare_model(path, saved["model"], model.state_dict())
    model.load_state_dict(saved.pop("model"))
    try:
        optimizer.load_state_dict(saved.pop("optimizer"))
    except ValueError as error:
        raise ValueError(f"checkpoint {path} trains other weights ({error}): use another output_dir.") from error
    return saved | {"path": path}


def load_weights(path: Path, model: nn.Module) -> nn.Module:
    """Put the weights of checkpoint `path` into `model`, wherever it lives, and return it: to use, not to train on."""
    try:
        saved = _read(path, "train the run once more")
    except ValueError as error:
        if not previous(path).exists():
            raise
        what = str(error).split(": ")[0]
        raise ValueError(f"{what}: train the run once more, it goes on from {previous(path).name}.") from error
    _compare_model(path, saved["model"], model.state_dict())
    model.load_state_dict(saved["model"])
    return model


def _newest_whole(path: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint that can be read, and its content; a line tells of a newer one that cannot."""
    try:
        return path, _read(path, f"delete {previous(path).name} to start anew")
    except ValueError as error:
        if not previous(path).exists():
            raise
        saved = _read(previous(path))
        what = str(error).split(": ")[0]
        warnings.warn(f"{what}: the run goes on from {previous(path).name}.", Notice, stacklevel=5)
        return previous(path), saved


def _read(path: Path, without: str = "") -> dict[str, Any]:
    """The content of a file whose digest is right; `without` says what to do where there is none."""
    if without and not path.exists():
        raise ValueError(f"checkpoint {path} is missing: {without}.")
    try:
        with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            with memoryview(content)[:-DIGEST] as body:
                digest = hashlib.sha256(body).hexdigest()
            if digest.encode() != content[-DIGEST:]:
                raise ValueError("its digest is another")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not {"model", "optimizer", "settings", "records"} <= saved.keys():
            raise ValueError("it lacks a part")
    except MemoryError:
        raise
    except Exception as error:
        why = str(error) if type(error) is ValueError else type(error).__name__
        raise ValueError(f"checkpoint {path} cannot be read ({why}): delete it to start anew.") from error
    return saved


def _compare_model(path: Path, found: dict, wanted: dict) -> None:
    for name in wanted.keys() | found.keys():
        shapes = [tuple(side[name].shape) if name in side else "absent" for side in (found, wanted)]
        if shapes[0] != shapes[1]:
            came = f"checkpoint {path} belongs to another model: {name} is {shapes[0]} there and {shapes[1]} here"
            raise ValueError(f"{came}; build the same model or use another output_dir.")
