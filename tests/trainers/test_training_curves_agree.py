"""A run does not depend on how its loss was computed or how its batches were cut, only on model, data and seed."""

import pytest
import torch
from support.toys import ToyPairs, ToyTowers

from minilib import ContrastiveTrainer
from minilib.trainers.contrastive import batch_indices, learning_rate


def run(model=None, steps=12, **options):
    settings = {"batch_size": 32, "steps": steps, "lr": 1e-2, "progress": False, **options}
    trainer = ContrastiveTrainer(model or ToyTowers(dropout=0.0), ToyPairs(96), **settings)
    return trainer.train(), trainer.model


def losses(records):
    return torch.tensor([record["loss"] for record in records])


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_dense_and_tiled_runs_from_one_seed_have_the_same_curve(loss):
    dense, tiled = (losses(run(loss=loss, backend=backend)[0]) for backend in ("dense", "tiled"))
    assert (dense - tiled).abs().max() < 1e-4
    assert dense[-1] < 0.8 * dense[0]  # and it is a curve worth comparing


def test_micro_batches_do_not_change_the_curve():
    whole, cut = (losses(run(micro_batch_size=size)[0]) for size in (32, 7))
    assert (whole - cut).abs().max() < 1e-4


@pytest.mark.parametrize("micro_batch_size", [32, 8])
@pytest.mark.parametrize("frozen", ["image", "text"])
def test_a_frozen_tower_keeps_its_weights(frozen, micro_batch_size):
    start = ToyTowers(dropout=0.0).state_dict()
    records, model = run(frozen=frozen, micro_batch_size=micro_batch_size)
    trained = {"image": "text", "text": "image"}[frozen]
    assert torch.equal(model.state_dict()[f"{frozen}_tower.1.weight"], start[f"{frozen}_tower.1.weight"])
    assert not torch.equal(model.state_dict()[f"{trained}_tower.1.weight"], start[f"{trained}_tower.1.weight"])
    assert records[-1]["loss"] < records[0]["loss"]


def test_every_pair_is_seen_once_per_epoch_and_in_another_order_the_next_time():
    epochs = [torch.cat([batch_indices(step, 20, 5, seed=3) for step in range(4 * e, 4 * e + 4)]) for e in range(2)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(20))
    assert not torch.equal(*epochs)
    assert not torch.equal(batch_indices(0, 20, 5, seed=3), batch_indices(0, 20, 5, seed=4))


def test_the_learning_rate_warms_up_and_falls_to_zero():
    rates = [learning_rate(step, 100, 1.0, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == max(rates[8:12])
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_records_are_plain_and_complete():
    records, _ = run(steps=3)
    assert [r["step"] for r in records] == [0, 1, 2]
    assert [r["pairs"] for r in records] == [32, 64, 96]
    assert all(type(value) in (int, float) for record in records for value in record.values())


def test_the_scale_stays_below_one_hundred():
    model = ToyTowers(dropout=0.0)
    with torch.no_grad():
        model.logit_scale.fill_(8.0)
    records, _ = run(model, steps=2)
    assert records[-1]["scale"] <= 100.0001


def test_a_run_leaves_the_random_state_of_its_caller_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    run(ToyTowers(dropout=0.5), steps=2)
    assert torch.equal(torch.rand(2), expected)
