"""A trainer killed (SIGKILL) at a random step and started again ends with the weights of an unbroken run, to the bit.

The killed run is a real process: it is shot once it has passed a step chosen at random, wherever it happens to be then.
"""

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.reference import refused
from support.toys import ToyPairs, ToyTowers

from minilib import ContrastiveTrainer

HERE = Path(__file__).parent
PATHS = f"{HERE}:{HERE.parent}"  # this file and tests/support, for a process of its own

STEPS = 40


def make_trainer(path, **options):
    settings = {"batch_size": 32, "micro_batch_size": 8, "steps": STEPS, "save_every": 3, "seed": 7, "progress": False}
    return ContrastiveTrainer(ToyTowers(), ToyPairs(200), output_dir=path, **settings, **options)


def weights(path):
    return torch.load(path / "checkpoint.pt", weights_only=True)["model"]


def run_and_kill(path, step):
    """Train in a process of its own and shoot it as soon as `step` is behind it."""
    script = (
        "import sys, time; sys.path[:0] = sys.argv[1].split(':')\n"
        "import torch; torch.set_num_threads(1)\n"
        "from test_resume_is_bit_equal import make_trainer\n"
        "trainer = make_trainer(sys.argv[2]); step = trainer.step\n"
        "def told(number):\n"
        "    record = step(number); print(number, flush=True); time.sleep(0.01); return record\n"
        "trainer.step = told; trainer.train()\n"
    )
    command = [sys.executable, "-c", script, PATHS, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) == step:
            break
    time.sleep(random.random() * 0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_killed_and_resumed_equals_unbroken_to_the_bit(tmp_path):
    unbroken = make_trainer(tmp_path / "unbroken")
    unbroken.train()
    step = random.randrange(4, STEPS - 5)
    run_and_kill(tmp_path / "killed", step)
    resumed = make_trainer(tmp_path / "killed")
    records = resumed.train()
    assert [r["loss"] for r in records] == [r["loss"] for r in unbroken.records], f"killed after step {step}"
    expected, got = weights(tmp_path / "unbroken"), weights(tmp_path / "killed")
    assert all(torch.equal(expected[name], got[name]) for name in expected), f"killed after step {step}"


def test_the_random_state_matters_so_the_equality_is_not_by_chance(tmp_path):
    one, other = make_trainer(tmp_path / "one"), make_trainer(tmp_path / "other")
    other.settings["seed"] = 8
    one.train()
    other.train()
    assert any(not torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters()))


def test_a_write_that_is_cut_short_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    trainer.train()
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def fails_midway(state, path):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fails_midway)
    with contextlib.suppress(OSError):
        trainer.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_an_interrupt_is_passed_on_and_the_run_goes_on_later(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    step = trainer.step
    monkeypatch.setattr(trainer, "step", lambda k: (_ for _ in ()).throw(KeyboardInterrupt) if k == 10 else step(k))
    with contextlib.suppress(KeyboardInterrupt):
        trainer.train()
    resumed = make_trainer(tmp_path)
    assert len(resumed.train()) == STEPS


def test_numbers_of_numpy_are_kept_as_pythons(tmp_path):
    """Those of a sweep over `np.logspace`, or what a callback has averaged: `torch.load` reads neither."""

    def average(trainer, record):
        record["mean"], record["seen"] = np.mean([record["loss"], 1.0]), [np.int64(record["step"])]

    settings = {"batch_size": np.int64(32), "micro_batch_size": np.int64(8), "steps": np.int64(4)}
    first = ContrastiveTrainer(
        ToyTowers(), ToyPairs(200), output_dir=tmp_path, lr=np.float64(1e-3), seed=np.int64(7), callbacks=[average],
        progress=False, **settings,
    )  # fmt: skip
    first.train()
    again = ContrastiveTrainer(
        ToyTowers(), ToyPairs(200), output_dir=tmp_path, lr=1e-3, seed=7, progress=False,
        batch_size=32, micro_batch_size=8, steps=4,
    )  # fmt: skip
    assert again.train() == first.records
    assert type(again.records[-1]["mean"]) is float
    assert again.records[-1]["seen"] == [3]


def test_what_could_not_be_read_again_is_refused_before_anything_is_written(tmp_path):
    trainer = make_trainer(tmp_path, callbacks=[lambda trainer, record: record.update(where=[Path("here")])])
    with pytest.raises(TypeError, match=r"records\[0\]\['where'\]\[0\] is a \w*Path: a checkpoint keeps numbers"):
        trainer.train()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_save_left_goes_with_the_next_one(tmp_path):
    (tmp_path / "checkpoint.pt.4711.unfinished").write_bytes(b"half")
    make_trainer(tmp_path).train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_a_trainer_without_a_folder_has_no_place_for_a_checkpoint():
    refused(ValueError, "output_dir is None: give a folder", make_trainer(None).save)
