"""What the world does to a command, caught in one place: one sentence on standard error, and an exit status.

    status    what has happened
    1         training diverged: the loss or a weight is no longer a finite number
    2         it cannot be done as asked: a setting, a file, the disk, memory, the network, a lost rank
    130       Ctrl-C; 143 SIGTERM, 129 a closed terminal: what a training had done is saved first
    141       nobody reads the output any more

A first of these signals lets a training finish its step and save; a second one ends the process at once. Signals are
left alone outside the main thread, in a notebook, and where somebody else handles them already. MINILIB_TRACEBACK=1
raises the error itself, to see where it came from.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGHUP"):  # of a terminal that is closed; nohup has it ignored
    NAMES[signal.SIGHUP] = "SIGHUP"
SPACE = "free some space or choose another output; what was saved before is still whole"
ALLOW = "choose a place where you may read and write"
FIXES = {
    errno.ENOSPC: SPACE, errno.EDQUOT: SPACE, errno.EFBIG: SPACE,
    errno.EACCES: ALLOW, errno.EPERM: ALLOW, errno.EROFS: ALLOW,
    errno.ENOTDIR: "a folder is needed where there is a file, choose another path",
    errno.EEXIST: "a folder is needed where there is a file, choose another path",
    errno.EISDIR: "a file is needed where there is a folder, choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ENOENT: "check the path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}  # fmt: skip
NO_MEMORY = re.compile(r"out of memory|not enough memory|allocate memory|bad.?alloc|calculation overflowed", re.I)
BYTES = re.compile(r"allocate (\d+) bytes")
AGAIN = "the same command starts again, from what is saved"


class Stopped(KeyboardInterrupt):
    """A signal has ended the command."""

    def __init__(self, number: int, saved: str = AGAIN):
        super().__init__(f"stopped by {NAMES[number]}: {saved}.")
        self.status = 128 + number


class _Signals:
    """What signals have asked for so far."""

    def __init__(self):
        self.asked: int | None = None
        self.training = False

    def __call__(self, number, frame) -> None:
        second, self.asked = self.asked is not None, number
        if second and self.training and "TORCHELASTIC_RUN_ID" in os.environ:
            return  # torchrun hands on to its ranks what the terminal has sent them already, and kills them in the end
        if second or not self.training:
            raise Stopped(number, AGAIN)


SIGNALS = _Signals()


@contextmanager
def training() -> Iterator[None]:
    """Within this block the first signal is only noted: the training asks for it after each step (`asked`)."""
    SIGNALS.training = True
    try:
        yield
    finally:
        SIGNALS.training = False


def asked() -> int | None:
    """The signal that has asked to stop; None so far."""
    return SIGNALS.asked


def stop(saved: str) -> None:
    """End the command, once `saved` says what is kept and how to go on."""
    raise Stopped(SIGNALS.asked or signal.SIGTERM, saved)  # another rank may have been asked


def leave_early() -> None:
    """While Python still imports, there is nothing to save: a signal ends the process with a sentence."""
    for number in _ours():
        signal.signal(number, _leave)


def _leave(number, frame) -> None:
    os.write(2, f"minilib: stopped by {NAMES[number]} before it began.\n".encode())
    os._exit(128 + number)


def _ours() -> list[int]:
    """The signals that nobody else handles."""
    if threading.current_thread() is not threading.main_thread() or _in_notebook():
        return []
    return [n for n in NAMES if signal.getsignal(n) in (signal.SIG_DFL, signal.default_int_handler, _leave)]


def _in_notebook() -> bool:
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


@contextmanager
def told() -> Iterator[None]:
    """Run a command: every error of the user or of the world ends it with one sentence and an exit status."""
    before = {number: signal.signal(number, SIGNALS) for number in _ours()}
    SIGNALS.asked, SIGNALS.training = None, False
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before Python began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    try:
        with warnings.catch_warnings():
            _show_notices()
            yield
            sys.stdout.flush()  # so that a reader who has gone is noticed here
    except KeyboardInterrupt as stopped:
        if _in_notebook() and not isinstance(stopped, Stopped):
            raise
        interrupted = stopped if isinstance(stopped, Stopped) else Stopped(signal.SIGINT)
        _end(str(interrupted), interrupted.status, stopped)
    except BrokenPipeError as error:
        _silence(sys.stdout)
        _end("nobody reads the output any more: what was saved stays.", 141, error)
    except Exception as error:
        from minilib.trainers.trainer_utils import DivergedError  # late, as this module comes before all others

        _end(sentence(error), 1 if isinstance(error, DivergedError) else 2, error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sentence(error: BaseException) -> str:
    """What an error means to whoever has given the command, in one line."""
    text = " ".join(line.strip() for line in str(error).splitlines()).strip()
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
        what = os.strerror(error.errno)
        return f"{error.filename or 'the output'}: {what[0].lower()}{what[1:]}: {FIXES.get(error.errno, 'check it')}."
    if isinstance(error, (ValueError, ConnectionError)) and text:
        return re.sub(r"(^|; )source ", r"\1data ", text)  # what the library calls `source` is the flag --data
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        wanted = BYTES.search(text)
        size = f" for {int(wanted[1]) / 1e9:,.1f} GB at once" if wanted else ""
        return f"not enough memory{size}: take smaller batches, a smaller model or fewer rows."
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name} is not installed: pip install {error.name.split('.')[0]}."
    kind = type(error).__name__
    return f"{kind}{f', {text[:300]}' if text else ''}: not foreseen, MINILIB_TRACEBACK=1 shows where it came from."


def _end(text: str, status: int, error: BaseException) -> None:
    if os.environ.get("MINILIB_TRACEBACK"):
        raise error
    try:
        sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)
    _say(text)
    sys.exit(status)


def _say(text: str) -> None:
    """A line on standard error, above the progress bars that are there."""
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(f"minilib: {text}", file=sys.stderr)
    else:
        print(f"minilib: {text}", file=sys.stderr, flush=True)


def _silence(stream) -> None:
    """Python flushes standard output once more at its end: into nothing, then."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):  # no real file
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _show_notices() -> None:
    """Our own notices are a line each, without the place in the code that other warnings have."""
    from minilib.common import Notice

    # `datasets` logs what it raises as well, in many lines; it reads this when it is imported.
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    shown = warnings.showwarning

    def show(message, category, *rest, **options):
        if issubclass(category, Notice):
            _say(str(message))
        else:
            shown(message, category, *rest, **options)

    warnings.showwarning = show
    warnings.simplefilter("always", Notice)
