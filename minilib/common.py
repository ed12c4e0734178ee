"""What every part of the project needs: files written whole, settings compared, sizes of memory, many faults in one.

A write that fails is an OSError that names its file, whatever torch and safetensors make of it.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LISTED = 10  # rows that an error names
PROBE = 2**20  # bytes that are written to find out why a write has failed


class Notice(UserWarning):
    """What a run has to say in one line without stopping; the command line prints it as it is."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to; the file replaces `path` when the block ends, and is removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with write_errors_named(path.parent):
            yield unfinished
            os.replace(unfinished, path)
    except BaseException as error:
        with suppress(OSError):  # where nothing may be written, nothing is there to remove
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(unfinished), str(path.parent)):
            error.filename = str(path)
        raise


@contextmanager
def write_errors_named(folder: Path) -> Iterator[None]:
    """The OSError behind the errors that torch and safetensors raise when the disk takes no more."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # theirs do not say why: a small write into the same folder does
        if reason := _why_not_written(folder):
            raise OSError(reason.errno, reason.strerror, str(folder)) from error
        raise


def _why_not_written(folder: Path) -> OSError | None:
    folder = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    probe = folder / f"{os.getpid()}.probe"
    try:
        with open(probe, "wb") as file:
            # Beyond the largest file that is there, in case files may only grow so large; then some real bytes.
            file.truncate(max(path.lstat().st_size for path in folder.iterdir()) + PROBE)
            file.write(bytes(PROBE))
            os.fsync(file.fileno())
    except OSError as reason:
        return reason
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return None


def write_text(path: Path, text: str, encoding: str | None = "utf-8") -> None:
    """Write `text` to `path`, all or nothing."""
    with atomic_path(path) as unfinished:
        unfinished.write_text(text, encoding=encoding)


def different_setting(found: Mapping, wanted: Mapping) -> tuple[str, Any, Any] | None:
    """The first setting in which two runs differ: its name, what was found and what is wanted; None if all agree."""
    both = ((name, found.get(name), wanted.get(name)) for name in dict.fromkeys([*wanted, *found]))
    return next((each for each in both if each[1] != each[2]), None)


def process_peak() -> int:
    """The most resident memory that this process has held so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource  # only Unix has it

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rows_named(numbers: list[int]) -> str:
    """ "row 3", or "rows 3, 5, 8": the first ten, and how many more."""
    first, more = ", ".join(map(str, numbers[:LISTED])), len(numbers) - LISTED
    return f"row{'s' * (len(numbers) > 1)} {first}" + (f" and {more} more" if more > 0 else "")


def raise_first(faults: list[Exception]) -> None:
    """Raise the only fault of many rows, or one of its kind that lists the first ten and counts the rest."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        first, more = "; ".join(str(fault).rpartition(": ")[0] for fault in faults[:LISTED]), len(faults) - LISTED
        rest = f"; and {more} rows more" if more > 0 else ""
        raise type(faults[0])(f"{first}{rest}: fix these rows or leave them out.")
