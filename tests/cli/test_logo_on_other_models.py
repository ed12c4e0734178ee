"""`logo` and `eval` on models that are not the tiny one: tried in full before a question is asked, nothing lost after.

Models of two layers with random weights and the tokenizer of the tiny model, a few steps each, in this process.
"""

import json
import re

import pytest
import torch
from support.families import small_model
from support.language_folders import language_folder, own_questions, own_rows, same_logits
from support.logo_runs import minilib, refusal, write_lines

from minilib.cli import logo as command
from minilib.cli import pairs as data_rows
from minilib.cli.settings import LogoSettings, fill
from minilib.models.loading import load_aligned, load_language_model
from minilib.models.tiny_lm import FOLDER

QUICK = ("--steps", 2, "--accumulate", 1, "--lr", 0.01, "--warmup", 0, "--rows", 4, "--num_chunks", 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of the model of this type, made once."""
    root, done = tmp_path_factory.mktemp("models"), {}

    def folder(name, **changed):
        key = json.dumps([name, changed])
        if key not in done:
            done[key] = language_folder(root / f"model{len(done)}", name, **changed)
        return done[key]

    return folder


@pytest.fixture
def pairs(tmp_path):
    return write_lines(tmp_path / "pairs.jsonl", own_rows())


REFUSED = {
    "gpt2": "target_length is 1024 and the position table of the GPT2LMHeadModel has 256 positions: give at most that",
    "opt": "target_length is 1024 and the position table of the OPTForCausalLM has 256 positions",
    "xglm": "target_length is 1024 and the position table of the XGLMForCausalLM has 256 positions",
    "gpt_bigcode": "target_length is 1024 and the position table of the GPTBigCodeForCausalLM has 256 positions",
    "falcon alibi": "target_length is 1024 and model is a FalconForCausalLM, which takes no notice of position ids",
    "gemma2": "model has final_logit_softcapping=30.0, which changes its logits after the head",
    "phi": "model is a PhiForCausalLM whose head has a bias",
}


@pytest.mark.parametrize(("name", "data"), [*((name, "haystack") for name in REFUSED), ("gpt2", "pairs")])
def test_a_model_that_cannot_be_trained_is_told_before_anything_is_answered(name, data, made, pairs, tmp_path, capsys):
    changed = {"n_positions": 256} if name.startswith("gpt") else {}
    flags = ("--data", pairs) if data == "pairs" else ()
    told = refusal(capsys, "logo", "--model", made(name, **changed), "--output", tmp_path / "run", *flags, *QUICK)
    assert REFUSED[name] in told
    assert not (tmp_path / "run" / "pairs.jsonl").exists()
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize("name", ["rwkv", "bloom", "mpt", "mamba"])
def test_a_model_without_positions_is_one_sentence(name, made, pairs, tmp_path, capsys):
    flags = ("--model", made(name), "--output", tmp_path / "run", "--data", pairs, *QUICK)
    assert "which takes no notice of position ids: train at plain positions" in refusal(capsys, "logo", *flags)
    assert "route 'separate' (share_prompt=False)" in refusal(capsys, "logo", *flags, "--target", 0)


def test_a_model_that_names_no_window_is_one_sentence(tmp_path, capsys):
    small_model("mamba").save_pretrained(tmp_path / "mamba")
    told = refusal(capsys, "logo", "--model", tmp_path / "mamba", "--output", tmp_path / "run")
    assert "names no window (max_position_embeddings): choose a model with one." in told


@pytest.mark.parametrize(
    ("name", "modules"),
    [("gpt2", "c_attn, c_proj: 4"), ("phi3", "o_proj, qkv_proj: 4"), ("mixtral", "q_proj, k_proj, v_proj, o_proj: 8")],
)
def test_the_modules_of_any_attention_are_adapted_and_listed(name, modules, made, pairs, tmp_path, capsys):
    changed = {"n_positions": 256} if name == "gpt2" else {}
    where = ("--target", 0) if name == "gpt2" else ()
    minilib("logo", "--model", made(name, **changed), "--output", tmp_path / "run", "--data", pairs, *where, *QUICK)
    out = capsys.readouterr().out
    assert re.search(rf"^adapters on {modules} matrices, [\d,]+ of [\d,]+ parameters train$", out, re.MULTILINE)
    base, after = load_language_model(str(made(name, **changed))), load_aligned(tmp_path / "run")
    assert not same_logits(base.model, after.model, 1e-6)


def test_a_name_that_fits_nothing_is_told_before_the_first_question_and_the_command_may_be_given_again(
    made, tmp_path, monkeypatch, capsys
):
    data = write_lines(tmp_path / "questions.jsonl", own_questions())
    flags = ("--data", data, "--output", tmp_path / "run", "--threshold", 2, "--answer_tokens", 8, "--steps", 2)
    told = refusal(capsys, "logo", *flags, "--lora_modules", "[c_attn]")
    assert "lora_modules has 'c_attn', which no matrix of the model is called" in told
    assert not (tmp_path / "run" / "pairs.jsonl").exists()
    monkeypatch.setattr(command, "run", lambda trainer, output: (_ for _ in ()).throw(ValueError("stopped here")))
    assert "stopped here" in refusal(capsys, "logo", *flags)
    answered = (tmp_path / "run" / "pairs.jsonl").read_bytes()
    monkeypatch.undo()
    monkeypatch.setattr(data_rows, "build_pairs", None)  # nobody asks again
    told = refusal(capsys, "logo", *flags, "--temperature", 0.5)
    assert "was begun with temperature=0.7, this run has temperature=0.5" in told
    told = refusal(capsys, "logo", *flags, "--seed", 5)
    assert "was begun with seed=0, this run has seed=5" in told
    other = ("--lora_modules", "[v_proj]", "--lr", 0.005, "--loss", "simpo", "--target", 600, "--batch_size", 2)
    minilib("logo", *flags, *other, "--save_every", 1)
    assert (tmp_path / "run" / "pairs.jsonl").read_bytes() == answered
    found = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert [found[name] for name in ("lora_modules", "learning_rate", "loss_type")] == [["v_proj"], 0.005, "simpo"]
    told = refusal(capsys, "logo", *flags, *other, "--lr", 0.1)  # it has trained by now
    assert "was begun with learning_rate=0.005, this run has learning_rate=0.1" in told


@pytest.mark.parametrize("rank", [2, 0])
def test_the_try_leaves_the_model_and_the_random_numbers_as_they_were(rank):
    settings = fill(LogoSettings(lora_rank=rank, learning_rate=0.1, gradient_checkpointing=rank == 0), 256)
    loaded = load_language_model("tiny")
    before, state = {name: p.clone() for name, p in loaded.model.named_parameters()}, torch.get_rng_state()
    names = [name for name, _ in loaded.model.named_modules()]
    told = command.try_model(loaded, settings, 224)
    assert told.startswith("adapters on q_proj, k_proj: 6 matrices, ") == bool(rank)
    after = dict(loaded.model.named_parameters())
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(p.grad is None and p.requires_grad for p in after.values())
    assert [name for name, _ in loaded.model.named_modules()] == names
    assert torch.equal(torch.get_rng_state(), state)
    assert not loaded.model.training
    assert not any(getattr(module, "gradient_checkpointing", False) for module in loaded.model.modules())
    assert not hasattr(loaded.model, "peft_config")


def test_a_step_that_fails_is_told_before_the_first_question(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore lines")

    monkeypatch.setattr(command, "_one_step", full)
    told = refusal(capsys, "logo", "--output", tmp_path / "run", *QUICK)
    assert (
        "model 'tiny' could not take one step on a prompt of 224 tokens (OutOfMemoryError: CUDA out of memory." in told
    )
    assert not (tmp_path / "run" / "pairs.jsonl").exists()


def test_a_model_with_sliding_windows_trains_on_full_sequences(made, pairs, tmp_path, capsys):
    flags = ("--model", made("mistral", sliding_window=16), "--data", pairs, "--output", tmp_path / "run", *QUICK)
    assert "choose a model with full attention or route 'separate'" in refusal(capsys, "logo", *flags)
    minilib("logo", *flags, "--share_prompt", "false")
    assert (tmp_path / "run" / "records.json").exists()


# Stretched angles, and merging


@pytest.mark.parametrize("rope", ["yarn", "dynamic_ntk"])
def test_stretched_angles_come_with_the_config_that_peft_needs_and_merge_into_a_plain_folder(
    rope, made, pairs, tmp_path, capsys
):
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    out, base = tmp_path / "run", made("mixtral")
    flags = ("--model", base, "--data", pairs, "--output", out, "--rope", rope, *QUICK)
    minilib("logo", *flags)
    said = capsys.readouterr().out
    assert f"config=AutoConfig.from_pretrained('{out / 'base_config'}')" in said
    assert "--merge true" in said
    aligned = load_aligned(out).model
    config = AutoConfig.from_pretrained(out / "base_config")
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, config=config), out).eval()
    assert same_logits(alone, aligned)
    if rope != "dynamic_ntk":  # which stretches beyond the window only
        assert not same_logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out), aligned, 0)
    before = (out / "adapter_model.safetensors").read_bytes()
    minilib("logo", *flags, "--merge", "true")
    assert f"{out / 'merged'} holds the model with its adapter merged" in capsys.readouterr().out
    assert same_logits(AutoModelForCausalLM.from_pretrained(out / "merged"), aligned)
    assert (out / "adapter_model.safetensors").read_bytes() == before


def test_an_unstretched_adapter_loads_by_peft_alone_to_the_same_logits(made, pairs, tmp_path, capsys):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    minilib("logo", "--model", made("llama"), "--data", pairs, "--output", tmp_path / "run", *QUICK, "--merge", "true")
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(made("llama")), tmp_path / "run").eval()
    assert same_logits(alone, load_aligned(tmp_path / "run").model, 0)
    assert same_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "merged"), alone)
    assert "its angles are stretched" not in capsys.readouterr().out
    assert not (tmp_path / "run" / "base_config").exists()


# eval


def test_eval_keeps_to_a_table_of_positions(made, tmp_path, capsys):
    flags = ("--model", made("gpt2", n_positions=256), "--output", tmp_path, "--samples", 1)
    minilib("eval", *flags)
    found = json.loads((tmp_path / "evaluation.json").read_text())["models"]
    assert next(iter(found.values()))["needle_map"]["lengths"] == [96, 224]
    told = refusal(capsys, "eval", *flags, "--lengths", "[96,480]")
    assert "lengths has 480 and the model's position table 256 positions, 32 of them for question and answer" in told


# Settings


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": ""}, "data '' is no file"),
        ({"seed": 2**70}, f"seed is {2**70}: give a whole number below 2**32."),
        ({"seed": -1}, "seed is -1: give 0 or more."),
        ({"warmup": -5}, "warmup is -5: give 0 or more."),
        ({"answer_tokens": 100_000}, "answer_tokens is 100,000 and the model's window 256 tokens: give less"),
        ({"chunk_size": 100}, "num_chunks is 8 and chunk_size 100, more than the model's window of 256 tokens holds"),
        ({"learning_rate": float("inf")}, "learning_rate is inf: give a finite number."),
        ({"beta": float("nan")}, "beta is nan"),
        ({"temperature": float("nan")}, "temperature is nan: give a finite number."),
        ({"lora_alpha": 0.0}, "lora_alpha is 0.0: give a positive number."),
        ({"merge": True, "lora_rank": 0, "learning_rate": 1.0}, "merge is true and lora_rank 0"),
        ({"lora_modules": []}, "lora_modules is []: name modules of the model, or leave it out."),
        ({"lora_modules": [" "]}, "lora_modules is [' ']: name modules of the model, or leave it out."),
    ],
)
def test_a_setting_that_was_taken_in_silence_is_one_sentence(changed, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        fill(LogoSettings(**changed), 256)


@pytest.mark.parametrize("flags", [("--lora_rank", 10**6), ("--seed", 2**70), ("--data", ""), ("--lora_rank", -1)])
def test_the_command_says_it_at_once(flags, tmp_path, capsys):
    assert flags[0][2:] in refusal(capsys, "logo", "--output", tmp_path / "run", *flags)
    assert not (tmp_path / "run" / "pairs.jsonl").exists()


def test_the_tiny_model_is_as_it_was():
    assert fill(LogoSettings(), 256).lora_modules == ["q_proj", "k_proj"]
    assert load_language_model("tiny").window == 256
    assert (FOLDER / "config.json").exists()
