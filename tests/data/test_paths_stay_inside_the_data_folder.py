"""A table from somewhere else cannot make its reader open files outside of the data folder, unless a flag allows it.

The payload is a picture of one colour that lies next to the data folder: were it read, its colour would be seen.
"""

import json
import os

import pytest
from PIL import Image
from support.reference import refused

import minilib.__main__ as main_module
from minilib.data import load_pairs
from minilib.data.streams import StreamedPairs


@pytest.fixture
def place(tmp_path):
    """`data/` with one picture of its own, and `secret.png` next to it."""
    (tmp_path / "data").mkdir()
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "data" / "own.png")
    Image.new("RGB", (32, 32), (66, 77, 88)).save(tmp_path / "secret.png")
    os.symlink(tmp_path / "secret.png", tmp_path / "data" / "link.png")
    os.symlink(tmp_path, tmp_path / "data" / "up")
    return tmp_path


def table(place, path, name="mine.jsonl"):
    (place / "data" / name).write_text(json.dumps({"image": path, "file_name": path, "caption": "a"}) + "\n")
    return place / "data" / name


WAYS = ["../secret.png", "../data/../secret.png", "link.png", "up/secret.png", "{place}/secret.png"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["mine.jsonl", "metadata.jsonl"])
def test_a_path_that_leads_out_is_an_error_and_a_flag_allows_it(way, name, place):
    source = table(place, way.format(place=place), name)
    source = source if name == "mine.jsonl" else source.parent
    words = "lies outside of the data folder: move it inside, or pass allow_outside"
    refused(ValueError, words, lambda: load_pairs(source))
    refused(ValueError, words, lambda: StreamedPairs(source, 1)[[0]])
    assert load_pairs(source, allow_outside=True)[0]["image"][:, 0, 0].tolist() == [66, 77, 88]


@pytest.mark.parametrize("way", ["own.png", "./own.png", "up/data/own.png"])
def test_paths_that_come_back_inside_are_read(way, place):
    assert load_pairs(table(place, way))[0]["image"][:, 0, 0].tolist() == [1, 2, 3]


def test_the_command_line_has_the_flag(place, capsys):
    source = table(place, "../secret.png")
    flags = ["clip", "--data", str(source), "--output", str(place / "run"), "--steps", "1", "--batch_size", "2"]
    source.write_text(source.read_text() + source.read_text().replace("../secret.png", "own.png"))
    with pytest.raises(SystemExit) as end:
        main_module.main(flags)
    assert end.value.code == 2
    assert "lies outside of the data folder" in capsys.readouterr().err
    main_module.main([*flags, "--allow-outside", "true"])
    with pytest.raises(SystemExit):
        main_module.main(["eval", "--run", str(place / "run"), "--data", str(source)])
    main_module.main(["eval", "--run", str(place / "run"), "--data", str(source), "--allow_outside", "true"])


@pytest.mark.parametrize("name", ["metadata.jsonl", "pairs.csv", "own.txt", "00000.tar"])
def test_links_to_tables_and_captions_outside_are_errors(name, place):
    (place / "outside").write_text("the secret text")
    os.symlink(place / "outside", place / "data" / name)
    with pytest.raises(ValueError) as caught:
        load_pairs(place / "data")
    assert "that leads out of the folder: put the file there, or pass allow_outside." in str(caught.value)
    assert "secret text" not in str(caught.value)


def test_a_saved_set_whose_state_names_other_files_is_an_error(place):
    from datasets import Dataset

    Dataset.from_dict({"image": ["own.png"], "caption": ["a"]}).save_to_disk(str(place / "outside"))
    Dataset.from_dict({"image": ["own.png"], "caption": ["b"]}).save_to_disk(str(place / "data" / "saved"))
    state = place / "data" / "saved" / "state.json"
    content = json.loads(state.read_text())
    content["_data_files"][0]["filename"] = "../../outside/data-00000-of-00001.arrow"
    state.write_text(json.dumps(content))
    refused(ValueError, "its tables lie outside of the data folder", lambda: load_pairs(place / "data" / "saved"))


def test_addresses_and_folders_are_no_pictures(place):
    for path, words in (("https://example.org/a.png", "is an address: download"), (".", "is a folder")):
        source = table(place, path)
        refused(ValueError, words, lambda: load_pairs(source))  # noqa: B023
