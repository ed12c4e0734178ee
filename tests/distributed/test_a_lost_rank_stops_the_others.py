"""A rank that is killed, hangs or refuses stops the others in one sentence each; their last checkpoint goes on.

The ranks are real processes and so are the signals. Rank 2 of four is struck in the middle of a step: inside the ring,
between two ring steps, or on the way to the exchange of gradients. What the others must do is end soon, say where it
happened and whom they missed, and leave a checkpoint from which four ranks, or one, go on to the run that was never
broken.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from support.ranks import results, run_ranks
from support.toys import ToyPairs, ToyTowers

from minilib import ContrastiveTrainer
from minilib.cli.clip import clip
from minilib.distributed import ranks as shared
from minilib.kernels import contrastive_tiled as tiled

RANKS, LOST, STEPS, SAVED, STRUCK = 4, 2, 8, 4, 5  # a checkpoint every second step, the stroke in step 5
SLACK = 5.0  # seconds that a slow machine may need on top of the timeout
NEIGHBOURS = (1, 3)


def make_trainer(folder, model=None):
    options = {"batch_size": 32, "steps": STEPS, "lr": 1e-2, "save_every": 2, "progress": False}
    return ContrastiveTrainer(model or ToyTowers(dropout=0.0), ToyPairs(96), output_dir=folder, **options)


def train(rank, folder):
    trainer = make_trainer(folder)
    losses = [record["loss"] for record in trainer.train()]
    return losses, {name: value.clone() for name, value in trainer.model.state_dict().items()}


# Strokes


def strike(module, name, call, act):
    """Let `act` happen when `module.name` is called for the time number `call`, before its work."""
    work, calls = getattr(module, name), itertools.count()

    def struck(*args, **kwargs):
        if next(calls) == call:
            act()
        return work(*args, **kwargs)

    setattr(module, name, struck)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


STROKES = {  # where rank 2 is struck, and which call that is: a step visits four blocks forward and four backward
    "forward, step 1": (tiled, "shifted_sums", STRUCK * RANKS + 1),
    "backward, step 2": (tiled, "shifted_grads", STRUCK * RANKS + 2),
    "before the exchange of gradients": (shared, "average", STRUCK),
}


def train_until_killed(rank, folder, stroke):
    if rank == LOST:
        strike(*STROKES[stroke], die)
    return train(rank, folder)


def train_until_hung(rank, folder):
    """Rank 2 hangs until the others have ended; they leave a note when they do."""

    def hang():
        (folder / "hung").write_text(repr(time.monotonic()))
        while len(list(folder.glob("ended*"))) < RANKS - 1 and time.monotonic() < started + 60:
            time.sleep(0.02)

    started = time.monotonic()
    if rank == LOST:
        strike(*STROKES["forward, step 1"], hang)
    try:
        return train(rank, folder)
    finally:
        (folder / f"ended{rank}").touch()


class FailingTowers(ToyTowers):
    """The images of step `STRUCK` are not numbers."""

    steps = 0

    def encode_image(self, images):
        self.steps += 1
        return super().encode_image(images) * (float("nan") if self.steps == STRUCK + 1 else 1.0)


def train_until_refused(rank, folder):
    make_trainer(folder, FailingTowers(dropout=0.0) if rank == 1 else None).train()


# What the others say

WHERE = r"(ring step \d of 3, (texts|gradients)|exchange of the \w+|average of the gradients|comparison of the \w+)"
WHO = r"(rank \d( or rank \d)?|another rank)"
WHAT = r"(is gone, its connection was closed|did not answer within the timeout of the group)"
SENTENCE = re.compile(rf"rank \d, {WHERE}: {WHO} {WHAT}; see that rank's own message, then start all ranks again\.")


def assert_lost(ends, by, in_the_ring=True):
    """Every other rank ended with its sentence before the moment `by`; in the ring the neighbours name the lost one."""
    for rank, end in enumerate(ends):
        if rank == LOST:
            continue
        assert isinstance(end.error, ConnectionError), f"rank {rank} ended with {end.error!r}, {end.exitcode}"
        assert SENTENCE.fullmatch(str(end.error)), str(end.error)
        assert str(end.error).startswith(f"rank {rank}, ")
        assert end.seconds <= by, f"rank {rank} ended after {end.seconds:.1f} s, later than {by:.1f} s"
        if in_the_ring and rank in NEIGHBOURS:
            assert re.search(rf"ring step \d of 3, \w+: rank {LOST} ", str(end.error)), str(end.error)


def assert_goes_on(folder, ranks):
    """From the last checkpoint, four ranks or one come to the end of the run that was never broken."""
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert len(saved["records"]) == SAVED
    losses, weights = train(0, None)
    again = [train(0, folder)] if ranks == 1 else results(run_ranks(ranks, train, folder))
    for got_losses, got in again:
        assert got_losses == pytest.approx(losses, abs=1e-5)
        assert all((got[name] - weights[name]).abs().max() < 1e-5 for name in weights)


@pytest.mark.parametrize(("stroke", "ranks"), zip(STROKES, (4, 1, 1)), ids=list(STROKES))
def test_a_killed_rank_stops_the_others_and_the_run_goes_on(tmp_path, stroke, ranks):
    ends = run_ranks(RANKS, train_until_killed, tmp_path, stroke, timeout=8)
    assert ends[LOST].exitcode == -signal.SIGKILL
    assert_lost(ends, ends[LOST].seconds + 8 + SLACK, in_the_ring="step" in stroke)
    assert_goes_on(tmp_path, ranks)


def test_a_hanging_rank_is_given_up_after_the_timeout(tmp_path):
    started, timeout = time.monotonic(), 5
    ends = run_ranks(RANKS, train_until_hung, tmp_path, timeout=timeout)
    hung = float((tmp_path / "hung").read_text()) - started
    assert_lost(ends, hung + timeout + SLACK)
    assert "did not answer within the timeout" in str(ends[LOST + 1].error)


def test_a_rank_that_refuses_its_inputs_stops_the_others_at_once(tmp_path):
    ends = run_ranks(RANKS, train_until_refused, tmp_path, timeout=60)
    own = "image_features has NaN or infinity in row 0 (8 such rows): fix the encoder that made it."
    others = "rank 1 has raised an error: fix what its own message names and start again."
    for rank, end in enumerate(ends):
        assert isinstance(end.error, ValueError)
        assert str(end.error) == (own if rank == 1 else others)
        assert end.seconds <= ends[1].seconds + SLACK
    assert_goes_on(tmp_path, 1)


# The real command

FLAGS = {"pairs": 64, "batch_size": 16, "micro_batch_size": 5, "steps": 40, "warmup": 2, "save_every": 2}


def workers(launcher):
    """The processes that a running torchrun has started."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    return [child for child in children if child.cmdline()[-1] == str(FLAGS["save_every"])]


@pytest.mark.slow
def test_torchrun_ends_when_a_rank_is_killed_and_the_same_flags_go_on(tmp_path):
    flags = [word for name, value in FLAGS.items() for word in (f"--{name}", str(value))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "minilib", "clip", "--output", str(tmp_path / "killed"), *flags]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not (tmp_path / "killed" / "checkpoint.pt").exists():
            assert launcher.poll() is None, launcher.stdout.read()
            time.sleep(0.005)
        workers(launcher)[1].kill()
        killed = time.monotonic()
        output, _ = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert launcher.returncode != 0, output
    assert time.monotonic() - killed < 20
    assert 2 <= len(torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["records"]) < FLAGS["steps"]
    for name in ("killed", "unbroken"):
        clip(output=tmp_path / name, **FLAGS)
    resumed, unbroken = (json.loads((tmp_path / name / "records.json").read_text()) for name in ("killed", "unbroken"))
    assert len(resumed) == FLAGS["steps"]
    assert resumed[-1]["loss"] == pytest.approx(unbroken[-1]["loss"], abs=1e-4)
