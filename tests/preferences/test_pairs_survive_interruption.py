"""Proves that pairs whose making was interrupted, at any call and in any way, come out byte for byte all the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from support.pair_toys import Reader, toy_rows
from support.pair_toys import build as build_toys
from support.reference import refused

from minilib.preferences import resumable_jsonl as line_log
from minilib.preferences.filtering import QualityReport

HERE = Path(__file__).parent
PATHS = f"{HERE}:{HERE.parent}"  # this file and tests/support, for a process of its own

ROWS = toy_rows(21)
for skipped in (0, 4, 5, 6, 7, 20):  # the first and the last row, and a whole batch
    ROWS[skipped]["question"] = "What does Atlantis keep?"


def build(path, reader=None, rows=ROWS, **settings):
    return build_toys(rows, reader, **{"batch_size": 4, "path": path} | settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted: its path, its pairs, its report."""
    path = tmp_path_factory.mktemp("whole") / "pairs.jsonl"
    pairs = build(path)
    return path, list(pairs), pairs.report


def assert_like(whole, path, pairs):
    assert list(pairs) == whole[1]
    assert pairs.report == whole[2]
    assert path.read_bytes() == whole[0].read_bytes()
    assert Path(f"{path}.state").read_bytes() == Path(f"{whole[0]}.state").read_bytes()


def test_the_file_holds_the_pairs_that_are_handed_out(whole):
    path, pairs, report = whole
    assert [json.loads(line) for line in path.read_text().splitlines()] == pairs
    assert report.rows == 21
    assert 10 < len(pairs) < 16
    assert list(build(None)) == pairs  # and those of a run without a file


def test_the_file_is_a_data_set(whole, tmp_path):
    table = load_dataset("json", data_files=str(whole[0]), split="train", cache_dir=str(tmp_path))
    assert table["rejected"][:] == [pair["rejected"] for pair in whole[1]]


@pytest.mark.parametrize(
    "source", [list, iter, Dataset.from_list, lambda rows: Dataset.from_list(rows).to_iterable_dataset()]
)
def test_stopped_by_the_keyboard_at_any_call_and_resumed_the_bytes_are_equal(whole, tmp_path, source):
    calls = Reader()
    build(tmp_path / "count.jsonl", calls).run()
    for stop in range(1, calls.calls + 1, 1 if source is list else 5):
        path = tmp_path / f"{stop}.jsonl"
        pairs = build(path, Reader(stop_at=stop))
        with pytest.raises(KeyboardInterrupt):
            pairs.run()
        if Path(f"{path}.state").exists():  # the report counts whole batches only
            counts = json.loads(Path(f"{path}.state").read_text())["counts"]
            assert pairs.report.to_dict() == counts or pairs.report == QualityReport()
        assert_like(whole, path, build(path, rows=source(ROWS)))


def test_a_resumed_run_asks_only_for_what_is_lacking(whole, tmp_path):
    path, first, second, all_at_once = tmp_path / "pairs.jsonl", Reader(stop_at=5), Reader(), Reader()
    with pytest.raises(KeyboardInterrupt):
        build(path, first).run()
    build(path, second).run()
    build(tmp_path / "other.jsonl", all_at_once).run()
    done = json.loads(Path(f"{whole[0]}.state").read_text())["rows"]
    assert done == 21
    assert len(second.prompts) < len(all_at_once.prompts)
    assert all_at_once.prompts[-len(second.prompts) :] == second.prompts
    third = Reader()
    assert build(path, third).run() == whole[2]
    assert third.prompts == []


@pytest.mark.parametrize(
    "torn",
    [b'{"row": 3, "prom', b'{"row": 99}\n', b"\xff\xfe", b"x" * 100_000],
    ids=["half", "whole", "no text", "long"],
)
def test_lines_that_the_state_does_not_know_are_cut_off(whole, tmp_path, torn):
    path = tmp_path / "pairs.jsonl"
    with pytest.raises(KeyboardInterrupt):
        build(path, Reader(stop_at=5)).run()
    path.write_bytes(path.read_bytes() + torn)
    assert_like(whole, path, build(path))


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_stopped_between_the_lines_and_their_state_the_bytes_are_equal(whole, tmp_path, monkeypatch, stop):
    path, move, moved = tmp_path / "pairs.jsonl", os.replace, []

    def moves(*paths):
        moved.append(paths)
        if len(moved) == stop:
            raise KeyboardInterrupt
        move(*paths)

    monkeypatch.setattr(line_log.os, "replace", moves)
    with pytest.raises(KeyboardInterrupt):
        build(path).run()
    monkeypatch.undo()
    assert path.exists() == (stop > 1)
    assert_like(whole, path, build(path))


def test_who_stops_reading_finds_all_pairs_later(whole, tmp_path):
    path = tmp_path / "pairs.jsonl"
    for _ in build(path):
        break
    assert_like(whole, path, build(path))


KILLED = """
import json, os, signal, sys
sys.path[:0] = sys.argv[2].split(':')
from support.pair_toys import Reader, build

class Killed(Reader):
    def __call__(self, prompts):
        if self.calls == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(prompts)

build(json.loads(sys.argv[3]), Killed(), path=sys.argv[1], batch_size=4).run()
"""


def test_killed_outright_in_a_process_of_its_own_and_resumed_the_bytes_are_equal(whole, tmp_path):
    path = tmp_path / "pairs.jsonl"
    command = [sys.executable, "-c", KILLED, str(path), PATHS, json.dumps(ROWS)]
    assert subprocess.run(command, capture_output=True).returncode == -9
    assert 0 < path.stat().st_size < whole[0].stat().st_size
    assert_like(whole, path, build(path))


def resumable(path):
    with pytest.raises(KeyboardInterrupt):
        build(path, Reader(stop_at=5)).run()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 1}, "was begun with seed=0, now it is 1"),
        ({"rule": "released"}, "was begun with rule='paper', now it is 'released'"),
        ({"is_right": None}, "was begun with is_right='contains_answer', now it is None"),
    ],
)
def test_a_file_of_other_settings_is_refused_and_stays_as_it_was(tmp_path, changed, words):
    before = resumable(path := tmp_path / "pairs.jsonl")
    refused(ValueError, words, lambda: build(path, **changed))
    assert path.read_bytes() == before


def test_other_rows_are_refused_and_the_file_stays_as_it_was(tmp_path):
    before = resumable(path := tmp_path / "pairs.jsonl")
    done = json.loads(Path(f"{path}.state").read_text())["rows"]
    refused(
        ValueError,
        f"examples has another row {done - 1} than when",
        lambda: build(path, rows=toy_rows(21, seed=5)).run(),
    )
    refused(ValueError, f"fewer than the {done} rows", lambda: build(path, rows=ROWS[: done - 1]).run())
    assert path.read_bytes() == before


def test_a_strange_file_a_broken_state_and_lost_lines_are_refused(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("mine\n")
    refused(ValueError, "exists and has no pairs.jsonl.state next to it", lambda: build(path))
    assert path.read_text() == "mine\n"
    path.unlink()
    resumable(path)
    path.write_bytes(path.read_bytes()[:-1])
    refused(ValueError, "has lost lines", lambda: build(path))
    Path(f"{path}.state").write_text("{")
    refused(ValueError, "cannot be read (JSONDecodeError)", lambda: build(path))
