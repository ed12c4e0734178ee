"""The folder of one run of `clip` or `logo`: what it was begun with, where it stands, and what it has left behind.

    settings.json           written first; a run of other settings, or of another command, is an error
    config.yaml             the flags of the run: `--config` takes them again
    .lock                   held by the process that works here; .lock.pid says which one it is
    pairs.jsonl             logo: what the model has answered, when the data were questions
    checkpoint-40/ ...      logo: of transformers' Trainer (`last_checkpoint`)
    checkpoint.pt ...       clip: the newest two (`minilib.trainers.checkpoint`)
    model or adapter, and records.json, which is written last: with it the run is finished

Every file of ours is written next to its place and moved over it, so that a killed run leaves whole files only.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from minilib.common import different_setting, write_errors_named, write_text

SETTINGS, PAIRS, RECORDS, CONFIG = "settings.json", "pairs.jsonl", "records.json", "config.yaml"
WORK = ("checkpoint-*", "checkpoint*.pt", PAIRS, RECORDS)  # what another run must not overwrite


@contextmanager
def opened(folder: Path) -> Iterator[None]:
    """The folder belongs to this process while the block runs.

    Of several ranks the first one opens it, for all. Raises ValueError where another process works in the folder.
    """
    if int(os.environ.get("RANK", 0)):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock, pid = FileLock(folder / ".lock", timeout=0), folder / ".lock.pid"
    try:
        lock.acquire()
    except Timeout as error:
        holder = f" (process {pid.read_text(encoding='utf-8').strip()})" if pid.exists() else ""
        raise ValueError(
            f"output {folder} is in use by another run{holder}: wait for its end, or choose another output."
        ) from error
    try:
        pid.write_text(f"{os.getpid()}\n")
        yield
    finally:
        with suppress(OSError):
            pid.unlink(missing_ok=True)
        lock.release()


def begin(
    folder: Path, settings: dict, command: str = "logo", config: dict | None = None,
    answering: Collection[str] | None = None,
) -> None:  # fmt: skip
    """Note the settings of a new run, or compare them with those that the run in `folder` was begun with.

    A run that was stopped before it had answered a question or trained a checkpoint may begin again with other ones.
    Once it has answered, those named in `answering` are bound, by default all; once it has trained, all are.
    config: the flags as they were given, for config.yaml.
    Raises ValueError: one sentence, when the folder belongs to another run.
    """
    settings = json.loads(json.dumps({"command": command} | settings))  # as they look when they are read back
    _check_command(folder, command)
    if not (folder / SETTINGS).exists():
        others = [path for name in ("checkpoint*", "model.json", "adapter_config.json") for path in folder.glob(name)]
        if others:
            raise ValueError(
                f"output {folder} holds {others[0].name} and no {SETTINGS}, so it is of another run: choose another "
                "output, or delete the folder."
            )
        _note(folder, settings, config)
        return
    found = {"command": "logo"} | read_object(folder / SETTINGS, f"output {folder} has a damaged {SETTINGS}")
    trained = any(path for name in WORK if name != PAIRS for path in folder.glob(name))
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
    if not trained:
        _note(folder, settings, config)


def _note(folder: Path, settings: dict, config: dict | None) -> None:
    write_json(folder / SETTINGS, settings)
    if config is not None and not int(os.environ.get("RANK", 0)):
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in config.items()}
        head = f"# python -m minilib {settings['command']} --config {CONFIG}, with the path of this file\n"
        # ASCII, since jsonargparse reads --config in the system's encoding
        write_text(folder / CONFIG, head + yaml.safe_dump(plain, sort_keys=False))


@contextmanager
def filled(folder: Path, first_rank: bool) -> Iterator[Path]:
    """A place to write a model to; its files come into `folder` when the block ends, and none when it fails."""
    staging = folder / ".unfinished"
    try:
        with write_errors_named(folder):
            yield staging
        for path in staging.iterdir() if first_rank else ():
            os.replace(path, folder / path.name)
    finally:
        if first_rank:
            shutil.rmtree(staging, ignore_errors=True)


def command_of(folder: Path) -> str | None:
    """The command whose run lies in `folder`; None where there is none."""
    found = settings_of(folder)
    return str(found.get("command", "logo")) if found else None


def settings_of(folder: Path) -> dict:
    """The settings of the run in `folder`; none where there is no run."""
    if not (folder / SETTINGS).exists():
        return {}
    return read_object(folder / SETTINGS, f"output {folder} has a damaged {SETTINGS}")


def go_on(folder: Path, command: str) -> str:
    """What to give once more to go on with the run in `folder`, in words behind "the same"."""
    if "WORLD_SIZE" in os.environ:  # of torchrun and accelerate
        return "command, its launcher included, once more"
    config = folder / CONFIG
    either = f", or `python -m minilib {command} --config {typed(config)}`" if config.exists() else ""
    return f"`python -m minilib {command}` once more{either}"


def typed(value: Path | str) -> str:
    """A path or a name as a shell reads it back: in quotes where it holds a space."""
    return shlex.quote(str(value)) if os.name == "posix" else subprocess.list2cmdline([str(value)])


def finished(folder: Path) -> list[dict] | None:
    """The records of a run that has come to its end; None before."""
    path = folder / RECORDS
    if not path.exists():
        return None
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(records, list) and records and all(isinstance(record, dict) for record in records)):
            raise ValueError("no list of records")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: delete it, and the same command finishes the run again.") from error
    return records


def read_object(path: Path, what: str) -> dict:
    """The object in a JSON file of ours; ValueError, beginning with `what`, when it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what}: delete the folder to start anew.") from error
    return found


def write_json(path: Path, content) -> None:
    """Write `content` as JSON, all or nothing."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def _check_command(folder: Path, command: str) -> None:
    if (found := command_of(folder)) not in (None, command):
        raise ValueError(f"output {folder} is of a `{found}` run and this is `{command}`: choose another output.")
