"""Every command of `python -m minilib` does its job in a process of its own, and refuses in one sentence."""

import json
import subprocess
import sys

import pytest

from minilib.doctor import diagnosis


def minilib(*arguments, check=True):
    result = subprocess.run([sys.executable, "-m", "minilib", *map(str, arguments)], capture_output=True, text=True)
    assert not check or result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    minilib("clip", "--output", folder, "--pairs", 256, "--batch_size", 64, "--micro_batch_size", 32, "--steps", 4)
    return folder


def test_clip_trains_and_keeps_records_and_checkpoint(run):
    records = json.loads((run / "records.json").read_text())
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert (run / "checkpoint.pt").exists()


def test_eval_prints_recall_both_ways(run):
    lines = minilib("eval", "--run", run, "--pairs", 50).stdout.splitlines()
    assert [line.split("recall")[0].strip() for line in lines] == ["image to text", "text to image"]
    assert set(json.loads((run / "evaluation.json").read_text())) == {"image_to_text", "text_to_image"}


def test_eval_without_a_trained_model_says_how_to_get_one(tmp_path):
    result = minilib("eval", "--run", tmp_path, check=False)
    assert result.returncode == 2
    assert "holds no trained model: run `python -m minilib clip" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_batch_larger_than_the_dataset_is_refused(tmp_path):
    result = minilib("clip", "--output", tmp_path, "--pairs", 32, "--batch_size", 64, check=False)
    assert result.returncode == 2
    assert "batch_size is 64 but the dataset has 32 rows" in result.stderr


def test_settings_may_come_from_a_yaml_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("pairs: 64\nbatch_size: 32\nsteps: 1\nloss: siglip\n")
    out = minilib("clip", "--config", tmp_path / "mine.yaml", "--output", tmp_path / "run").stdout
    assert "1 steps of 32 pairs" in out


def test_doctor_says_which_backend_auto_picks_and_why():
    text = minilib("doctor").stdout
    assert "auto picks tiled" in text
    assert "dense, tiled" in text
    assert len(text.splitlines()) <= 12
    assert text.splitlines()[1].split(",")[0] == diagnosis()[1].split(",")[0]


def test_help_lists_every_command():
    text = minilib("--help").stdout
    for command in ("tour", "clip", "eval", "bench", "doctor"):
        assert command in text
