"""A file of JSON Lines that grows batch by batch and can be taken up again, byte for byte, after any interruption.

    1. append a batch's lines to `pairs.jsonl`, and wait until they are on the disk
    2. write `pairs.jsonl.state` (rows read, bytes of whole lines, a fingerprint of the last row, counts, settings) next
       to the old one and move it over it, which either happens or does not

Killed before step 2 has ended, the file may hold lines that the state does not know: the next start cuts them off and
makes them again. Taught in notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from minilib.common import different_setting, write_text


class LineLog:
    """The lines at `path` and their state; `rows`, `last` and `counts` are as of the last commit."""

    def __init__(self, path: str | Path, settings: dict):
        self.path = Path(path)
        self.state_path = self.path.with_name(self.path.name + ".state")
        self.settings = json.loads(json.dumps(settings))  # as they will look when they are read back
        self.rows, self.bytes, self.last, self.counts = 0, 0, None, None
        if self.state_path.exists():
            self._load()
        elif self.path.exists() and self.path.stat().st_size:
            raise ValueError(
                f"path {self.path} exists and has no {self.state_path.name} next to it: choose another path, or delete "
                "the file to start anew."
            )

    def _load(self) -> None:
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            found = state["settings"]
            self.rows, self.bytes, self.last = state["rows"], state["bytes"], state["last"]
            self.counts = state["counts"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"path {self.state_path} cannot be read ({type(error).__name__}): delete it and {self.path.name} to "
                "start anew."
            ) from error
        if different := different_setting(found, self.settings):
            name, there, here = different
            raise ValueError(
                f"path {self.path} was begun with {name}={there!r}, now it is {here!r}: use the same setting or "
                "another path."
            )
        if self.bytes and (not self.path.exists() or self.path.stat().st_size < self.bytes):
            raise ValueError(
                f"path {self.path} has lost lines that {self.state_path.name} knows of: delete both to start anew."
            )

    def lines(self) -> Iterator[str]:
        """The committed lines."""
        if self.bytes:
            with open(self.path, "rb") as file:
                end = self.bytes
                while file.tell() < end:
                    yield file.readline().decode()

    def commit(self, lines: list[str], rows: int, last: str, counts: dict) -> None:
        """Append `lines`; the file then stands for `rows` rows, the last of which has the fingerprint `last`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.state_path.exists():
            self._save()  # from the first line on the file is known as ours
        new = "".join(line + "\n" for line in lines).encode()
        with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
            file.truncate(self.bytes)
            file.seek(self.bytes)
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
        self.rows, self.bytes, self.last, self.counts = rows, self.bytes + len(new), last, counts
        self._save()

    def _save(self) -> None:
        state = {"rows": self.rows, "bytes": self.bytes, "last": self.last, "counts": self.counts}
        write_text(self.state_path, json.dumps(state | {"settings": self.settings}, indent=1) + "\n")


def fingerprint(row: dict) -> str:
    """Sixteen hexadecimal digits that another question, context or answer would change."""
    parts = [row["context"], row["question"], row.get("answer")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
