"""python .ci/tasks.py tour | test | lab | book | ...: the targets of the Makefile for machines without make.

Needs Python alone, on Linux, macOS and Windows, and does in the same environment what `make` does
(tests/test_make_does_what_it_says.py compares both, command by command).

    python .ci/tasks.py test --venv .venv --dry-run     show the commands and run nothing
    python .ci/tasks.py test-pythons                    all tests on 3.12, the lessons on 3.11 and 3.13
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = os.environ.get("TORCH", "torch==2.13.0")
PY = "PY"  # stands for the Python of the environment
ONE = "OMP_NUM_THREADS=1"
NBVAL = [PY, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--nbval", "--nbval-sanitize-with"]
LESSONS = [ONE, *NBVAL, "notebooks/sanitize.cfg", "notebooks"]
PIP = [PY, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
UNIT = [PY, "-m", "pytest", "-n", "2", "--dist", "loadfile"]
NO_IMAGES = [PY, "-c", "import shutil; shutil.rmtree('book/_build/html/_images', ignore_errors=True)"]
BOOK = ["jupyter-book", "build", ".", "--config", "book/_config.yml", "--toc", "book/_toc.yml"]
ROOTS = ["--allow-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []  # jupyter would not start otherwise

# What each layer of the environment installs, and the layer below it.
LAYERS = {
    "core": ([["--upgrade", "pip"], [TORCH], ["--editable", "."]], None),
    "bench": ([["--editable", ".[bench]"], ["--no-deps", "open_clip_torch>=3.3,<4"]], "core"),
    "dev": ([["--editable", ".[dev]"]], "bench"),
    "book": ([["--editable", ".[book]"]], "dev"),
}
# The layer that a task needs, and its commands; NAME=value in front of one is set in its environment.
TASKS = {
    "setup": ("dev", []),
    "tour": ("core", [[PY, "-m", "minilib", "tour"]]),
    "test": ("dev", [UNIT, LESSONS]),
    "test-solutions": ("dev", [["MINILIB_SOLVED=1", ONE, PY, "-m", "pytest", "-n", "2",
                                "tests/teaching/test_solutions_pass_as_pasted.py"]]),
    "lab": ("dev", [[PY, "-m", "jupyter", "lab", "--ip=localhost", *ROOTS, "notebooks/00_start_here.ipynb"]]),
    "book": ("book", [NO_IMAGES, [*BOOK, "--path-output", "book", "--warningiserror", "--keep-going", "--all"]]),
    "test-site": ("dev", [[*PIP, "--editable", ".[site]"],
                          ["MINILIB_SITE=book/_build/html", PY, "-m", "pytest", "tests/site"]]),
    "bench": ("bench", [[PY, "-m", "minilib", "bench", "contrastive"]]),
    "refresh": ("dev", [[PY, "-m", "minilib.teaching.refresh", "notebooks/*.ipynb", "notebooks/labs/*.ipynb"]]),
    "faults": ("dev", [["MINILIB_KILLS=100", PY, "-m", "pytest", "-s", "tests/faults"]]),
    "audit": ("dev", [[*PIP, "pip-audit"],
                      [PY, "-m", "pip_audit", "--skip-editable", "--desc", "off"]]),
}  # fmt: skip
PYTHONS = {"3.12": [UNIT, LESSONS], "3.11": [LESSONS], "3.13": [LESSONS]}


class Runner:
    """Runs commands in one environment, or prints them."""

    def __init__(self, venv: Path, python: str, dry: bool):
        self.venv, self.python, self.dry = venv, python, dry
        self.programs = venv / ("Scripts" if os.name == "nt" else "bin")

    def program(self, name: str) -> str:
        return str(self.programs / (f"{name}.exe" if os.name == "nt" else name))

    def run(self, command: list[str]) -> None:
        """Run one command of a task; a command that fails ends everything with its status."""
        settings = [part for part in command if "=" in part.partition("-")[0] and part.split("=")[0].isupper()]
        first, *rest = command[len(settings) :]
        words = [self.program("python" if first == PY else first), *rest]
        if self.dry:
            print(shlex.join([*settings, *words]).replace("'notebooks/*.ipynb'", "notebooks/*.ipynb"))
            return
        expanded = [str(path) for word in words for path in (sorted(ROOT.glob(word)) if "*" in word else [word])]
        self.call(expanded, os.environ | dict(part.split("=", 1) for part in settings))

    def call(self, words: list[str], environment: dict[str, str] | None = None) -> None:
        if self.dry:
            print(shlex.join(words))
            return
        try:
            status = subprocess.call(words, cwd=ROOT, env=environment)
        except KeyboardInterrupt:
            sys.exit(130)
        if status:
            sys.exit(status)

    def prepare(self, layer: str | None) -> None:
        """Install a layer with those below it, unless its mark is newer than pyproject.toml."""
        if layer is None:
            return
        packages, below = LAYERS[layer]
        self.prepare(below)
        mark = self.venv / f".{layer}"
        if mark.exists() and mark.stat().st_mtime >= (ROOT / "pyproject.toml").stat().st_mtime and not self.dry:
            return
        if layer == "core":
            self.call([self.python, "-m", "venv", str(self.venv)])
        for wanted in packages:
            self.run([*PIP, *wanted])
        if not self.dry:
            mark.touch()


def interpreter(version: str) -> str | None:
    """A Python of this version: on PATH, or the newest one under pyenv; None where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    several = sorted(pyenv.glob(f"{version}.*"), key=lambda path: [int(n) for n in path.name.split(".") if n.isdigit()])
    known = [path / name for path in reversed(several) for name in ("bin/python", "python.exe")]
    for program in (shutil.which(f"python{version}"), *map(str, known)):
        ask = [program, "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"]
        if program and Path(program).exists():
            told = subprocess.run(ask, capture_output=True, text=True)  # pyenv's shims exist without their Python
            if told.stdout.strip() == version:
                return program
    return None


def test_pythons(dry: bool) -> int:
    """Each Python in an environment of its own, runs/venv-3.12 and so on; 1 when one is missing."""
    missing = []
    for version, commands in PYTHONS.items():
        program = interpreter(version)
        if program is None:
            missing.append(version)
            print(f"test-pythons: there is no Python {version} on PATH or under pyenv: pyenv install {version}")
            continue
        runner = Runner(Path("runs") / f"venv-{version}", program, dry)
        print(f"test-pythons: Python {version} is {program}", flush=True)
        runner.prepare("dev")
        for command in commands:
            runner.run(command)
    return 1 if missing else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="The targets of the Makefile, without make.")
    parser.add_argument("task", choices=[*TASKS, "test-pythons", "clean"])
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="folder of the environment")
    parser.add_argument("--python", default=sys.executable, help="the Python that makes it")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    asked = parser.parse_args()
    os.chdir(ROOT)
    if asked.task == "test-pythons":
        return test_pythons(asked.dry_run)
    if asked.task == "clean":
        for folder in (asked.venv, Path("runs"), Path("book/_build")):
            print(f"remove {folder}") if asked.dry_run else shutil.rmtree(folder, ignore_errors=True)
        return 0
    if sys.version_info < (3, 11) and asked.python == sys.executable:
        print("minilib needs Python 3.11 or newer: run this with one, or give --python /path/to/python3.12")
        return 1
    if asked.task == "test-site" and not (ROOT / "book/_build/html/index.html").exists() and not asked.dry_run:
        print("test-site looks at the built site: run the task book first")
        return 1
    layer, commands = TASKS[asked.task]
    runner = Runner(asked.venv, asked.python, asked.dry_run)
    runner.prepare(layer)
    for command in commands:
        runner.run(command)
    if asked.task == "setup" and not asked.dry_run:
        print(f"next: {runner.program('python')} -m minilib workshop check")
    return 0


if __name__ == "__main__":
    sys.exit(main())
