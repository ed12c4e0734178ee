"""webdataset's tar files: members that share a name up to its first dot are one row, `000.jpg` and `000.txt`.

    image     the member with the ending of a picture
    caption   .txt, .text, .caption or .cap, or the caption in the .json

Nothing is unpacked to the disk, and links in an archive are passed over. Several archives are read one after the other;
a stream may shuffle their order.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from minilib.data.images import ENDINGS

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

TEXTS = ("txt", "text", "caption", "cap")
FIELDS = ("caption", "captions", "text", "title")


def read_tars(paths: list[Path], *, cache_dir=None, streaming: bool = False) -> Dataset | IterableDataset:
    """The rows of all archives, with the columns `image`, `caption` (a list) and `key`."""
    from datasets import Dataset, Features, IterableDataset, Value

    features = Features({"image": Value("binary"), "caption": [Value("string")], "key": Value("string")})
    # The stamps make the cache read changed archives anew.
    stamps = [(str(path.resolve()), path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
    settings = {"gen_kwargs": {"archives": stamps}, "features": features}
    if streaming:
        return IterableDataset.from_generator(_rows, **settings)
    return Dataset.from_generator(_rows, cache_dir=cache_dir and str(cache_dir), **settings)


def _rows(archives: list) -> Iterator[dict]:
    for path, *_ in archives:
        yield from _samples(Path(path))


def _samples(path: Path) -> Iterator[dict]:
    row, seen = None, set()
    try:
        with tarfile.open(path, "r|*") as archive:  # from front to back: compressed archives cannot be searched
            for member in archive:
                name = member.name.removeprefix("./")
                key, _, ending = name.rpartition("/")[2].partition(".")
                if not member.isreg() or not ending or not key:
                    continue
                key = name[: len(name) - len(ending) - 1]
                if row is None or key != row["key"]:
                    if row is not None:
                        yield row
                    if key in seen:
                        raise ValueError(f"the members of {key!r} do not follow each other")
                    seen.add(key)
                    row = {"image": None, "caption": [], "key": key}
                _add(row, ending.lower(), archive.extractfile(member).read())
    except tarfile.TarError as error:
        raise ValueError(f"{path.name} is damaged or no tar file: {error}") from error
    if row is None:
        raise ValueError(f"{path.name} holds no rows: name the members 000.jpg, 000.txt and so on")
    yield row


def _add(row: dict, ending: str, content: bytes) -> None:
    last = ending.rpartition(".")[2]
    if f".{last}" in ENDINGS:
        row["image"] = content
        return
    try:
        if last in TEXTS:
            row["caption"] = [content.decode("utf-8-sig").strip()]
        elif last == "json" and not row["caption"]:
            found = json.loads(content)
            found = next((found[name] for name in FIELDS if found.get(name)), []) if isinstance(found, dict) else []
            row["caption"] = found if isinstance(found, list) else [found]
    except ValueError as error:
        raise ValueError(f"the .{last} of {row['key']!r} cannot be read: {error}") from error
