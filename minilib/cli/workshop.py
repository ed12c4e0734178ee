"""python -m minilib workshop check | progress | plan | slides | handout: what a teacher runs before and in a class."""

import re
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil

from minilib.cli.doctor import _installed
from minilib.cli.run_folder import typed
from minilib.teaching.workshop.exercises import lesson_paths

PYTHONS = ((3, 11), (3, 13))  # the oldest and the newest that the lessons are tested on
FREE_DISK, FREE_MEMORY = 2e9, 2e9  # bytes: runs/ and caches; the largest lesson
PYTHON = typed(sys.executable)
INSTALL = f'run {PYTHON} -m pip install -e ".[notebooks]"'
FIRST = {"progress": "folder", "slides": "route", "handout": "route"}  # what may stand behind a command without a flag


def named(arguments: list[str]) -> list[str]:
    """The same arguments with --folder before FOLDER in `workshop progress FOLDER`, and the like."""
    if len(arguments) < 3 or arguments[0] != "workshop" or arguments[2].startswith("-"):
        return arguments
    flag = FIRST.get(arguments[1])
    return [*arguments[:2], f"--{flag}", *arguments[2:]] if flag else arguments


class Finding(NamedTuple):
    """One thing that was looked at: whether it is fine, what there is, and what to do about it where it is not."""

    what: str
    fine: bool
    told: str
    fix: str


def check() -> None:
    """Check a learner's laptop: Python, disk, memory, packages, the Jupyter kernel, and a few cells of lesson 03.

    One line each, with what to do; exit status 1 when something has to be done.
    """
    fine = True
    for look in (_python, _disk, _memory, _packages, _kernel, _lesson):
        found = look()
        fine = fine and found.fine
        print(f"{'ok ' if found.fine else 'FIX'}  {found.what:8}  {found.told}{'' if found.fine else ': ' + found.fix}")
    if not fine:
        sys.exit(1)


def _python() -> Finding:
    version, known = sys.version_info[:2], [".".join(map(str, each)) for each in PYTHONS]
    fix = f"install a Python from {known[0]} to {known[1]} and make a new environment with it"
    return Finding("python", PYTHONS[0] <= version <= PYTHONS[1], sys.version.split()[0], fix)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    fix = f"free some space, {FREE_DISK / 1e9:.0f} GB are enough"
    return Finding("disk", free >= FREE_DISK, f"{free / 1e9:.1f} GB free", fix)


def _memory() -> Finding:
    free = psutil.virtual_memory().available
    fix = f"close other programs, {FREE_MEMORY / 1e9:.0f} GB are enough"
    return Finding("memory", free >= FREE_MEMORY, f"{free / 1e9:.1f} GB free", fix)


def _packages() -> Finding:
    """What the library and the notebooks ask for, as the installed project says."""
    fix = f"{INSTALL} in the folder of this repository"
    try:
        wanted = metadata.requires("minilib") or []
    except metadata.PackageNotFoundError:
        return Finding("packages", False, "minilib is not installed in this Python", fix)
    base = [line for line in wanted if "extra ==" not in line or "notebooks" in line.partition("extra ==")[2]]
    names = [re.match(r"[\w.-]+", line)[0] for line in base]
    missing = [name for name in names if not _installed(name)]
    told = f"{', '.join(missing)} missing" if missing else f"all {len(names)} are there"
    return Finding("packages", not missing, told, fix)


def _kernel() -> Finding:
    """The kernel that notebooks name has to run in this very Python."""
    fix = f"run {PYTHON} -m ipykernel install --sys-prefix --name python3"
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        return Finding("kernel", False, "jupyter is missing", INSTALL)
    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Finding("kernel", False, "there is no kernel python3", fix)
    mine = program == "python" or Path(shutil.which(program) or program).resolve() == Path(sys.executable).resolve()
    return Finding("kernel", mine, "python3 runs in this Python" if mine else f"python3 runs {program}", fix)


def _lesson() -> Finding:
    """The cells of lesson 03 before its first exercise, in a fresh kernel, compared with what they print there."""
    fix = "run make test or python .ci/tasks.py test, and ask with its first error"
    path = lesson_paths().get("03")
    if path is None:
        return Finding("lesson", False, "notebooks/ is not there", "clone the repository and run the command in it")
    try:
        import nbformat
        from nbclient import NotebookClient
    except ImportError:
        return Finding("lesson", False, "nbclient is missing", INSTALL)
    lesson = nbformat.read(path, as_version=4)
    end = next(number for number, cell in enumerate(lesson.cells) if "### Exercise" in cell.source)
    lesson.cells = [cell for cell in lesson.cells[:end] if cell.cell_type == "code"]
    stored, began = [_printed(cell) for cell in lesson.cells], time.monotonic()
    try:
        client = NotebookClient(lesson, timeout=120, resources={"metadata": {"path": path.parent}})
        client.execute(stderr=subprocess.DEVNULL)  # the kernel's own warnings say nothing about this machine
    except Exception as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return Finding("lesson", False, f"a cell of lesson 03 failed ({last[:120]})", fix)
    same = [_printed(cell) for cell in lesson.cells] == stored
    told = f"{len(stored)} cells of lesson 03 ran in {time.monotonic() - began:.0f} seconds"
    return Finding("lesson", same, told if same else f"{told} and printed something else", fix)


def _printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") != "stderr")


def plan() -> None:
    """Compute the minutes of all routes and write the plans into book/workshop/routes.md."""
    from minilib.teaching.workshop import plan as plans

    routes = plans.read_routes()  # says what to do where there is no clone
    plans.write()
    for name, route in routes.items():
        print(f"{name}: {sum(row.minutes for row in plans.rows(route))} minutes, {route['minutes']} are promised")


def slides(route: str = "ninety", output: str = "runs/workshop") -> None:
    """Write the slides of a route, ninety, half_day or day, as one HTML file that needs no network.

    Args:
        route: a route of book/workshop/routes.yaml.
        output: folder for slides_ROUTE.html.
    """
    from minilib.teaching.workshop import slides as made

    path = Path(output) / f"slides_{route}.html"
    print(f"{made.write(route, path)} slides in {path}")


def handout(route: str = "ninety", output: str = "book/workshop") -> None:
    """Write the handout, the cheat sheet and the plan of a route on two pages, a long plan on a third, as PDF.

    Args:
        route: a route of book/workshop/routes.yaml.
        output: folder for handout.pdf.
    """
    from minilib.teaching.workshop import handout as made

    path = Path(output) / "handout.pdf"
    print(f"{made.write(route, path)} pages in {path}")


def progress(
    folder: str = "",
    output: str = "runs/workshop",
    seconds: float = 30.0,
    gigabytes: float = 4.0,
    workers: int = 1,
    strict: bool = False,
) -> None:
    """Show which exercises have passed in a folder of learners' notebooks, as lines, HTML and CSV.

    The folder holds NAME/NN_*.ipynb or NAME_NN.ipynb, where NN is the number of a lesson. Of each notebook only the
    functions of the exercises are run, against the library's own checks, in a process of its own on a copy, without a
    network. Nothing is sent anywhere.

    Args:
        folder: the folder of notebooks.
        output: folder for progress.html and progress.csv.
        seconds: CPU seconds that one exercise may take; on the clock five times as many.
        gigabytes: how much memory one notebook may take.
        workers: notebooks at a time.
        strict: list every exercise in a line, and end with status 1 unless all have passed.
    """
    from minilib.teaching.workshop import progress as table

    if not folder:
        raise ValueError(f"folder is missing: {table.LAYOUT}.")
    for name, value in (("seconds", seconds), ("gigabytes", gigabytes), ("workers", workers)):
        if value <= 0:
            raise ValueError(f"{name} is {value}: give a number above 0.")
    limits = {"seconds": seconds, "memory": gigabytes * 1e9, "workers": workers}
    sheets = table.progress(Path(folder), Path(output), strict=strict, **limits)
    if strict and any(sheet.passed < len(sheet.marks) for sheet in sheets):
        sys.exit(1)


WORKSHOP = {
    "_help": "Prepare and hold a workshop: check laptops, mark notebooks, write plans, slides and a handout.",
    "check": check,
    "progress": progress,
    "plan": plan,
    "slides": slides,
    "handout": handout,
}
