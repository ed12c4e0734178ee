"""A file is written whole or stays as it was, and the first setting in which two runs differ is named."""

import pytest

from minilib.common import atomic_path, different_setting, write_errors_named, write_text


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "old")

    def fail():
        with atomic_path(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(found.name, found.read_text()) for found in path.parent.iterdir()] == [("file.txt", "old")]


def test_a_block_that_ends_replaces_the_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with atomic_path(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_that_the_disk_has_not_caused_stays_as_it_is(tmp_path):
    for folder in (tmp_path, tmp_path / "not" / "there"):
        with pytest.raises(KeyError, match="mine"), write_errors_named(folder):
            raise KeyError("mine")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_writer_becomes_that_of_the_disk_and_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    def write():
        with atomic_path(tmp_path / "file.txt") as unfinished:
            unfinished.write_text("half")
            raise RuntimeError("unexpected pos 576 vs 534")  # as torch says it

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        write()
    assert error.value.filename == str(tmp_path / "file.txt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("found", "wanted", "different"),
    [
        ({}, {}, None),
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, None),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ("b", 2, 3)),
        ({"a": 1}, {"a": 1, "b": 3}, ("b", None, 3)),
        ({"a": 1, "b": 2}, {"a": 1}, ("b", 2, None)),
        ({"a": 0, "b": 0}, {"b": 1, "a": 1}, ("b", 0, 1)),  # in the order of what is wanted
    ],
)
def test_the_first_different_setting_is_named_with_both_values(found, wanted, different):
    assert different_setting(found, wanted) == different
