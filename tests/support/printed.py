"""What README and book print: commands and files that carry a mark, so that tests run what a reader would type."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "book").rglob("*.md")) if "_build" not in p.parts)]
BLOCK = re.compile(r"<!-- (command|file|piece): ([\w.]+) -->\n+```\w+\n(.*?)```", re.DOTALL)
# The same programs as modules, each on a port of its own, since tests run next to each other.
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone"],
    "accelerate": ["-m", "accelerate.commands.launch", "--main_process_port", "0"],
}


def printed(page: str, kind: str) -> dict[str, str]:
    """The marked blocks of a page, by name."""
    return {name: text.strip() for found, name, text in BLOCK.findall((ROOT / page).read_text()) if found == kind}


def as_module(command: str) -> list[str]:
    """A printed command as this Python's own."""
    program, *words = shlex.split(command)
    if program == "accelerate":
        assert words.pop(0) == "launch"
    return [sys.executable, *LAUNCHERS[program], *words]


def start(command: str, *more, cwd: Path = ROOT) -> str:
    """Run a printed command with some more flags; returns what it says on standard output."""
    words = [*as_module(command), *map(str, more)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=env, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout
