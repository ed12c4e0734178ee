"""`import minilib` is quick, brings in nothing that a loss does not need, and works where there is no Unix."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
from support.imports import sources

SCRIPT = """
import json, sys
import minilib
minilib.clip_loss, minilib.siglip_loss, minilib.lse.merge
heavy = ["triton", "transformers", "datasets", "matplotlib", "ipywidgets", "sklearn"]
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def test_importing_minilib_brings_in_no_heavy_package():
    loaded = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert json.loads(loaded) == []


def test_importing_minilib_takes_little_more_than_importing_torch():
    def seconds(module):
        best = []
        for _ in range(2):
            before = os.times()  # CPU seconds of the children, since others may be busy on this machine
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
            after = os.times()
            best.append(after.children_user + after.children_system - before.children_user - before.children_system)
        return min(best)

    assert seconds("minilib") < seconds("torch") + 1.0


UNIX = {"resource", "fcntl", "pwd", "grp", "spwd", "termios", "tty", "pty", "syslog", "crypt", "curses", "readline"}
UNIX_NAMES = {"SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGCHLD", "setitimer", "alarm"}  # of signal
UNIX_NAMES |= {"fork", "getuid", "geteuid", "getpgid", "killpg", "setsid", "uname", "sched_getaffinity"}  # of os
UNIX_NAMES |= {"getloadavg", "mkfifo", "statvfs"}
WITHOUT_UNIX = """
import builtins, importlib, pkgutil, sys
blocked = set(sys.argv[1].split(","))
before = builtins.__import__
def importing(name, *rest, **options):
    asks = ((rest[0] if rest else options.get("globals")) or {}).get("__name__", "")
    if name.split(".")[0] in blocked and asks.split(".")[0] == "minilib":
        raise ModuleNotFoundError(f"{asks} imports {name}, which only Unix has")
    return before(name, *rest, **options)
builtins.__import__ = importing
import minilib
for module in pkgutil.walk_packages(minilib.__path__, "minilib."):
    if module.name.rpartition(".")[2] != "__main__" and "checkpoints" not in module.name:
        importlib.import_module(module.name)
"""


def test_every_module_is_imported_without_what_only_unix_has():
    command = [sys.executable, "-c", WITHOUT_UNIX, ",".join(UNIX)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert result.returncode == 0, result.stderr[-2000:]


def unix_only(source):
    """What a module takes from Unix without asking first whether it is there, as `name in line N`.

    Asked is a name below an `if` or in a conditional expression that speaks of the platform or of hasattr.
    """
    found, open_ = [], [(ast.parse(source), False)]
    while open_:
        node, asked = open_.pop()
        if isinstance(node, ast.If | ast.IfExp):
            asked = asked or bool(re.search(r"platform|hasattr|os\.name", ast.unparse(node.test)))
        if isinstance(node, ast.Attribute) and node.attr in UNIX_NAMES and not asked:
            if isinstance(node.value, ast.Name) and node.value.id in ("os", "signal"):
                found.append(f"{node.value.id}.{node.attr} in line {node.lineno}")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            found += [f"{name} in line {node.lineno}" for name in names if name in UNIX and not node.col_offset]
        open_ += [(child, asked) for child in ast.iter_child_nodes(node)]
    return found


def test_no_module_takes_from_unix_without_asking():
    assert {name: found for name, source in sources().items() if (found := unix_only(source))} == {}


@pytest.mark.parametrize(
    "source", ["import resource", "from fcntl import flock", "os.kill(1, signal.SIGKILL)", "def f():\n    os.fork()"]
)
def test_what_only_unix_has_is_noticed(source):
    assert len(unix_only(source)) == 1


@pytest.mark.parametrize(
    "source", ["if hasattr(signal, 'SIGHUP'):\n    signal.SIGHUP", "1 if os.name == 'nt' else os.fork()", "a.fork()"]
)
def test_what_is_asked_for_first_is_fine(source):
    assert unix_only(source) == []
