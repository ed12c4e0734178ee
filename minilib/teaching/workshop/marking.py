"""Mark one notebook inside a process that may be lost: its functions against our checks, one record a verdict.

`sandbox` starts this module and reads what it writes. Nothing that the notebook printed or its own `checks` counts. A
pass counts only when the check can still fail afterwards and nothing that it rests on has been replaced:

- every function of `minilib`, `torch`, `math` and `builtins` is the object that it was before the notebook's code ran,
- an empty function is still told from a right one by the same check,
- what the function returned is of a type that the notebook has not made.

An audit hook refuses sockets, new processes and writing outside of the copy. It sees what Python does; code that goes
round Python is held by the namespaces of `sandbox`, where the system gives them.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any

import torch

from minilib.teaching import checks
from minilib.teaching.checks import contract
from minilib.teaching.workshop.exercises import LARGEST_NOTEBOOK, code_cells, function_of

RESTS_ON = ("builtins", "math", "json", "torch", "torch.nn.functional")
BY_TORCH = ("torch.manual_seed",)  # torch wraps it when its compiler is first imported, which a check may cause
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
           "socket.gethostbyname", "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty",
           "os.posix_spawn", "os.spawn", "os.startfile", "os.kill", "os.killpg", "pty.spawn")  # fmt: skip
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "os.utime", "shutil.rmtree", "shutil.move")  # fmt: skip


def main() -> None:
    """Read what to mark from standard input, write records to what was standard output, and print nothing else."""
    asked = json.loads(sys.stdin.readline())
    channel, nothing = os.dup(1), os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)  # what learners print, gigabytes too, goes nowhere

    def report(**record: Any) -> None:
        os.write(channel, (json.dumps(record | {"secret": asked["secret"]}) + "\n").encode())

    torch.set_num_threads(1)
    try:
        cells = read(Path(asked["notebook"]))
    except ValueError as error:
        report(unreadable=str(error))
        return
    names = asked["exercises"]
    modules = {name: import_module(f"{checks.__name__}.{checks.HOMES[f'check_{name}']}") for name in names}
    before = fingerprint()
    guard(asked["scratch"])
    sys.modules.pop(__name__, None)  # a notebook that imports this module gets another copy, and changes nothing here
    vars(import_module(__name__.rpartition(".")[0])).pop("marking", None)
    for name in names:
        report(begins=name)
        status, line = mark(cells, name, modules[name], before)
        report(done=name, status=status, line=line)
        if status == "not counted":
            return  # what it has changed must not touch the next verdict


def read(path: Path) -> list[str]:
    """The code cells of a notebook; ValueError saying why the file is none."""
    if not path.is_file() or path.stat().st_size > LARGEST_NOTEBOOK:
        raise ValueError(f"not a plain file of at most {LARGEST_NOTEBOOK // 10**6} MB")
    try:
        return code_cells(path)
    except Exception as error:
        raise ValueError(f"it is no notebook: {type(error).__name__}") from error


def mark(cells: list[str], name: str, module: ModuleType, before: dict[str, tuple]) -> tuple[str, str]:
    """The status of one exercise and the line that its check gives."""
    try:
        learner = function_of(cells, name)
    except BaseException as error:
        return "not yet", f"the cells of {name} raised {type(error).__name__}: {_first_line(error)}"
    if learner is None:
        return "missing", f"the notebook has no {name}"
    if not callable(learner):
        return "missing", f"{name} is no function"
    line = line_of(module, name, made_plain(learner))
    replaced = changed(before)
    if line.startswith("Passed") and (replaced or not can_still_fail(module, name)):
        return "not counted", f"what the check rests on was replaced: {replaced or 'it passes an empty function'}"
    words = {"Passed": "passed", "Not attempted yet": "not attempted"}
    return words.get(line.partition(":")[0], "not yet"), line


def line_of(module: ModuleType, name: str, learner: Callable) -> str:
    """The line that the check has for `learner`: taken from the check itself, not from what is printed."""
    lines = []
    printing, module.run = module.run, lambda *of_check: lines.append(contract.verdict(*of_check))
    try:
        getattr(module, f"check_{name}")(learner)
    except BaseException as error:  # SystemExit is no Exception
        return f"Not yet: the function raised {type(error).__name__}: {_first_line(error)}."
    finally:
        module.run = printing
    return lines[0]


def made_plain(learner: Callable) -> Callable:
    """The learner's function; TypeError where it returns an object of its own class, which may compare as it likes."""

    @functools.wraps(learner)
    def plain(*args: Any, **options: Any) -> Any:
        returned = learner(*args, **options)
        _refuse_own_types(returned)
        return returned

    return plain


def _refuse_own_types(value: Any) -> None:
    kind = type(value)
    home = sys.modules.get(kind.__module__)
    if kind is not NoneType and (kind.__module__ == "__main__" or getattr(home, kind.__name__, None) is not kind):
        raise TypeError(f"the answer is a {kind.__name__}, return plain numbers, texts, tensors, tuples or lists")
    for part in value if isinstance(value, list | tuple) else ():
        _refuse_own_types(part)


def can_still_fail(module: ModuleType, name: str) -> bool:
    """Whether the check still tells a stub and an empty function from a right one."""

    def stub(*_: Any, **__: Any) -> None:
        raise NotImplementedError

    empty = line_of(module, name, lambda *_, **__: None)
    return line_of(module, name, stub).startswith("Not attempted") and empty.startswith("Not yet")


def fingerprint() -> dict[str, tuple]:
    """What checks rest on, by name: functions with their code and defaults, classes, and all that the checks hold."""
    found = {}
    for name, module in list(sys.modules.items()):
        own = name.startswith(checks.__name__)
        if name.split(".")[0] == "minilib" or name in ("builtins", "math", "torch", "torch.nn.functional", "json"):
            found |= {
                f"{name}.{key}": _identity(thing) for key, thing in vars(module).items() if own or callable(thing)
            }
    for kind in (torch.Tensor, contract.LargestTensor):
        found |= {f"{kind.__name__}.{key}": _identity(thing) for key, thing in vars(kind).items() if callable(thing)}
    return found


def changed(before: dict[str, tuple]) -> str | None:
    """The first name that stands for something else than before."""
    now = fingerprint()
    kept = {name: things for name, things in before.items() if name in now and name not in BY_TORCH}
    return next((name for name, old in kept.items() if any(a is not b for a, b in zip(old, now[name]))), None)


def _identity(thing: Any) -> tuple:
    return thing, getattr(thing, "__code__", None), getattr(thing, "__defaults__", None)


def guard(scratch: str) -> None:
    """From now on refuse, by an audit hook that stays, sockets, processes, and writing outside `scratch`."""
    # Kept here under names of this function, where the notebook's code cannot replace them.
    real, decode, separator, a_path = os.path.realpath, os.fsdecode, os.sep, (str, bytes, os.PathLike)
    inside, nowhere = real(scratch) + separator, os.devnull

    def outside(path: Any) -> bool:
        place = real(decode(path)) if isinstance(path, a_path) else nowhere
        return place != nowhere and not (place + separator).startswith(inside)

    def hook(event: str, args: tuple) -> None:
        if event in REFUSED:
            raise PermissionError(f"{event} is not allowed while a notebook is marked")
        if event == "open" and isinstance(args[2], int) and args[2] & WRITES and outside(args[0]):
            raise PermissionError("writing outside of the notebook's folder is not allowed while it is marked")
        if event in CHANGES and any(outside(path) for path in args[:2]):
            raise PermissionError(f"{event} outside of the notebook's folder is not allowed while it is marked")

    sys.addaudithook(hook)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


if __name__ == "__main__":
    main()
