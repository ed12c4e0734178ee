"""What every part of the project needs from the machine: files written whole, a device, sizes of memory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to; the file is moved to `path` when the block ends, and removed when it fails.

    A process killed in between leaves the old file as it was. The folder of `path` is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, all or nothing."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text)


def best_device() -> str:
    """Where the commands put their models: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def machine_memory() -> int:
    """Bytes of main memory."""
    return psutil.virtual_memory().total


def process_peak() -> int:
    """The most resident memory that this process has held so far, in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource  # only Unix has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
