"""python -m minilib workshop check | progress | plan | slides | handout: what a teacher runs before and in a class."""

import sys
from pathlib import Path


def progress(
    folder: str,
    output: str = "runs/workshop",
    seconds: float = 60.0,
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
        seconds: CPU seconds that one exercise may take; on the clock ten times as many.
        gigabytes: how much memory one notebook may take.
        workers: notebooks at a time.
        strict: list every exercise in a line, and end with status 1 unless all have passed.
    """
    from minilib.teaching.workshop import progress as table

    for name, value in (("seconds", seconds), ("gigabytes", gigabytes), ("workers", workers)):
        if value <= 0:
            raise ValueError(f"{name} is {value}: give a number above 0.")
    limits = {"seconds": seconds, "memory": gigabytes * 1e9, "workers": workers}
    sheets = table.progress(Path(folder), Path(output), strict=strict, **limits)
    if strict and any(sheet.passed < len(sheet.marks) for sheet in sheets):
        sys.exit(1)
