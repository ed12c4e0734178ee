"""Any table as `datasets` reads it: files, folders, loaded sets, and names on the hub, with its splits by name.

    a file       .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, .tar, any of them compressed; COCO's captions too
    a folder     what `minilib.data.folders` finds in it
    loaded       Dataset, IterableDataset, and the dictionaries of splits of both
    a name       a data set on the hub, or what is left of it in the cache where there is no network

A split may be sliced as in `datasets`: "train[:80%]". Of one table whose rows name their split in a column, as those of
Flickr30k and of Karpathy do, these are the splits.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minilib.common import Notice
from minilib.data.folders import readers_of
from minilib.data.table_files import (
    KINDS,
    SPLIT,
    WORDS,
    Reader,
    kind_of,
    lists_images,
    names_of,
    read_files,
    relative_to,
    split_of,
)

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def open_table(
    source, cache_dir=None, streaming: bool = False, split: str | None = None, *, allow_outside: bool = False
) -> tuple[Dataset | IterableDataset, str | None]:
    """The table behind `source`, and the folder that its paths are relative to and must not leave (None: any).

    split: its name, by default "train" or the only one; it may be sliced. Raises ValueError for what cannot be read.
    allow_outside: whether links in a folder may lead out of it.
    """
    readers, folder = _readers(source, cache_dir, allow_outside)
    chosen, parts = pick_split(list(readers), split), []
    if split is None and len(readers) > 1:
        warnings.warn(f"split {chosen[0][0]!r} of {', '.join(readers)} is read.", Notice, stacklevel=3)
    for name, bounds in chosen:
        table = readers[name](cache_dir=cache_dir, streaming=streaming)
        parts.append(_cut(table, name, bounds))
    from datasets import concatenate_datasets

    table = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    if hasattr(table, "__len__") and len(table) == 0:
        raise ValueError("source must hold at least one pair, got an empty table: pass a source with rows.")
    return table, folder


def split_names(source, cache_dir=None, *, allow_outside: bool = False) -> list[str]:
    """The splits that `source` has; only a table whose rows name them is read for that."""
    return list(_readers(source, cache_dir, allow_outside)[0])


def pick_split(names: list[str], split: str | None) -> list[tuple[str, str | None]]:
    """The splits that are asked for, each with its slice in brackets."""
    if split is None:
        if "train" not in names and len(names) > 1:
            raise ValueError(f"source has the splits {names}: name one with split.")
        return [("train" if "train" in names else names[0], None)]
    found = []
    for part in split.split("+"):
        name, bracket, bounds = part.strip().partition("[")
        name = name if name in names else WORDS.get(name, name)
        if name not in names:
            raise ValueError(f"source has no split {part.strip()!r}, only {names}: name one of these with split.")
        found.append((name, bracket + bounds or None))
    return found


@contextmanager
def hub(cached_only: bool | None = None) -> Iterator[None]:
    """Within, the hub is asked for nothing where it cannot be reached: its client would try for half a minute."""
    import datasets
    import huggingface_hub

    if cached_only is None:
        cached_only = not _reachable(huggingface_hub)
    places = ((datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE"))
    before = [getattr(place, name, False) for place, name in places]
    try:
        for place, name in places:
            setattr(place, name, cached_only or getattr(place, name, False))
        yield
    finally:
        for (place, name), value in zip(places, before):
            setattr(place, name, value)


def _reachable(huggingface_hub) -> bool:
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=3)
    except Exception:  # of whichever client the hub has
        return False
    return True


def _readers(source, cache_dir, allow_outside: bool) -> tuple[dict[str, Reader], str | None]:
    from datasets import Dataset, IterableDataset

    if isinstance(source, (Dataset, IterableDataset)):
        return {str(source.split or "train"): partial(_as_it_is, source)}, None
    if isinstance(source, dict) and source and all(isinstance(t, (Dataset, IterableDataset)) for t in source.values()):
        return {str(name): partial(_as_it_is, table) for name, table in source.items()}, None
    if not isinstance(source, (str, Path)):
        raise TypeError(
            f"source must be a path or a datasets.Dataset, got {type(source).__name__}: pass one, or a DatasetDict."
        )
    path = Path(source)
    if not str(source).strip() or not path.exists():
        if isinstance(source, str) and HUB_NAME.fullmatch(source) and kind_of(path) is None:
            return _on_the_hub(source, cache_dir), None
        raise ValueError(f"source {str(source)!r} does not exist: pass a folder, a file or a loaded Dataset.")
    if path.is_dir():
        return _by_rows(readers_of(path, cache_dir, allow_outside), cache_dir), str(path)
    if kind_of(path) is None and not lists_images(path):
        raise ValueError(f"source {path.name!r} is of no known kind: pass a folder or one of {sorted(KINDS)}.")
    return _by_rows({split_of(path.name) or "train": partial(_one_file, path)}, cache_dir), str(path.parent)


def _by_rows(readers: dict[str, Reader], cache_dir) -> dict[str, Reader]:
    """The splits of one table whose rows name theirs in the column `split`; else the readers as they are."""
    read, values = readers.get("train"), []
    with suppress(Exception):  # what cannot be read is told by the one who reads it
        if len(readers) == 1 and SPLIT in names_of(read(streaming=True)):
            values = read(cache_dir=cache_dir).unique(SPLIT)
    if not values or not all(isinstance(value, str) and value.strip() for value in values):
        return readers
    return {name: partial(_of_split, read, name) for name in dict.fromkeys(map(_split_name, values))}


def _of_split(read: Reader, name: str, **settings):
    return read(**settings).filter(lambda value: _split_name(value) == name, input_columns=[SPLIT])


def _split_name(value: str) -> str:
    return WORDS.get(value.strip().lower(), value.strip())


def _one_file(path: Path, **settings):
    return relative_to(path.parent, path.parent, read_files([path], **settings))


def _as_it_is(table, *, cache_dir=None, streaming: bool = False):
    return table.to_iterable_dataset() if streaming and hasattr(table, "to_iterable_dataset") else table


def _on_the_hub(name: str, cache_dir) -> dict[str, Reader]:
    """The splits of a data set on the hub; its files are read, and code that it brings is not."""
    import datasets

    parameters = inspect.signature(datasets.load_dataset).parameters
    refuse = {"trust_remote_code": False} if "trust_remote_code" in parameters else {}  # datasets 4 runs none at all

    def read(split: str, *, cache_dir=None, streaming: bool = False):
        with hub():
            return datasets.load_dataset(
                name, split=split, cache_dir=cache_dir and str(cache_dir), streaming=streaming, **refuse
            )

    try:
        with hub():
            loaded = datasets.load_dataset_builder(name, cache_dir=cache_dir and str(cache_dir), **refuse)
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"source {name!r} does not exist here, and the hub or its cache gave no data set of that name "
            f"({cause:.160}): pass a path, or load it where there is a network."
        ) from error
    return {split: partial(read, split) for split in loaded.info.splits or ("train",)}


def _cut(table, name: str, bounds: str | None):
    if bounds is None:
        return table
    from datasets import ReadInstruction

    if not hasattr(table, "__len__"):
        raise ValueError(f"split {name + bounds!r} cuts a stream: name a whole split, or read it without streaming.")
    try:
        (part,) = ReadInstruction.from_spec(name + bounds).to_absolute({name: len(table)})
    except Exception as error:
        raise ValueError(f"split {name + bounds!r} is no slice: write for example '{name}[:80%]'.") from error
    return table.select(range(part.from_ or 0, len(table) if part.to is None else part.to))
