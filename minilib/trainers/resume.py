"""The last whole checkpoint of a run of transformers' Trainer, which writes a folder file by file.

    checkpoint-40/   config, weights, optimizer, scheduler, random state, trainer_state.json        in this order

`trainer_state.json` comes last, so a folder that has it, and in it the step that it is named after, was written to its
end. A run that was killed while it wrote goes on from the one before; the broken folder is moved out of the way.

Proven in tests/test_logo_training_resumes.py.
"""

import json
import re
import shutil
from pathlib import Path


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest whole checkpoint in `output_dir`, to give to `train(resume_from_checkpoint=...)`; None without one.

    Folders behind it that were not written to their end are removed: the Trainer would write into them again.
    """
    found = {}
    for folder in Path(output_dir).glob("checkpoint-*"):
        if match := re.fullmatch(r"checkpoint-(\d+)", folder.name):
            found[int(match[1])] = folder
    for step in sorted(found, reverse=True):
        if _is_whole(found[step], step):
            return str(found[step])
        shutil.rmtree(found[step], ignore_errors=True)  # another rank may be at it
    return None


def _is_whole(folder: Path, step: int) -> bool:
    try:
        return json.loads((folder / "trainer_state.json").read_text())["global_step"] == step
    except (OSError, ValueError, KeyError, TypeError):
        return False
