"""Run `marking` on one notebook in a process that may hang, fill the disk, call out or end itself.

It works on a copy in a temporary folder, with an environment of a few names, in a session of its own; what it prints
goes nowhere. Where the system lets an ordinary user have them, Linux namespaces hold it: no network, all files
read-only but those of that folder, no other process in sight, and an end for every descendant with the first. Where
not, the audit hook of `marking` is what there is, and `Protection.told` says so.
"""

import contextlib
import functools
import json
import os
import queue
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from minilib.teaching.workshop.exercises import LARGEST_NOTEBOOK

STARTING = 60.0  # CPU seconds that the imports may take besides
PATIENCE = 5  # times the CPU seconds that an exercise may take on the clock: others may be busy, and some only sleep
SHORTEST = 60.0  # seconds on the clock that an exercise has in any case
MOST_WRITTEN = 1e9  # bytes that a notebook may leave in its folder
MOST_REPORTED = 1_000_000  # bytes of records
KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR")
UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child")
# Every mount becomes read-only but the folder $1, which is made one first; no capability is left to undo it.
READ_ONLY = r"""
mount --bind "$1" "$1" || exit 1
cut -d' ' -f5 /proc/self/mountinfo | sort -u | while read -r place; do
  place=$(printf '%b' "$place")
  [ "$place" = "$1" ] || mount -o remount,bind,ro "$place" || exit 1
done || exit 1
cd "$1" && shift
exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"
"""
NETWORK = {True: "cut by a namespace of its own", False: "sockets are refused inside of Python only"}
FILES = {True: "read-only by a namespace", False: "writing is refused inside of Python only"}


@dataclass(frozen=True)
class Protection:
    """What this system lets an ordinary user hold a process with."""

    network: bool
    files: bool

    @property
    def told(self) -> str:
        """Two clauses for the report."""
        return f"network: {NETWORK[self.network]}; files outside of the copy: {FILES[self.files]}"

    def command(self, folder: str, rest: list[str]) -> list[str]:
        """The command that runs `rest` held; it may write to `folder` alone."""
        if self.files:
            return [*UNSHARE, "--mount", "sh", "-c", READ_ONLY, "sh", folder, *rest]
        return [*UNSHARE, *rest] if self.network else rest


@functools.cache
def protection() -> Protection:
    """The strongest protection that works here, found by trying."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in (Protection(True, True), Protection(True, False)):
            try:
                tried = subprocess.run(
                    kind.command(os.path.realpath(folder), ["true"]), capture_output=True, timeout=20
                )
            except (OSError, subprocess.TimeoutExpired):
                continue
            if tried.returncode == 0:
                return kind
    return Protection(False, False)


def mark_notebook(
    path: Path, exercises: list[str], *, seconds: float, memory: float, held: Protection | None = None
) -> dict[str, tuple[str, str]]:
    """(status, line) of every exercise; CPU `seconds` for each one, `memory` in bytes for all of its processes."""
    marks, left = {}, list(exercises)
    while left:
        begun = None
        for record in _records(path, left, seconds, memory, held or protection()):
            if "unreadable" in record:
                return dict.fromkeys(exercises, ("no notebook", record["unreadable"]))
            if "ending" in record and (begun or not any(name in marks for name in left)):
                marks[begun or left[0]] = record["ending"]
            elif "begins" in record:
                begun = record["begins"]
            elif "done" in record:
                marks[record["done"]], begun = (record["status"], record["line"]), None
        left = [name for name in left if name not in marks]  # the rest after a lost process gets a new one
    return marks


def _records(path: Path, exercises: list[str], seconds: float, memory: float, held: Protection) -> Iterator[dict]:
    """The records of one process, the last one about its end: {"ending": (status, line)}."""
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = os.path.realpath(name)
        copy = Path(folder) / "notebook.ipynb"
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST_NOTEBOOK:
            shutil.copyfile(path, copy)
        paths = [os.path.abspath(place or os.getcwd()) for place in sys.path]
        program = f"import sys; sys.path[:0] = {paths!r}; from minilib.teaching.workshop.marking import main; main()"
        process = subprocess.Popen(
            held.command(folder, [sys.executable, "-I", "-c", program]), cwd=folder, env=_environment(folder, secret),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            asked = {"notebook": str(copy), "exercises": exercises, "scratch": folder, "secret": secret}
            _say(process, asked)
            yield from _watched(process, Path(folder), secret, seconds, memory)
        finally:
            end(process, secret)


def _watched(process: subprocess.Popen, folder: Path, secret: str, seconds: float, memory: float) -> Iterator[dict]:
    lines: queue.Queue = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    since, allowed = (time.monotonic(), 0.0), seconds + STARTING
    while True:
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            resident, used = _held(process)
            if used - since[1] > allowed or time.monotonic() - since[0] > max(PATIENCE * allowed, SHORTEST):
                yield {"ending": ("time-out", f"no answer within {seconds:g} seconds")}
                return
            if resident > memory:
                yield {"ending": ("memory", f"more than {memory / 1e9:g} GB of memory")}
                return
            if _written(folder) > MOST_WRITTEN:
                yield {"ending": ("disk", f"more than {MOST_WRITTEN / 1e9:g} GB written")}
                return
            continue
        if line is None:
            yield {"ending": ("ended", "its process ended itself, or was killed, before the check was through")}
            return
        record = _parsed(line, secret)
        if record is not None:
            since, allowed = (time.monotonic(), _held(process)[1]), seconds
            yield record


def _say(process: subprocess.Popen, asked: dict[str, Any]) -> None:
    try:
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.close()
    except OSError:
        pass  # it has gone already: the end of its output says so


def _read(stream: Any, lines: queue.Queue) -> None:
    """Hand on the lines of a process, as many as records can need; None at the end."""
    total = 0
    with stream:
        while total < MOST_REPORTED and (line := stream.readline(100_000)):
            total += len(line)
            lines.put(line)
    lines.put(None)


def _parsed(line: bytes, secret: str) -> dict | None:
    """A record, if it is one of our own."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and record.pop("secret", None) == secret else None


def _environment(folder: str, secret: str) -> dict[str, str]:
    """No keys, no names of the user; one thread; every folder for files of one's own is the copy's."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    homes = dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "MPLCONFIGDIR", "TRITON_CACHE_DIR"), folder)
    quiet = {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return kept | homes | quiet | {"MINILIB_MARKING": _label(secret)}


def _label(secret: str) -> str:
    """What marks the processes of one notebook: a part of the secret's digits says nothing about the others."""
    return secret[:8]


def _tree(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        first = psutil.Process(process.pid)
        return [*first.children(recursive=True), first]
    except psutil.Error:
        return []


def _held(process: subprocess.Popen) -> tuple[int, float]:
    """Bytes of memory that the process and its descendants hold, and CPU seconds that they have used."""
    memory, used = 0, 0.0
    for each in _tree(process):
        with contextlib.suppress(psutil.Error):
            memory += each.memory_info().rss
            used += sum(each.cpu_times()[:2])
    return memory, used


def _written(folder: Path) -> int:
    """Bytes in the folder; a file that goes while we look counts for nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def end(process: subprocess.Popen, secret: str) -> None:
    """Kill the process with its descendants, those too that have left its tree, and wait for it."""
    for each in _tree(process):
        _kill(each)
    process.kill()
    process.wait()
    for each in psutil.process_iter():
        try:
            if each.environ().get("MINILIB_MARKING") == _label(secret):
                _kill(each)
        except psutil.Error:
            continue


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()
