"""A run on four ranks has the losses and the weights of a run in one process, and all ranks agree to the bit.

Four real processes train every case in one launch; the tests look at what they brought home. The judge is the same
trainer in this process, without a group. Rank p builds its towers from seed p, so that nothing would agree if the
weights of rank 0 were not shared first.
"""

import shutil
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from support.ranks import results, run_ranks
from support.toys import ToyPairs, ToyTowers
from torch.nn.parallel import DistributedDataParallel

from minilib import ContrastiveTrainer
from minilib.distributed import ranks as shared
from minilib.trainers.contrastive import part_of, seed_of_draws

RANKS, STEPS = 4, 12
CLOSE = 1e-5  # of losses and weights, which are of order one
CASES = {
    "clip": {},
    "siglip": {"loss": "siglip"},
    "unequal parts": {"batch_size": 30},
    "unequal parts, siglip": {"batch_size": 30, "loss": "siglip"},
    "micro-batches smaller than a part": {"micro_batch_size": 3},
    "some ranks in one pass, some in two": {"batch_size": 30, "micro_batch_size": 7},
    "frozen image": {"frozen": "image"},
    "frozen text, micro-batches": {"frozen": "text", "micro_batch_size": 3, "batch_size": 30},
}


def make_trainer(seed=0, dropout=0.0, model=None, **options):
    settings = {"batch_size": 32, "steps": STEPS, "lr": 1e-2, "save_every": 3, "progress": False, **options}
    return ContrastiveTrainer(model or ToyTowers(dropout=dropout, seed=seed), ToyPairs(96), **settings)


def outcome(trainer, **options):
    losses = [record["loss"] for record in trainer.train(**options)]
    return losses, {name: value.clone() for name, value in trainer.model.state_dict().items()}


def assert_same_run(got, expected, tolerance=CLOSE):
    for mine, true in zip(got[0], expected[0], strict=True):
        assert abs(mine - true) <= tolerance, f"loss is off by {abs(mine - true):.2g}"
    for name, true in expected[1].items():
        off = (got[1][name] - true).abs().max().item()
        assert off <= tolerance, f"{name} is off by {off:.2g}"


def stop_at(trainer, step):
    """Let the trainer be interrupted when it comes to `step`; what it saved before stays."""
    take = trainer.step

    def stopping(number):
        if number == step:
            raise KeyboardInterrupt
        return take(number)

    trainer.step = stopping
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def sentence_of(call):
    try:
        call()
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


class NotingTowers(ToyTowers):
    """Notes the first random number of every step."""

    def __init__(self):
        super().__init__(dropout=0.5)
        self.noted = []

    def encode_image(self, images):
        self.noted.append(torch.get_rng_state().sum().item())
        return super().encode_image(images)


def noted_draws():
    model = NotingTowers()
    make_trainer(model=model, steps=3).train()
    return model.noted


# What each rank does


def everything(rank, folder):
    found = {name: outcome(make_trainer(seed=rank, **options)) for name, options in CASES.items()}
    return found | {
        "draws": [noted_draws(), noted_draws()],
        "exchanges": [exchanged(micro_batch_size=3), exchanged(micro_batch_size=3, frozen="image")],
        "unused": unused(),
        "averaged": averaged(rank),
        "weights": weights_after_sharing(rank),
        "bar": make_trainer(progress=True).progress,
        "wrapped": in_a_wrapper(rank),
        "parts of the world": in_parts_of_the_world(rank),
        "resumed": resumed(rank, folder),
        "refusals": refusals(rank, folder),
    }


def exchanged(**options):
    """Sizes of all messages that one step adds up over the ranks."""
    trainer, sizes, all_reduce = make_trainer(**options), Counter(), dist.all_reduce

    def counting(tensor, *args, **kwargs):
        sizes[tensor.numel()] += 1
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = counting
    trainer.step(0)
    dist.all_reduce = all_reduce
    return sizes


def unused(**options):
    """Names of the parameters that have no gradient after a step."""
    trainer = make_trainer(**options)
    trainer.step(0)
    return [name for name, parameter in trainer.model.named_parameters() if parameter.grad is None]


def averaged(rank):
    """Gradients of several kinds after the average: fp64, bf16, not contiguous, on rank 3 only, and nowhere."""
    kinds = [torch.float64, torch.bfloat16, torch.float32, torch.float32, torch.float32]
    parameters = [torch.nn.Parameter(torch.zeros(2, 3, dtype=dtype)) for dtype in kinds]
    for parameter in parameters[: 4 if rank == 3 else 3]:
        parameter.grad = torch.full((3, 2), rank + 1.0, dtype=parameter.dtype).T
    loss = shared.average(dist.group.WORLD, parameters, torch.tensor(float(rank)))
    return [loss.item(), *(None if p.grad is None else (p.grad.dtype, p.grad.tolist()) for p in parameters)]


def weights_after_sharing(rank):
    """A parameter that is not contiguous and a whole-number buffer, both filled with the rank before."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.full((3, 2), float(rank)).T)
    model.register_buffer("count", torch.tensor(rank))
    shared.share_weights(dist.group.WORLD, model)
    return model.weight.detach().unique().tolist(), model.count.item()


def in_a_wrapper(rank):
    wrapper, exchanges = DistributedDataParallel(ToyTowers(dropout=0.0, seed=rank)), []

    def counting(state, bucket):
        exchanges.append(bucket.index())
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])

    wrapper.register_comm_hook(None, counting)
    trainer = make_trainer(model=wrapper, micro_batch_size=3)
    return trainer.model is wrapper.module, outcome(trainer), exchanges


def in_parts_of_the_world(rank):
    groups = [dist.new_group([0, 1, 2]), dist.new_group([3])]
    trainer = make_trainer(seed=rank if rank < 3 else 0, group=groups[rank // 3])
    return (trainer.rank, trainer.ranks), outcome(trainer)


def resumed(rank, folder):
    """An unbroken run with dropout, one that was stopped and went on, and one that was stopped without going on."""
    unbroken = outcome(make_trainer(dropout=0.5))
    stop_at(make_trainer(dropout=0.5, output_dir=folder / "dropout"), 8)
    again = make_trainer(seed=rank, dropout=0.5, output_dir=folder / "dropout")
    stop_at(make_trainer(output_dir=folder / "stopped"), 8)
    return unbroken, outcome(again)


def refusals(rank, folder):
    make_trainer(output_dir=folder / f"own{rank}", steps=3).train()  # rank 0 writes where the others do not look
    make_trainer(output_dir=folder / "common", steps=3).train()
    dist.barrier()  # until rank 0 has written
    (folder / f"copy{rank}").mkdir()
    shutil.copy(folder / "common" / "checkpoint.pt", folder / f"copy{rank}")
    if rank == 2:
        (folder / "copy2" / "checkpoint.pt").write_bytes(b"half a checkp")
    return {
        "few pairs": sentence_of(lambda: make_trainer(batch_size=3)),
        "settings": sentence_of(lambda: make_trainer(lr=0.1 if rank == 1 else 0.2)),
        "models": sentence_of(lambda: make_trainer(model=ToyTowers(dim=8 if rank < 3 else 9))),
        "resume": sentence_of(lambda: make_trainer(output_dir=folder / "common").train(resume=rank != 3)),
        "output_dir": sentence_of(lambda: make_trainer(output_dir=folder / "x" if rank else None).train()),
        "checkpoints": sentence_of(lambda: make_trainer(output_dir=folder / f"own{rank}", steps=3).train()),
        "broken": sentence_of(lambda: make_trainer(output_dir=folder / f"copy{rank}", steps=3).train()),
        "dense": sentence_of(lambda: make_trainer(backend="dense").train()),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    return results(run_ranks(RANKS, everything, folder))


def collect(found, name):
    return [of_rank[name] for of_rank in found]


# Exactness


@pytest.mark.parametrize("case", CASES)
def test_four_ranks_train_the_curve_and_the_weights_of_one_process(found, case):
    expected = outcome(make_trainer(**CASES[case]))
    assert expected[0][-1] < 0.8 * expected[0][0]  # a curve worth comparing
    for got in collect(found, case):
        assert_same_run(got, expected)


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_end_with_the_same_bits(found, case):
    first, *others = collect(found, case)
    for other in others:
        assert_same_run(other, first, tolerance=0)


def test_a_parameter_that_the_loss_does_not_use_stays_without_a_gradient(found):
    assert collect(found, "unused") == [unused()] * RANKS == [["logit_bias"]] * RANKS


def test_a_group_may_be_a_part_of_the_world_or_one_rank_alone(found):
    expected = outcome(make_trainer())
    parts = collect(found, "parts of the world")
    assert [place for place, _ in parts] == [(0, 3), (1, 3), (2, 3), (0, 1)]
    for _, got in parts[:3]:
        assert_same_run(got, expected)
    assert_same_run(parts[3][1], expected, tolerance=0)


def test_a_wrapper_is_taken_off_and_its_hooks_stay_silent(found):
    expected = outcome(make_trainer(micro_batch_size=3))
    for bare, got, exchanges in collect(found, "wrapped"):
        assert bare
        assert exchanges == []
        assert_same_run(got, expected)


# Cost


def test_gradients_are_exchanged_once_per_step_and_those_of_a_frozen_tower_never(found):
    tower, numbers, columns = 16 * 8 + 8, 2, 2 * (32 + 1)
    agreed = {12 * RANKS: 1, RANKS: 1}  # the terms before the loss, the upstream factor before its backward pass
    for both, one in collect(found, "exchanges"):
        # One number tells for each parameter whether it is used (two per tower, scale, bias), and one is the loss.
        assert both == {**agreed, columns: 1, 2 * tower + numbers + 6 + 1: 1}
        assert one == {**agreed, columns: 1, tower + numbers + 4 + 1: 1}


def test_gradients_of_any_kind_are_averaged_and_one_that_a_rank_lacks_counts_as_zero(found):
    def filled(value, dtype):
        return dtype, [[value] * 3] * 2

    kinds = [filled(2.5, dtype) for dtype in (torch.float64, torch.bfloat16, torch.float32)]
    assert collect(found, "averaged") == [[1.5, *kinds, filled(1.0, torch.float32), None]] * RANKS


def test_every_rank_starts_from_the_parameters_and_buffers_of_rank_zero(found):
    assert collect(found, "weights") == [([0.0], 0)] * RANKS


def test_only_rank_zero_shows_a_bar(found):
    assert collect(found, "bar") == [True, False, False, False]


# Random draws and data


def test_ranks_draw_differently_and_rank_zero_as_one_process(found):
    draws = collect(found, "draws")
    assert all(first == again for first, again in draws)
    assert draws[0][0] == noted_draws()
    assert all(len({of_rank[0][step] for of_rank in draws}) == RANKS for step in range(3))


def test_no_two_steps_or_ranks_begin_their_draws_at_one_seed():
    seeds = {seed_of_draws(seed, step, rank) for seed in range(8) for step in range(50) for rank in range(16)}
    assert len(seeds) == 8 * 50 * 16
    assert seed_of_draws(7, 5, 0) == 7 * 1_000_003 + 5  # the stream that one process has always had


def test_the_parts_of_a_batch_are_even_and_in_order():
    indices = torch.arange(30)
    parts = [part_of(indices, rank, RANKS) for rank in range(RANKS)]
    assert [len(part) for part in parts] == [8, 8, 7, 7]
    assert torch.equal(torch.cat(parts), indices)


# Resuming


def test_ranks_that_stopped_go_on_to_the_bits_of_an_unbroken_run(found):
    for unbroken, again in collect(found, "resumed"):
        assert_same_run(again, unbroken, tolerance=0)


def resume(rank, folder):
    return outcome(make_trainer(seed=5, output_dir=folder))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_goes_on_with_another_number_of_ranks(found, folder, ranks):
    shutil.copytree(folder / "stopped", folder / f"stopped{ranks}")
    saved = torch.load(folder / "stopped" / "checkpoint.pt", weights_only=True)
    assert len(saved["records"]) == 6
    expected = outcome(make_trainer())
    again = folder / f"stopped{ranks}"
    for got in [resume(0, again)] if ranks == 1 else results(run_ranks(ranks, resume, again)):
        assert_same_run(got, expected)


# Refusals


REFUSALS = {
    "few pairs": "ValueError: batch_size is 3 and 4 ranks share it: give at least one pair per rank, or start fewer "
    "ranks.",
    "settings": "ValueError: lr is 0.2 on rank 0 and 0.1 on rank 1: give every rank the same.",
    "models": "ValueError: image_tower.1.weight is (8, 16) torch.float32 on rank 0 and (9, 16) torch.float32 on rank "
    "3: build the same model everywhere.",
    "resume": "ValueError: resume is True on rank 0 and False on rank 3: give every rank the same.",
    "output_dir": "ValueError: output_dir is None on rank 0 and given on rank 1: give every rank the same.",
    "dense": "ValueError: backend is 'dense' and group has 4 ranks: the dense loss sees the pairs of one process only, "
    "choose 'auto'.",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_every_rank_refuses_in_the_same_sentence(found, case):
    assert [of_rank[case] for of_rank in collect(found, "refusals")] == [REFUSALS[case]] * RANKS


def test_checkpoints_that_differ_from_rank_to_rank_are_refused_on_every_rank(found):
    sentences = {of_rank["checkpoints"] for of_rank in collect(found, "refusals")}
    assert len(sentences) == 1
    assert "checkpoint is at step 3, loss" in sentences.copy().pop()
    assert sentences.pop().endswith(
        "on rank 0 and absent on rank 1: give all ranks one output_dir on a disk that they all see."
    )


def test_a_checkpoint_that_one_rank_cannot_read_stops_all(found):
    sentences = [of_rank["broken"] for of_rank in collect(found, "refusals")]
    assert "copy2/checkpoint.pt cannot be read" in sentences.pop(2)
    assert sentences == ["ValueError: rank 2 has raised an error: fix what its own message names and start again."] * 3


def test_a_group_that_is_none_is_refused():
    assert sentence_of(lambda: make_trainer(group=object())).startswith("TypeError: group is a object: give a process")


def test_one_process_exchanges_nothing():
    loss = torch.tensor(1.0)
    assert shared.average(None, [], loss) is loss
    assert shared.place(None) == (0, 1)
