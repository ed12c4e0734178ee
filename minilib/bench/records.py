"""Records of long experiments: their JSON with a line for each, and the settings under which a file was begun."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minilib.common import different_setting


def line_by_line(document: dict[str, Any]) -> str:
    """JSON with a line for each entry, and for each of theirs where they are many: small, and it can be read."""

    def lines(value: Any, depth: int) -> str:
        text = json.dumps(value)
        if depth == 0 or len(text) <= 200 or not isinstance(value, (list, dict)):
            return text
        pairs = value.items() if isinstance(value, dict) else (("", item) for item in value)
        items = (f"{json.dumps(name)}: " * bool(name) + lines(item, depth - 1) for name, item in pairs)
        return text[0] + "\n" + ",\n".join(items) + "\n" + text[-1]

    return lines(document, 2) + "\n"


def opened(path: Path, settings: Mapping[str, Any], kept: str, compared: Iterable[str] | None = None) -> dict[str, Any]:
    """The document in `path`; ValueError where it has no `kept`, or other settings (by default all are compared)."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found, names = document["settings"], compared or {**document["settings"], **settings}
        found, settings = ({name: of.get(name) for name in names} for of in (found, settings))
        document[kept]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"output {path} is no file of this experiment: give another one.") from error
    if different := different_setting(found, settings):
        name, there, here = different
        raise ValueError(f"output {path} was begun with {name}={there!r}, this run has {here!r}: give another one.")
    return document
