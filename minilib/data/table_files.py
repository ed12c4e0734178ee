"""One table of one file, or of several shards: what the ending says, and what is wrong where it cannot be read.

.jsonl .ndjson .json     lines, a list, an object with one list, COCO's images and annotations; compressed as well
.csv .tsv                every cell is text: "None" is a caption, and 007 is not 7; separated by , ; | or a tab
.parquet .arrow          as `datasets` reads them
.tar                     `minilib.data.tars`
"""

from __future__ import annotations

import csv
import glob
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from minilib.data.images import ENDINGS
from minilib.data.tars import read_tars

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

KINDS = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet", ".pq": "parquet", ".arrow": "arrow", ".tar": "tar", ".tgz": "tar",
}  # fmt: skip
PACKED = (".gz", ".bz2", ".xz", ".zst")
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}
IMAGE_COLUMNS = (
    "image", "image_path", "img", "img_path", "image_file", "image_file_path", "image_name", "file_name", "filename",
    "filepath", "file_path", "path", "file", "jpg", "jpeg", "png", "webp", "images",
)  # fmt: skip
SPLIT = "split"  # the column in which rows name their split
WORDS = {word: split for split, words in SPLITS.items() for word in words}
SPLIT_WORD = re.compile(rf"(?:^|[^a-z])({'|'.join(WORDS)})(?![a-z])")
Reader = Callable[..., "Dataset | IterableDataset"]  # cache_dir, streaming -> table


def split_of(path: str) -> str | None:
    """The split that a path names: `val/a.csv`, `captions_train2017.json`, `test-00000-of-00002.csv`."""
    for part in reversed(Path(path).parts):
        if shard := re.match(r"(\w+)-\d{5}-of-\d{5}", part):
            return WORDS.get(shard[1].lower(), shard[1])
        if found := SPLIT_WORD.search(part.lower()):
            return WORDS[found[1]]
    return None


def kind_of(path: Path) -> str | None:
    """How the file is read, by its ending; None for what is no table."""
    name = path.name.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    return KINDS.get(Path(name).suffix)


def read_files(paths: list[Path], *, cache_dir=None, streaming: bool = False) -> Dataset | IterableDataset:
    """One table of files of one kind."""
    from datasets import concatenate_datasets, load_dataset

    kind, options = kind_of(paths[0]) or "csv", {}
    try:
        if kind == "tar":
            return read_tars(paths, cache_dir=cache_dir, streaming=streaming)
        if kind == "csv" and len(paths) > 1:  # each has a header of its own
            tables = [read_files([path], cache_dir=cache_dir, streaming=streaming) for path in paths]
            if len({frozenset(names_of(table)) for table in tables}) > 1:
                raise ValueError("columns differ")
            return concatenate_datasets(tables)
        if kind == "csv":
            options = _csv_options(paths[0])
        elif paths[0].name.lower().removesuffix(".gz").endswith(".json"):
            table, options = _json_table(paths[0]) if len(paths) == 1 else (None, {})
            if table is not None:
                return table.to_iterable_dataset() if streaming else table
        files = [glob.escape(str(path.resolve())) for path in paths]  # brackets in a name are no pattern
        settings = {"split": "train", "cache_dir": cache_dir and str(cache_dir), "streaming": streaming}
        return load_dataset(kind, data_files=files, **settings, **options)
    except Exception as error:  # the reader's own errors are many, and the innermost one says what is wrong
        path, why = next(((path, why) for path in paths if (why := _fault(path, kind))), (paths[0], None))
        if why is None and len(paths) > 1:
            path, why = _odd_one_out(paths, kind)
        raise unreadable(path.name, why or error.__cause__ or error) from error


def unreadable(name: str, why: str | BaseException) -> ValueError:
    """One sentence about a file that could not be read."""
    cause = " ".join(str(why).split()) or type(why).__name__
    cause = "it has no rows" if "corresponds to no data" in cause else cause
    return ValueError(f"source {name!r} could not be read ({cause:.240}): fix the file.")


def coco_rows(content: dict, path: Path, folder: Path) -> list[dict]:
    """One row for each image of COCO's captions, with the list of its captions; images without captions are left out.

    Paths in the rows are seen from `folder`.
    """
    captions: dict[Any, list[str]] = {}
    try:
        for annotation in content["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
        images = [(image["file_name"], captions[image["id"]]) for image in content["images"] if image["id"] in captions]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name} has annotations without {error}: COCO's captions have id and caption") from None
    if not images:
        raise ValueError(f"{path.name} has no captions for its images")
    prefix = prefix_of(images[0][0], folder, path.parent, split_of(path.name))
    return [{"image": str(Path(prefix, name)), "caption": texts} for name, texts in images]


def karpathy_rows(content: dict) -> list[dict]:
    """One row for each image of Karpathy's splits of COCO and Flickr: its captions are `sentences` with `raw`."""
    return [
        {
            "image": str(Path(image.get("filepath") or "", image["filename"])),
            "caption": [sentence["raw"] for sentence in image["sentences"]],
            SPLIT: image.get("split"),
        }
        for image in content["images"]
    ]


def prefix_of(name: str, folder: Path, inner: Path, split: str | None = None) -> str:
    """What to put before the path of an image that a table in `inner` names, to find it from `folder`.

    Looked for in these two, then in the folders in them, those of the table's own split first.
    """
    below = [place for root in (inner, folder) for place in sorted(root.iterdir()) if place.is_dir()]
    below.sort(key=lambda place: split is not None and split_of(place.name) != split)
    found = next((place for place in (inner, folder, *below) if (place / name).is_file()), folder)
    return "" if found == folder else str(found.relative_to(folder))


def relative_to(folder: Path, inner: Path, table):
    """The table with the paths of its images seen from `folder`, wherever the table in `inner` sees them from."""
    column = next((name for name in IMAGE_COLUMNS if name in names_of(table)), None)
    if column is None or (table.features and getattr(table.features[column], "dtype", "") != "string"):
        return table  # the pictures themselves, or what nobody takes for a path
    name = next(iter(table.select_columns([column])), {}).get(column)
    if not isinstance(name, str) or not name or Path(name).is_absolute() or len(name) > 1_000:
        return table
    prefix = prefix_of(name, folder, inner)
    return table.map(_prefixed, fn_kwargs={"column": column, "prefix": prefix}) if prefix else table


def names_of(table) -> list[str]:
    """The columns of a table; those of a stream that does not know them are in its first row."""
    return table.column_names or list(next(iter(table), {}))


def _prefixed(row: dict, column: str, prefix: str) -> dict:
    name = row[column]
    return {**row, column: str(Path(prefix, name)) if isinstance(name, str) and name else name}


def _open_text(path: Path):
    return fsspec.open(path.resolve().as_uri(), "rt", compression="infer", encoding="utf-8-sig", newline="").open()


def lists_images(path: Path) -> bool:
    """Whether a text file is a table with a column of images, as the captions.txt of Flickr8k is."""
    try:
        return path.suffix.lower() == ".txt" and any(n.lower() in IMAGE_COLUMNS for n in _csv_options(path)["names"])
    except (ValueError, OSError):
        return False


def _csv_options(path: Path) -> dict:
    """How pandas reads the file: all cells text, separated by what is most frequent in the header."""
    from datasets import Features, Value

    with _open_text(path) as file:
        header = file.readline()
        if not header.strip():
            raise ValueError("it is empty")
        separator = "\t" if ".tsv" in path.name.lower() else max(",;\t|", key=header.count)
        # Quotes are marks around a text, unless some open and never close though every line has all of its fields.
        whole, closed = True, True
        for line in file:
            whole = whole and line.count(separator) == header.count(separator)
            closed = closed and line.count('"') % 2 == 0
        quoting = csv.QUOTE_NONE if whole and not closed else csv.QUOTE_MINIMAL
        file.seek(0)
        reader = csv.reader(file, delimiter=separator, quoting=quoting)
        names, first = next(reader), next(reader, [])
    blanks = any(name[:1] == " " for name in names)  # behind each separator, as in Flickr30k's file
    names = [name.strip() or f"column {k}" for k, name in enumerate(names)]  # such as the index that pandas writes
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"it has the column {twice[0]!r} twice")
    if len(first) > len(names):  # pandas would take the first field for an index
        raise ValueError(f"line 2 has {len(first)} fields and the header {len(names)}: quote text with {separator!r}")
    features = Features({name: Value("string") for name in names})
    return {
        "sep": separator, "quoting": quoting, "skipinitialspace": blanks, "names": names, "header": 0,
        "features": features, "keep_default_na": False, "encoding": "utf-8-sig",
    }  # fmt: skip


def _json_table(path: Path) -> tuple[Dataset | None, dict]:
    """The table of one JSON document, or how `datasets` is to read it: lines, a list, or a field of an object."""
    from datasets import Dataset

    try:
        with _open_text(path) as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        if "Extra data" in str(error):
            return None, {}  # JSON Lines
        raise
    if not isinstance(content, dict):
        return None, {}
    if isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
        return Dataset.from_list(coco_rows(content, path, path.parent)), {}
    if content and all(Path(name).suffix.lower() in ENDINGS for name in content):  # captions by the file of the image
        rows = [{"image": k, "caption": texts if isinstance(texts, list) else [texts]} for k, texts in content.items()]
        return Dataset.from_list(rows), {}
    fields = [name for name, value in content.items() if isinstance(value, list) and value]
    if fields == ["images"] and all(isinstance(row, dict) and "sentences" in row for row in content["images"]):
        return Dataset.from_list(karpathy_rows(content)), {}
    if len(fields) == 1 and all(isinstance(row, dict) for row in content[fields[0]]):
        return None, {"field": fields[0]}
    if len(fields) == len(content) and len({len(value) for value in content.values()}) == 1:
        return Dataset.from_dict(content), {}
    return None, {}


def _odd_one_out(paths: list[Path], kind: str | None) -> tuple[Path, str | None]:
    """The first of several files that cannot be opened, or has other columns than the one before; and why."""
    from datasets import load_dataset

    columns: list[str] = []
    for path in paths:
        try:
            if kind == "csv":
                names = _csv_options(path)["names"]
            else:
                names = names_of(load_dataset(kind, data_files=glob.escape(str(path)), split="train", streaming=True))
        except Exception as error:
            return path, str(error)
        if sorted(names) != sorted(columns or names):
            return path, f"it has the columns {names}, and the file before {columns}"
        columns = names
    return paths[0], None


def _fault(path: Path, kind: str | None) -> str | None:
    """What is wrong with a text file, in words and with its line; None where only its reader knows."""
    if path.stat().st_size == 0:
        return "it is empty"
    if kind not in ("json", "csv"):
        return None
    lines = ".json" not in path.name.lower().replace(".jsonl", "")
    number = 0
    try:
        with _open_text(path) as file:
            for number, line in enumerate(file, start=1):
                if kind == "json" and lines and line.strip() and not isinstance(json.loads(line), dict):
                    return f"line {number} is no object in braces"
    except UnicodeDecodeError as error:
        return f"it is not UTF-8, first behind line {number}: byte {error.object[error.start]:#x}"
    except json.JSONDecodeError as error:
        return f"line {number} is no JSON: {error.msg}"
    except (OSError, EOFError) as error:
        return f"{type(error).__name__}: {error}"
    return None if number else "it is empty"
