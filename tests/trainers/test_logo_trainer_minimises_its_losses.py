"""LogoTrainer computes what its losses say, counts what it did, and goes downhill.

The judge of every loss is its formula in minilib.losses.preference on log-probabilities from a full pass for each
answer, in fp64; autograd does the rest. Prompts are stretched, so that positions matter.
"""

import copy
import inspect
import json
from collections import Counter
from dataclasses import fields
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from support.logo_toys import UNUSED, make_trainer, scores_apart, some_rows, toy_rows, toy_tokenizer
from support.reference import refused
from support.tiny_llama import tiny_llama
from transformers import LlamaForCausalLM, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from minilib.common import process_peak
from minilib.longcontext.rope import stretch_config
from minilib.longcontext.scoring import head_weight
from minilib.losses.preference import cpo_loss, dpo_loss, logo_loss, orpo_loss, simpo_loss
from minilib.trainers import logo
from minilib.trainers.logo import LogoConfig, LogoTrainer
from minilib.trainers.lora import delta_norm, lora_config
from minilib.trainers.objectives import LOSSES, accuracy

# `formula(sums, means, reference sums)` with the settings that the trainer has when it is told nothing
FORMULAS = {
    "logo": lambda s, m, r: logo_loss(m[:, 0], m[:, 1:], beta=10.0, gamma=3.0, sft_weight=0.1),
    "simpo": lambda s, m, r: simpo_loss(m[:, 0], m[:, 1:], beta=10.0, gamma=3.0),
    "cpo": lambda s, m, r: cpo_loss(s[:, 0], s[:, 1:], beta=0.1, sft_weight=1.0),
    "orpo": lambda s, m, r: orpo_loss(m[:, 0], m[:, 1:], beta=0.1),
    "dpo": lambda s, m, r: dpo_loss(s[:, 0], s[:, 1:], r[:, 0], r[:, 1:], beta=0.1),
    "sft": lambda s, m, r: -m[:, 0].mean(),
}
METRICS = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"}


def lora(model, rank=2, seed=0, **settings):
    """The model with adapters on its attention that have learned something random."""
    from peft import get_peft_model

    adapted = get_peft_model(model, lora_config(rank=rank, alpha=3, **settings))
    torch.manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return adapted


def moved(model, seed=5):
    """The model after some steps that no formula describes, so that it is another than its reference."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)


def value_and_gradients(model, loss):
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return loss.detach(), {name: g for name, g in zip(trained, found) if g is not None}


def assert_equal(got, true, tolerance=1e-9):
    assert abs(got[0] - true[0]) <= tolerance * max(1, abs(true[0]))
    assert got[1].keys() == true[1].keys()
    for name, gradient in true[1].items():
        off = (got[1][name] - gradient).norm() / (gradient.norm() + 1e-12)
        assert off <= tolerance, f"{name}: relative error {off:.3g}"


def own(trainer, count=3):
    """The trainer's loss of a training batch, and its gradients."""
    trainer.model.train()
    return value_and_gradients(trainer.model, trainer.compute_loss(trainer.model, some_rows(trainer, count)))


def judged(trainer, loss, reference=None, count=3):
    batch = trainer.pack(some_rows(trainer, count))
    sums, means = scores_apart(trainer.model, batch)
    with torch.no_grad():
        before = None if reference is None else scores_apart(reference, batch)[0]
    return value_and_gradients(trainer.model, FORMULAS[loss](sums, means, before))


# Values and gradients


@pytest.mark.parametrize("share_prompt", [True, False])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_equals_its_formula_on_separate_full_passes(loss, m, share_prompt):
    trainer = make_trainer(toy_rows(4, m), loss_type=loss, target_length=100, share_prompt=share_prompt)
    moved(trainer.model)
    assert_equal(own(trainer), judged(trainer, loss, tiny_llama()))


@pytest.mark.parametrize("loss", LOSSES)
def test_on_adapters_the_losses_are_the_same_and_the_reference_of_dpo_is_the_model_without_them(loss):
    trainer = make_trainer(model=lora(tiny_llama()), loss_type=loss, target_length=100)
    assert trainer.objective.reference is None
    got = own(trainer)
    assert all("lora_" in name for name in got[1])
    assert_equal(got, judged(trainer, loss, tiny_llama()))


def test_one_rejected_answer_makes_logo_simpo():
    settings = {"beta": 2.0, "gamma": 0.5, "sft_weight": 0.3, "num_rejected": 1, "target_length": 100}
    assert_equal(
        own(make_trainer(loss_type="logo", **settings)), own(make_trainer(loss_type="simpo", **settings)), 1e-12
    )


def test_the_dpo_loss_of_a_fresh_model_is_log_two():
    for model in (tiny_llama(), lora(tiny_llama(), rank=4)):
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.zeros_(parameter)
        assert own(make_trainer(model=model, loss_type="dpo"))[0].item() == pytest.approx(
            torch.tensor(2.0).log().item()
        )


def test_the_settings_reach_the_loss():
    trainer = make_trainer(loss_type="logo", beta=2.0, gamma=1.0, sft_weight=0.7)
    means = scores_apart(trainer.model, trainer.pack(some_rows(trainer)))[1]
    expected = logo_loss(means[:, 0], means[:, 1:], beta=2.0, gamma=1.0, sft_weight=0.7)
    assert own(trainer)[0].item() == pytest.approx(expected.item(), rel=1e-10)


def test_equal_weights_of_rejected_answers_are_none_and_a_single_one_is_that_answer_alone():
    rows = toy_rows(4, m=3)
    trainer = make_trainer(rows, rejected_weights=[0.5, 0.5, 0.5])
    assert_equal(own(trainer), own(make_trainer(rows)), 1e-12)
    alone = [row | {"rejected": row["rejected"][2:]} for row in rows]
    assert_equal(own(make_trainer(rows, rejected_weights=(0, 0, 4))), own(make_trainer(alone)), 1e-12)
    assert own(make_trainer(rows, rejected_weights=(1, 2, 3)))[0] != own(trainer)[0]


def test_every_deviation_of_the_released_trainer_changes_the_loss():
    values = {()} | {(name,) for name in ("negatives", "sft_unshifted", "sft_padding", "window")}
    losses = {own(make_trainer(released=set(names)))[0].item() for names in values}
    assert len(losses) == 5


def test_positions_matter_and_are_those_of_the_pack():
    assert abs(own(make_trainer(target_length=100))[0] - own(make_trainer())[0]) > 1e-3


# Adapters


def test_only_adapters_train_and_the_head_is_the_models_own():
    model = tiny_llama(torch.float32)
    head, before = model.lm_head.weight, {name: p.clone() for name, p in model.named_parameters()}
    trainer = make_trainer(model=model, peft_config=lora_config(rank=2))
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 4 * 2  # A and B of four projections in two layers
    assert head_weight(trainer.model) is head
    trainer.train()
    named = dict(trainer.model.named_parameters())
    after = {
        name: named["base_model.model." + name.replace("_proj.weight", "_proj.base_layer.weight")]
        if "self_attn" in name
        else named["base_model.model." + name]
        for name in before
    }
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert delta_norm(trainer.model) > 0


def test_the_seed_decides_where_adapters_start():
    starts = []
    for seed in (1, 1, 2):
        torch.rand(len(starts) + 1)  # whatever was drawn before
        model = make_trainer(peft_config=lora_config(rank=2), args={"seed": seed}).model
        starts.append(torch.cat([p.flatten() for name, p in model.named_parameters() if "lora_A" in name]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("settings", [{}, {"embeddings": True}, {"use_rslora": True}], ids=str)
def test_the_norm_of_the_adapters_is_that_of_the_matrices_that_they_add(settings):
    base = tiny_llama()
    before = {name: p.clone() for name, p in base.named_parameters()}
    rslora = settings.pop("use_rslora", False)
    config = lora_config(rank=3, alpha=5, **settings)
    config.use_rslora = rslora
    model = make_trainer(model=base, peft_config=config).model
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    assert delta_norm(tiny_llama()) is None
    norm, merged = delta_norm(model), dict(model.merge_and_unload().named_parameters())
    dense = sum((merged[name] - before[name]).square().sum() for name in before).sqrt().item()
    assert dense > 1
    assert norm == pytest.approx(dense, rel=1e-5)


def test_adapters_of_embeddings_leave_a_tied_head_as_it_was():
    trainer = make_trainer(model=tiny_llama(tie_word_embeddings=True), peft_config=lora_config(rank=2, embeddings=True))
    weight = head_weight(trainer.model).clone()
    trainer.train()
    assert torch.equal(head_weight(trainer.model), weight)
    assert any("embed" in name for name, p in trainer.model.named_parameters() if p.requires_grad)


# Running


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad])


@pytest.mark.parametrize("settings", [None, lora_config(rank=2)], ids=["full", "lora"])
def test_gradient_checkpointing_computes_layers_again_and_changes_nothing(settings):
    runs = {}
    for checkpointing in (False, True):
        torch.manual_seed(1)
        trainer = make_trainer(peft_config=settings, target_length=100, args={"gradient_checkpointing": checkpointing})
        calls = Counter()
        for layer in trainer.model.get_decoder().layers:
            layer.self_attn.register_forward_pre_hook(lambda *_, calls=calls: calls.update(n=1))
        trainer.train()
        runs[checkpointing] = weights(trainer), calls["n"]
    torch.testing.assert_close(runs[True][0], runs[False][0], rtol=1e-9, atol=1e-9)
    assert runs[False][1] == 3 * 2 * 2  # steps, layers, prompt and answers
    assert runs[True][1] == 3 * 2 * 2  # steps, layers, forward and once more backward


@pytest.mark.parametrize("loss", ["logo", "dpo"])
def test_two_rows_accumulated_four_times_are_a_step_of_eight(loss):
    ends = []
    for size, times in ((8, 1), (2, 4)):
        args = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times}
        trainer = make_trainer(toy_rows(24), loss_type=loss, target_length=100, args=args)
        trainer.train()
        ends.append((weights(trainer), [log["loss"] for log in trainer.state.log_history if "loss" in log]))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-7, atol=1e-9)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_training_lowers_the_loss_and_raises_the_margin(loss):
    rows = toy_rows(8)
    args = {"max_steps": 12, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8}
    trainer = make_trainer(rows, rows, dtype=torch.float32, loss_type=loss, target_length=100, args=args)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"] - 0.05
    assert after["eval_rewards/margins"] > before["eval_rewards/margins"] + 0.05


@pytest.mark.parametrize("loss", ["logo", "dpo"])
def test_under_autocast_and_with_bf16_weights_a_step_is_the_same_up_to_rounding(loss):
    logs = []
    for dtype, args in ((torch.float32, {}), (torch.float32, {"bf16": True}), (torch.bfloat16, {})):
        trainer = make_trainer(
            model=lora(tiny_llama(dtype)), loss_type=loss, target_length=100, args={**args, "max_steps": 1}
        )
        trainer.train()
        logs.append([trainer.state.log_history[0][name] for name in ("loss", "rewards/chosen", "rewards/rejected")])
    assert logs[1] == pytest.approx(logs[0], rel=0.03, abs=0.02)
    assert logs[2] == pytest.approx(logs[0], rel=0.03, abs=0.02)
    assert logs[1] != logs[0] != logs[2]


# What is logged


def logged(trainer, name="loss"):
    return [log for log in trainer.state.log_history if name in log]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_log_of_a_step_has_the_metrics_of_its_loss(loss):
    trainer = make_trainer(loss_type=loss, peft_config=lora_config(rank=2), args={"max_steps": 2})
    trainer.train()
    running = {"tokens", "tokens_per_second", "peak_memory", "lora_delta_norm"}
    usual = {"loss", "grad_norm", "learning_rate", "epoch", "step"}
    names = {"logps/chosen"} if loss == "sft" else METRICS
    for log in logged(trainer):
        assert log.keys() == usual | running | names
        if loss == "sft":
            assert log["loss"] == pytest.approx(-log["logps/chosen"])
        else:
            assert log["rewards/margins"] == pytest.approx(log["rewards/chosen"] - log["rewards/rejected"], abs=1e-5)
            assert 0 <= log["rewards/accuracies"] <= 1
    summary = logged(trainer, "train_loss")
    assert len(summary) == 1
    assert not METRICS & summary[0].keys()
    assert logged(trainer)[-1]["lora_delta_norm"] > 0


def expected_metrics(loss, model, batches, reference):
    """The metrics of a whole data set by hand: rewards by the definition of each loss, means over all rows."""
    tables = [scores_apart(model, batch) for batch in batches]
    sums, means = (torch.cat(columns) for columns in zip(*tables))
    before = torch.cat([scores_apart(reference, batch)[0] for batch in batches])
    beta = {"logo": 10, "simpo": 10, "sft": 1}.get(loss, 0.1)
    rewards = beta * {"cpo": sums, "dpo": sums - before}.get(loss, means)
    return {
        "loss": FORMULAS[loss](sums, means, before),
        "rewards/chosen": rewards[:, 0].mean(),
        "rewards/rejected": rewards[:, 1:].mean(),
        "rewards/margins": (rewards[:, :1] - rewards[:, 1:]).mean(),
        "rewards/accuracies": (rewards[:, :1] > rewards[:, 1:]).double().mean(),
        "logps/chosen": means[:, 0].mean(),
    }


def test_a_tie_counts_half_and_rounding_makes_no_winner():
    scores = torch.tensor([[-2.0, -3.0, -1.0, -2.0]], dtype=torch.float64)
    assert accuracy(scores, 1 + scores.abs()).item() == 0.5  # won, lost and tied
    for dtype in (torch.float32, torch.float64):
        eps = torch.finfo(dtype).eps
        scores = -50 * torch.rand(64, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
        noise = scores * eps * torch.randn(64, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
        assert accuracy(noise, 1 + scores.abs()).item() == 0.5
        sure = scores.clone()
        sure[:, 1:] = sure[:, :1] - 1e4 * eps * (1 + sure[:, :1].abs())
        assert accuracy(sure, 1 + sure.abs()).item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [None, lora_config(rank=2)], ids=["full", "lora"])
def test_before_its_first_step_the_model_of_dpo_ties_with_its_reference(settings, dtype):
    options = {"dtype": dtype, "loss_type": "dpo", "peft_config": settings, "target_length": 100}
    trainer = make_trainer(toy_rows(16), toy_rows(5, seed=3), **options, args={"max_steps": 1})
    trainer.train()
    (first,) = logged(trainer)
    assert first["rewards/accuracies"] == 0.5
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert trainer.evaluate()["eval_rewards/accuracies"] != 0.5  # one step behind its reference there are winners


@pytest.mark.parametrize("prefix", ["eval", "test"])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_evaluation_has_every_metric_once_over_all_rows_and_answers(loss, prefix):
    trainer = make_trainer(
        eval_rows=toy_rows(7, seed=3),
        loss_type=loss,
        target_length=100,
        args={"per_device_eval_batch_size": 3, "max_steps": 1},
    )
    trainer.train()  # what training has left to log must not come in between
    got = trainer.evaluate(metric_key_prefix=prefix)
    rows = [trainer.data_collator([trainer.eval_dataset[k]]) for k in range(7)]
    with torch.no_grad():
        expected = expected_metrics(loss, trainer.model, [trainer.pack(row, "eval") for row in rows], tiny_llama())
    ours = {name.removeprefix(f"{prefix}_"): value for name, value in got.items() if name.startswith(prefix)}
    assert METRICS | {"loss"} <= ours.keys()
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value.item(), rel=1e-5, abs=1e-6), name
    assert not METRICS & got.keys()
    log = trainer.state.log_history[-1]
    assert {name: log[name] for name in got if name != "epoch"} == {n: v for n, v in got.items() if n != "epoch"}


def test_an_evaluation_during_training_is_logged_apart_and_several_sets_by_name():
    evals = {"near": toy_rows(3, seed=1), "far": toy_rows(2, seed=2)}
    args = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, "logging_steps": 2}
    trainer = make_trainer(eval_rows=evals, target_length=100, args=args)
    trainer.train()
    assert (
        len(logged(trainer))
        == len(logged(trainer, "eval_near_rewards/margins"))
        == len(logged(trainer, "eval_far_rewards/margins"))
        == 2
    )
    assert all("rewards/margins" in log and "eval_near_rewards/margins" not in log for log in logged(trainer))
    other = trainer.evaluate(toy_rows(4, seed=9))  # rows that the trainer has never seen
    assert (
        other["eval_rewards/margins"] != logged(trainer, "eval_near_rewards/margins")[-1]["eval_near_rewards/margins"]
    )


def test_a_log_over_several_steps_is_their_mean():
    logs = {}
    for every in (1, 2):
        trainer = make_trainer(toy_rows(16), loss_type="orpo", args={"logging_steps": every, "max_steps": 4})
        trainer.train()
        logs[every] = [log["rewards/margins"] for log in logged(trainer)]
    assert logs[2] == pytest.approx([sum(logs[1][:2]) / 2, sum(logs[1][2:]) / 2], rel=1e-5)


@pytest.mark.parametrize("loss", ["logo", "sft"])
@pytest.mark.parametrize("share_prompt", [True, False])
def test_tokens_are_counted_one_by_one(share_prompt, loss):
    rows = toy_rows(8)
    trainer = make_trainer(rows, loss_type=loss, share_prompt=share_prompt, args={"max_steps": 2})
    trainer.train()
    total = 0
    for row in rows:
        prompt, answers = len(row["prompt"].split()), [row["chosen"], *row["rejected"]][: 1 if loss == "sft" else None]
        total += prompt * (1 if share_prompt else len(answers)) + sum(len(text.split()) + 1 for text in answers)
    assert [log["tokens"] for log in logged(trainer)][-1] == total


def test_tokens_of_the_route_that_auto_stands_for_are_counted():
    """Angles that change with the length of a call leave one route: a full sequence for each answer."""
    config = tiny_llama(torch.float32).config
    window = config.max_position_embeddings
    model = LlamaForCausalLM(stretch_config(config, "dynamic_ntk", 4 * window))
    settings = {"model": model, "target_length": 4 * window, "at_end": True, "dtype": torch.float32}
    told = []
    for share_prompt in (True, False):
        trainer = make_trainer(share_prompt=share_prompt, **settings)
        told.append(trainer.computed_tokens(trainer.pack(some_rows(trainer, 3))))
    assert told[0] == told[1]


def test_predict_gives_the_metrics_of_rows_that_come_with_the_call():
    trainer, rows = make_trainer(), toy_rows(4, seed=9)
    told = trainer.predict(rows).metrics
    assert told["test_loss"] == pytest.approx(trainer.evaluate(rows)["eval_loss"])
    refused(ValueError, "test_dataset has no 'chosen' in row 0", lambda: trainer.predict([{"prompt": "a"}]))


def test_speed_is_that_of_training_alone_and_begins_anew_with_every_run(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(logo, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    args = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
    trainer = make_trainer(eval_rows=toy_rows(3), args=args)
    step, predict = trainer.training_step, trainer.prediction_step

    def taking(seconds, call):
        def slow(*given, **named):
            found = call(*given, **named)
            clock.now += seconds
            return found

        return slow

    monkeypatch.setattr(trainer, "training_step", taking(2.0, step))
    monkeypatch.setattr(trainer, "prediction_step", taking(100.0, predict))
    for _ in range(2):
        clock.now += 1000.0
        trainer.train()
        tokens = [0, *(log["tokens"] for log in logged(trainer))]
        speeds = [log["tokens_per_second"] for log in logged(trainer)]
        assert speeds == [(after - before) / 2.0 for before, after in pairwise(tokens)]


def test_the_peak_of_memory_is_in_bytes_and_never_falls():
    before = process_peak()
    block = torch.ones(30_000_000)
    assert process_peak() >= max(before, block.nbytes)
    assert 50e6 < before < 1e12


# What is refused


BAD = {
    "loss_type": ({"loss_type": "ppo"}, ValueError, "loss_type 'ppo' is unknown: choose one of 'logo'"),
    "position_mode": (
        {"position_mode": "dense"},
        ValueError,
        "position_mode 'dense' is unknown: choose one of 'continuous'",
    ),
    "route": ({"route": "short"}, ValueError, "route 'short' is unknown: choose one of 'auto'"),
    "beta for sft": (
        {"loss_type": "sft", "beta": 1.0},
        ValueError,
        "beta is 1.0 and loss_type is 'sft', which has no beta",
    ),
    "gamma for cpo": (
        {"loss_type": "cpo", "gamma": 1.0},
        ValueError,
        "gamma is 1.0 and loss_type is 'cpo', which has no gamma",
    ),
    "beta below 0": ({"beta": -1.0}, ValueError, "beta is -1.0: give a finite number above 0"),
    "sft_weight below 0": ({"sft_weight": -1.0}, ValueError, "sft_weight is -1.0"),
    "no rejected answers": (
        {"num_rejected": 0},
        ValueError,
        "num_rejected is 0 and loss_type is 'logo': give 1 or more",
    ),
    "released": (
        {"loss_type": "simpo", "released": {"window"}},
        ValueError,
        "released is {'window'} and loss_type is 'simpo'",
    ),
    "deviation": ({"released": {"magic"}}, ValueError, "released is {'magic'}: give a set of 'negatives'"),
    "a string": ({"released": "window"}, ValueError, "released is 'window': give a set of"),
    "negatives": ({"released": {"negatives"}, "num_rejected": 1}, ValueError, "there are 1 rejected answers"),
    "weights": ({"rejected_weights": [1, 1, 1], "num_rejected": 2}, ValueError, "rejected_weights is (3,) and there"),
    "weights below 0": ({"rejected_weights": [1, -1]}, ValueError, "rejected_weights holds no valid weights"),
    "weights for dpo": ({"loss_type": "dpo", "rejected_weights": [1, 1]}, ValueError, "is given with loss_type 'dpo'"),
    "weights and released": (
        {"released": {"window"}, "rejected_weights": [1, 1]},
        ValueError,
        "rejected_weights is given with released {'window'}",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_get_one_sentence_at_once_and_leave_the_model_alone(case):
    changed, error, words = BAD[case]
    model = tiny_llama()
    refused(error, words, lambda: make_trainer(model=model, peft_config=lora_config(rank=2), **changed))
    assert all("lora_" not in name for name, _ in model.named_parameters())


def test_plain_training_arguments_are_told_of_the_config():
    args = TrainingArguments(UNUSED, use_cpu=True)
    words = "args is a TrainingArguments: give a LogoConfig, which takes the same arguments."
    refused(TypeError, words, lambda: LogoTrainer(tiny_llama(), args, toy_rows(4), processing_class=toy_tokenizer()))


def test_columns_of_the_rows_cannot_be_removed():
    refused(ValueError, "remove_unused_columns is True: leave", lambda: LogoConfig(UNUSED, remove_unused_columns=True))


@pytest.mark.parametrize(
    "given", [None, {"dispatch_batches": True}, AcceleratorConfig()], ids=["none", "dict", "object"]
)
def test_the_callers_arguments_stay_as_they_are(given):
    before = copy.deepcopy(given)
    args = LogoConfig(UNUSED, use_cpu=True, accelerator_config=given, released={"window"}, report_to=[])
    assert given == before
    assert args.accelerator_config.dispatch_batches is isinstance(given, dict)
    settings = copy.deepcopy(args.to_dict())
    LogoTrainer(tiny_llama(), args, toy_rows(4), processing_class=toy_tokenizer(), peft_config=lora_config(rank=2))
    assert args.to_dict() == settings
    assert json.loads(args.to_json_string())["released"] == ["window"]


def test_the_trainer_has_at_most_ten_parameters_and_every_setting_has_its_help():
    assert len(inspect.signature(LogoTrainer).parameters) <= 10
    own = [field for field in fields(LogoConfig) if field.name in vars(LogoConfig)["__annotations__"]]
    assert len(own) == 14
    assert all(field.metadata["help"] for field in own)


def test_weights_that_do_not_fit_the_rows_are_refused_when_the_rows_come():
    trainer = make_trainer(rejected_weights=[1.0, 2.0, 3.0])
    refused(ValueError, "rejected_weights is (3,) and there are 2 rejected answers", trainer.train)
