"""The folder of one alignment run: what it was begun with, where it stands, and what it has left behind.

    settings.json           written first; a run of other settings is an error where there is work to lose
    pairs.jsonl             what the model has answered, when the data were questions
    checkpoint-40/ ...      of transformers' Trainer (`last_checkpoint`)
    adapter or model, tokenizer files, and records.json, which is written last: with it the run is finished

Every file of ours is written next to its place and moved over it, so that a killed run leaves whole files only.
"""

import json
from collections.abc import Collection
from pathlib import Path

from minilib.common import different_setting, write_text

SETTINGS, PAIRS, RECORDS = "settings.json", "pairs.jsonl", "records.json"


def begin(folder: Path, settings: dict, answering: Collection[str] | None = None) -> None:
    """Note the settings of a new run, or compare them with those that the run in `folder` was begun with.

    A run that was stopped before it had answered a question or trained a checkpoint may begin again with other ones.
    Once it has answered, those named in `answering` are bound, by default all; once it has trained, all are.
    Raises ValueError: one sentence, when the folder belongs to another run.
    """
    settings = json.loads(json.dumps(settings))  # as they look when they are read back
    if not (folder / SETTINGS).exists():
        others = [*folder.glob("checkpoint*"), *folder.glob("model.json"), *folder.glob("adapter_config.json")]
        if others:
            raise ValueError(
                f"output {folder} holds {others[0].name} and no {SETTINGS}, so it is of another run: choose another "
                "output, or delete the folder."
            )
        write_json(folder / SETTINGS, settings)
        return
    try:
        found = dict(json.loads((folder / SETTINGS).read_text()))
    except ValueError as error:
        raise ValueError(f"output {folder} has a damaged {SETTINGS}: delete the folder to start anew.") from error
    trained = any((*folder.glob("checkpoint-*"), *folder.glob(RECORDS)))
    if not trained and not (folder / PAIRS).exists():
        bound = ()
    else:
        bound = settings | found if trained or answering is None else answering
    if different := different_setting(*({name: of.get(name) for name in bound} for of in (found, settings))):
        name, there, here = different
        raise ValueError(
            f"output {folder} was begun with {name}={there!r}, this run has {name}={here!r}: use the same setting or "
            "another output."
        )
    if found != settings and not trained:
        write_json(folder / SETTINGS, settings)


def finished(folder: Path) -> list[dict] | None:
    """The records of a run that has come to its end; None before."""
    path = folder / RECORDS
    return json.loads(path.read_text()) if path.exists() else None


def write_json(path: Path, content) -> None:
    """Write `content` as JSON, all or nothing."""
    write_text(path, json.dumps(content, indent=1) + "\n")
