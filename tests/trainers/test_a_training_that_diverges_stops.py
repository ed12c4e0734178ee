"""A loss or weight that is no longer finite ends the training at that step, on every rank, and nothing of it is saved.

The sentence names the step, the learning rate and the last good checkpoint; the command line ends with status 1.
"""

import json
import re

import pytest
import torch
from support.logo_toys import make_trainer, toy_rows
from support.toys import ToyPairs, ToyTowers

import minilib.__main__ as main_module
from minilib.models.tiny_lm import tiny_lm
from minilib.trainers import ContrastiveTrainer, DivergedError, last_checkpoint

NAN = float("nan")


def trainer(path=None, callbacks=(), **options):
    settings = {"batch_size": 8, "steps": 6, "save_every": 1, "progress": False, "output_dir": path, **options}
    return ContrastiveTrainer(ToyTowers(dropout=0.0), ToyPairs(24), callbacks=callbacks, **settings)


def poison(model, value=NAN):
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad and p.ndim == 2).view(-1)[0] = value


def spoil_after(step, value=NAN):
    """The optimizer ruins a weight in this step."""

    def attach(trainer):
        done, of_optimizer = [0], trainer.optimizer.step

        def ruined(*args, **rest):
            of_optimizer(*args, **rest)
            done[0] += 1
            if done[0] == step:
                poison(trainer.model, value)

        trainer.optimizer.step = ruined
        return trainer

    return attach


def assert_finite(path):
    saved = torch.load(path / "checkpoint.pt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in saved["model"].values())
    return len(saved["records"])


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_weight_that_the_optimizer_ruins_stops_the_run_at_that_step(value, tmp_path):
    with pytest.raises(DivergedError) as error:
        spoil_after(3, value)(trainer(tmp_path, lr=0.125)).train()
    told = str(error.value)
    assert told.startswith(
        "stopped at step 3 of 6, learning rate 0.0938 (peak 0.125): the weight image_tower.1.weight has NaN"
    )
    assert f"the last good checkpoint is {tmp_path / 'checkpoint.pt'}" in told
    assert assert_finite(tmp_path) == 2


def test_a_callback_that_ruins_a_weight_is_not_saved_either(tmp_path):
    def ruin(trainer, record):
        if record["step"] == 3:
            poison(trainer.model)

    with pytest.raises(DivergedError, match="stopped at step 4 of 6"):
        trainer(tmp_path, [ruin]).train()
    assert assert_finite(tmp_path) == 3


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("micro_batch_size", [8, 2])
def test_weights_that_are_nan_from_the_start_stop_the_first_step(loss, micro_batch_size, tmp_path):
    made = trainer(tmp_path, loss=loss, micro_batch_size=micro_batch_size)
    poison(made.model.image_tower)
    with pytest.raises(DivergedError, match=r"stopped at step 1 of 6.*there is no checkpoint yet"):
        made.train()
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_nan_stops_before_the_optimizer(monkeypatch):
    made = trainer()
    monkeypatch.setattr(made, "loss", lambda img, txt: (img * NAN).sum() + txt.sum())
    before = [p.clone() for p in made.model.parameters()]
    with pytest.raises(DivergedError, match="the loss is nan"):
        made.train()
    assert all(torch.equal(a, b) for a, b in zip(before, made.model.parameters()))


# LogoTrainer


def logo(path, **options):
    args = {"max_steps": 5, "save_strategy": "steps", "save_steps": 1, "output_dir": str(path), "learning_rate": 1e-3}
    return make_trainer(toy_rows(6), dtype=torch.float32, args=args | options)


def test_logo_stops_at_the_step_whose_weights_are_ruined(tmp_path):
    from transformers import TrainerCallback

    class Ruin(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **_):
            if state.global_step == 2:
                poison(model)

    made = logo(tmp_path)
    made.add_callback(Ruin())
    with pytest.raises(DivergedError) as error:
        made.train()
    assert re.match(r"stopped at step 3 of 5, learning rate 0\.\d+ \(peak 0.001\): the weight ", str(error.value))
    assert f"the last good checkpoint is {tmp_path / 'checkpoint-2'}" in str(error.value)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_logo_stops_at_a_rate_that_no_weight_survives(tmp_path):
    with pytest.raises(DivergedError, match=r"stopped at step [123] of 5, learning rate \S+ \(peak 1e\+20\)"):
        logo(tmp_path, learning_rate=1e20, save_steps=5).train()


def test_logo_does_not_begin_with_weights_that_are_nan(tmp_path):
    made = logo(tmp_path)
    poison(made.model)
    with pytest.raises(
        DivergedError, match=r"stopped at step 1 of 5, .* has NaN or infinity, there is no checkpoint yet"
    ):
        made.train()


# The commands


def status(capfd, line):
    with pytest.raises(SystemExit) as end:
        main_module.main([str(argument) for argument in line])
    err = capfd.readouterr().err
    (told,) = [text for text in re.split(r"[\r\n]", err) if text.startswith("minilib: ")]
    assert "Traceback" not in err
    return end.value.code, told


def test_clip_at_an_absurd_rate_ends_with_status_1(tmp_path, capfd):
    line = f"clip --pairs 32 --batch_size 16 --steps 6 --dim 8 --lr 1e30 --output {tmp_path}".split()
    code, told = status(capfd, line)
    assert code == 1
    assert re.match(r"minilib: stopped at step \d of 6, learning rate \S+ \(peak 1e\+30\): ", told)
    assert not list(tmp_path.glob("checkpoint*"))


@pytest.fixture
def pairs(tmp_path):
    row = {"prompt": "Lisbon keeps amber. What?", "chosen": " amber", "rejected": " coal"}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(8)))
    return ["--data", tmp_path / "pairs.jsonl", "--num_rejected", 1, "--target", 0, "--batch_size", 2]


def test_logo_at_an_absurd_rate_ends_with_status_1_and_keeps_no_broken_adapter(pairs, tmp_path, capfd):
    line = ["logo", *pairs, "--lr", 1e20, "--warmup", 0, "--steps", 8, "--output", tmp_path / "run"]
    code, told = status(capfd, line)
    assert code == 1
    assert re.match(r"minilib: stopped at step \d of 8, learning rate \S+ \(peak 1e\+20\): ", told)
    assert not list((tmp_path / "run").glob("adapter*"))


def test_logo_with_a_model_of_nan_weights_ends_with_status_1_before_it_answers(tmp_path, capfd):
    model, tokenizer = tiny_lm()
    poison(model)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    line = ["logo", "--model", tmp_path / "model", "--output", tmp_path / "run", "--rows", 4, "--steps", 2]
    code, told = status(capfd, line)
    assert code == 1
    assert "stopped at step 1 of 2" in told
    assert not (tmp_path / "run" / "pairs.jsonl").exists()
