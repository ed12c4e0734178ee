"""Every command of `python -m minilib` does its job in a process of its own, and refuses in one sentence.

`clip` does it in two processes as well, started by torchrun, with the losses of one.
"""

import json
import subprocess
import sys

import pytest
import torch

import minilib.__main__ as main_module
from minilib.cli import clip as clip_command
from minilib.cli import launch
from minilib.cli.doctor import diagnosis
from minilib.data import render_glyphs

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def minilib(*arguments, check=True, launcher=()):
    command = [sys.executable, *launcher, "-m", "minilib", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
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


@pytest.mark.slow
def test_two_ranks_of_torchrun_train_what_one_process_trains(run, tmp_path):
    flags = ("--pairs", 256, "--batch_size", 64, "--micro_batch_size", 20, "--steps", 4)
    result = minilib("clip", "--output", tmp_path, *flags, launcher=TORCHRUN)
    one, two = (json.loads((folder / "records.json").read_text()) for folder in (run, tmp_path))
    assert [record["loss"] for record in two] == pytest.approx([record["loss"] for record in one], abs=1e-4)
    assert (tmp_path / "model.json").read_text() == (run / "model.json").read_text()
    assert result.stdout.count("in 4 steps of 64 pairs") == 1  # one rank speaks


def test_a_rank_that_torchrun_starts_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert launch._own_gpu(1) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="LOCAL_RANK is 2 and this machine has 2 GPUs: start torchrun with"):
        launch._own_gpu(2)


def test_a_lost_rank_is_one_sentence_and_exit_status_two(monkeypatch, capsys):
    def lost():
        raise ConnectionError("rank 0, ring hop 1 of 3, texts: rank 1 is gone.")

    monkeypatch.setattr(main_module, "doctor", lost)
    with pytest.raises(SystemExit) as end:
        main_module.main(["doctor"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "minilib: rank 0, ring hop 1 of 3, texts: rank 1 is gone.\n"


def test_a_timeout_that_is_none_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main_module.main(["clip", "--output", str(tmp_path), "--timeout", "0"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "minilib: timeout is 0.0: give a positive number of seconds.\n"


def test_eval_prints_recall_both_ways(run):
    lines = minilib("eval", "--run", run, "--pairs", 50).stdout.splitlines()
    assert [line.split("recall")[0].strip() for line in lines] == ["image to text", "text to image"]
    assert set(json.loads((run / "evaluation.json").read_text())) == {"image_to_text", "text_to_image"}


def test_scenes_of_the_training_are_not_scored_as_new_ones(run):
    with pytest.raises(ValueError, match=r"seed is 0, that of the scenes of the training: give 1 or more\."):
        clip_command.evaluate(run=run, pairs=16, seed=0)


def test_glyphs_are_trained_on_by_name_and_unseen_ones_are_scored(tmp_path, capsys, monkeypatch):
    main_module.main(f"clip --data glyphs --pairs 128 --batch_size 64 --steps 2 --output {tmp_path}".split())
    assert {"latin", "letter", "with"} <= set(json.loads((tmp_path / "model.json").read_text())["vocabulary"])
    scored = []
    monkeypatch.setattr(clip_command, "evaluate_retrieval", lambda model, pairs: scored.extend(pairs["caption"]) or {})
    main_module.main(f"eval --data glyphs --pairs 600 --run {tmp_path}".split())
    assert len(set(scored)) == 600
    assert set(scored).isdisjoint(render_glyphs(128)[1])
    assert "in 2 steps of 64 pairs" in capsys.readouterr().out


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


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("gloo", "gloo on this machine; start ranks with torchrun --nproc-per-node N -m minilib clip"),
        ("nccl", "nccl between 4 GPUs; start ranks with torchrun --nproc-per-node 4 -m minilib clip"),
        (None, "not here: this build of torch has no torch.distributed, training stays in one process"),
    ],
)
def test_doctor_says_what_the_ring_would_use(monkeypatch, found, words):
    monkeypatch.setattr("minilib.cli.doctor.comm_backend", lambda: found)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert f"ring      {words}" in diagnosis()


def test_help_lists_every_command():
    text = minilib("--help").stdout
    for command in ("tour", "clip", "eval", "bench", "doctor"):
        assert command in text
