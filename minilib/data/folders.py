"""What a folder of pairs holds, by what lies in it; splits by the names of its folders and files.

    dataset_dict.json, state.json   what `save_to_disk` has written
    metadata.jsonl, .csv, ...       images with their captions, paths relative to the file
    *.tar                           webdataset's shards
    captions*.json                  COCO: images and annotations
    *.parquet, .csv, .jsonl, ...    tables, or shards of one
    000.jpg with 000.txt            the caption in a file next to each image
    captions.txt                    a list of images and captions, as Flickr8k has it
    dogs/000.jpg, cats/000.jpg      images by class, without captions

The first that is found is read; tables without a column of images are passed over where each image has its text. A
split is named by `val/`, `val.csv`, `captions_val2017.json` or `val-00000-of-00002.parquet`; of a metadata file for all
images, by the folders of the images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from minilib.data.images import ENDINGS, is_inside
from minilib.data.table_files import (
    IMAGE_COLUMNS,
    SPLIT,
    Reader,
    coco_rows,
    kind_of,
    lists_images,
    names_of,
    read_files,
    relative_to,
    split_of,
    unreadable,
)

if TYPE_CHECKING:
    from datasets import Dataset

TABLES = ("parquet", "arrow", "csv", "json")
TEXTS = (".txt", ".caption")


def readers_of(folder: Path, cache_dir=None, allow_outside: bool = False) -> dict[str, Reader]:
    """The splits of the folder, each with the function that reads it. Raises ValueError where it holds no table."""
    if (folder / "dataset_dict.json").exists():
        try:
            names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            if not names:
                raise ValueError("it names no split")
        except (ValueError, KeyError, TypeError) as error:
            raise unreadable("dataset_dict.json", error) from error
        return {name: partial(_saved, folder / name, folder, allow_outside) for name in names}
    if (folder / "state.json").exists() and (folder / "dataset_info.json").exists():
        return {"train": partial(_saved, folder, folder, allow_outside)}
    files = list(_files(folder, cache_dir, allow_outside))
    images = [path for path in files if path.suffix.lower() in ENDINGS]
    tables = [path for path in files if kind_of(path)]
    metadata = _of_one_kind(folder, [path for path in tables if path.name.lower().startswith("metadata")])
    tars = [path for path in tables if kind_of(path) == "tar"]
    if metadata:
        several = len({split_of(str(path.parent.relative_to(folder))) for path in images}) > 1
        return _by_split(folder, metadata, partial(_metadata, folder, several and metadata[0].parent == folder))
    if tars:
        return _by_split(folder, tars, read_files)
    if coco := [path for path in tables if path.suffix.lower() == ".json" and "caption" in path.name.lower()]:
        return _by_split(folder, coco, partial(_coco, folder))
    names = {path.with_suffix("") for path in images} | set(images)  # 0.txt or 0.jpg.txt next to 0.jpg
    tables = _of_one_kind(folder, [path for path in tables if path.with_suffix("") not in names])
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() in TEXTS}
    paired = any(path.with_suffix("") in texts or path in texts for path in images)
    if not tables and not paired:
        tables = [path for path in files if lists_images(path)]
    if tables and not (paired and not _has_images(tables[0])):
        return _by_split(folder, tables, partial(_tables, folder))
    if paired:
        return _by_split(folder, images, partial(_sidecars, folder, texts), of=lambda path: path.parent)
    if images and all(path.parent != folder for path in images):  # the folder of an image is its class
        return _by_split(folder, images, partial(_classes, folder), of=lambda path: path.parent.parent)
    fix = "add a metadata.jsonl with the fields file_name and caption, a table, or a .txt for each image."
    if images:
        raise ValueError(f"source {folder.name!r} has images but no captions: {fix}")
    raise ValueError(f"source {folder.name!r} has neither images nor tables: {fix}")


def runs_in(folder: Path) -> set[Path]:
    """The folders below that hold a run of ours, whose files are no data."""
    return {path.parent for path in folder.rglob("settings.json") if (path.parent / "config.yaml").exists()} - {folder}


def _files(folder: Path, cache_dir, allow_outside: bool) -> Iterator[Path]:
    """Every file of the folder, in order, but none of a cache or of a run of ours in it, nor hidden ones."""
    cache = Path(cache_dir).resolve() if cache_dir else None
    runs = runs_in(folder)
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith((".", "__MACOSX")) for part in parts) or not path.is_file():
            continue
        if not runs.isdisjoint(path.parents):
            continue
        if cache and path.resolve().is_relative_to(cache):
            continue
        table = kind_of(path) or path.suffix.lower() in TEXTS  # of a picture, the one who opens it makes sure
        if table and not allow_outside and not is_inside(path, folder):
            raise ValueError(
                f"source {folder.name!r} has a link {'/'.join(parts)!r} that leads out of the folder: put the file "
                "there, or pass allow_outside."
            )
        yield path


def _by_split(folder: Path, paths: list[Path], read, *, of=Path) -> dict[str, Reader]:
    """The paths by the split that each of them tells, or the part `of` it."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        inner = of(path).relative_to(folder) if of(path).is_relative_to(folder) else Path()
        found.setdefault(split_of(str(inner)) or "train", []).append(path)
    return {split: partial(read, members) for split, members in found.items()}


def _has_images(table: Path) -> bool:
    return any(name.lower() in IMAGE_COLUMNS for name in names_of(read_files([table], streaming=True)))


def _of_one_kind(folder: Path, tables: list[Path]) -> list[Path]:
    kinds = {kind: [path for path in tables if kind_of(path) == kind] for kind in TABLES}
    if any(kinds[kind] for kind in kinds if kind != "json"):  # a .json next to a table says something about it
        kinds["json"] = [path for path in kinds["json"] if path.suffix.lower() != ".json"]
    found = [paths for paths in kinds.values() if paths]
    if len(found) > 1:
        names = [paths[0].name for paths in found]
        raise ValueError(f"source {folder.name!r} holds tables of several kinds, {names}: pass the one that you mean.")
    return found[0] if found else []


def _saved(folder: Path, root: Path, allow_outside: bool, *, cache_dir=None, streaming: bool = False):
    from datasets import load_from_disk

    try:
        names = [
            file["filename"] for file in json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]
        ]
        if not allow_outside and not all(is_inside(folder / name, root) for name in names):
            raise PermissionError("its tables lie outside of the data folder, pass allow_outside")
        table = load_from_disk(str(folder))
    except Exception as error:
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"source {folder.name!r} could not be read ({cause}): save it once more.") from error
    return table.to_iterable_dataset() if streaming else table


def _tables(folder: Path, paths: list[Path], **settings):
    """Tables in one place or in several, their paths seen from the folder."""
    if len({path.parent for path in paths}) == 1 or kind_of(paths[0]) in ("parquet", "arrow"):
        return relative_to(folder, paths[0].parent, read_files(paths, **settings))
    return _joined([relative_to(folder, path.parent, read_files([path], **settings)) for path in paths])


def _metadata(folder: Path, split_by_folder: bool, paths: list[Path], **settings):
    """The tables of images next to them; their column `file_name` becomes `image`, whose folder may be its split."""
    tables = [relative_to(folder, path.parent, read_files([path], **settings)) for path in paths]
    table = _joined([_renamed(table) for table in tables])
    return table.map(_with_split) if split_by_folder and not {SPLIT} & set(names_of(table)) else table


def _renamed(table):
    names = names_of(table)
    return table.rename_column("file_name", "image") if "file_name" in names and "image" not in names else table


def _with_split(row: dict) -> dict:
    return {**row, SPLIT: split_of(str(Path(row.get("image") or "").parent)) or "train"}


def _joined(tables: list):
    from datasets import concatenate_datasets

    return tables[0] if len(tables) == 1 else concatenate_datasets(tables)


def _coco(folder: Path, paths: list[Path], *, cache_dir=None, streaming: bool = False) -> Dataset:
    from datasets import Dataset

    rows = []
    for path in paths:
        try:
            rows += coco_rows(json.loads(path.read_text("utf-8")), path, folder)
        except (ValueError, TypeError) as error:
            raise unreadable(path.name, error) from error
    return _listed(Dataset.from_list(rows), streaming)


def _sidecars(folder: Path, texts: dict[Path, Path], images: list[Path], *, cache_dir=None, streaming: bool = False):
    from datasets import Dataset

    rows = []
    for path in images:
        text = texts.get(path) or texts.get(path.with_suffix(""))
        try:
            caption = text.read_text(encoding="utf-8-sig").strip() if text else None
        except UnicodeDecodeError as error:
            raise unreadable(text.name, "it is not UTF-8") from error
        rows.append({"image": str(path.relative_to(folder)), "caption": caption})
    return _listed(Dataset.from_list(rows), streaming)


def _classes(folder: Path, images: list[Path], *, cache_dir=None, streaming: bool = False) -> Dataset:
    from datasets import Dataset

    rows = [{"image": str(path.relative_to(folder)), "label": path.parent.name} for path in images]
    return _listed(Dataset.from_list(rows), streaming)


def _listed(table: Dataset, streaming: bool):
    return table.to_iterable_dataset() if streaming else table
