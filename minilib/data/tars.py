"""webdataset's tar files: members that share a name up to its first dot are one row, `000.jpg` and `000.txt`.

    image     the member with the ending of a picture; of several, the one whose ending has no further dot
    caption   .txt, .text, .caption or .cap, all of them where there are several, or the caption in the .json

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
    key, members, seen = None, {}, set()
    try:
        with tarfile.open(path, "r|*") as archive:  # from front to back: compressed archives cannot be searched
            for member in archive:
                name = member.name.removeprefix("./")
                base, _, ending = name.rpartition("/")[2].partition(".")
                if not member.isreg() or not ending or not base:
                    continue
                if name != f"{key}.{ending}":
                    if members:
                        yield _row(key, members)
                    key, members = name.removesuffix(f".{ending}"), {}
                    if key in seen:
                        raise ValueError(f"the members of {key!r} do not follow each other")
                    seen.add(key)
                members[ending.lower()] = archive.extractfile(member).read()
    except tarfile.TarError as error:
        raise ValueError(f"{path.name} is damaged or no tar file: {error}") from error
    if not members:
        raise ValueError(f"{path.name} holds no rows: name the members 000.jpg, 000.txt and so on")
    if path.suffix.lower() == ".tar" and _last_bytes(path).strip(b"\0"):
        raise ValueError(f"{path.name} has no end mark, so a part of it is missing")
    yield _row(key, members)


def _row(key: str, members: dict[str, bytes]) -> dict:
    """The columns of one row, of its members by their endings."""
    pictures = [ending for ending in members if f".{ending.rpartition('.')[2]}" in ENDINGS]
    plain = [ending for ending in pictures if "." not in ending] or pictures
    if len(plain) > 1:
        raise ValueError(f"{key!r} has several pictures, {', '.join(plain)}: a key ends at the first dot of a name")
    captions = []
    try:
        for ending, content in members.items():
            if ending.rpartition(".")[2] in TEXTS:
                captions.append(content.decode("utf-8-sig").strip())
        if not captions and "json" in members:
            ending, found = "json", json.loads(members["json"])
            found = next((found[name] for name in FIELDS if found.get(name)), []) if isinstance(found, dict) else []
            captions = found if isinstance(found, list) else [found]
    except ValueError as error:
        raise ValueError(f"the .{ending} of {key!r} cannot be read: {error}") from error
    return {"image": members[plain[0]] if plain else None, "caption": captions, "key": key}


def _last_bytes(path: Path) -> bytes:
    """The last block of 512 bytes, which is empty in an archive that was written to its end."""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 512))
        return file.read()
