"""Text that is in its file wholly or not at all: written beside its place, then moved over what was there.

A process killed while it writes leaves the old file as it was. `trainers.checkpoint` does the same with tensors.

Proven in tests/test_logo_commands.py and tests/test_the_alignment_experiment_is_honest.py.
"""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path`, all or nothing; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    unfinished.write_text(text)
    os.replace(unfinished, path)
