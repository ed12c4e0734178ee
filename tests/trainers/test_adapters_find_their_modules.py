"""Adapters go where the model has its attention, whatever the matrices are called; a name that fits nothing is told."""

import pytest
import torch
from support.families import small_model
from support.logo_toys import make_trainer
from support.reference import refused
from support.tiny_llama import tiny_llama

from minilib.models.adapters import adapted, attention_modules
from minilib.trainers import lora_config
from minilib.trainers.lora import with_adapters

FOUND = {
    "llama": "q_proj k_proj v_proj o_proj",
    "mixtral": "q_proj k_proj v_proj o_proj",
    "phi3": "o_proj qkv_proj",
    "phi": "q_proj k_proj v_proj dense",
    "gpt2": "c_attn attn.c_proj",
    "gpt_bigcode": "c_attn attn.c_proj",
    "gpt_neo": "k_proj v_proj q_proj attention.out_proj",
    "gpt_neox": "query_key_value dense",
    "gptj": "k_proj v_proj q_proj out_proj",
    "falcon": "query_key_value dense",
    "bloom": "query_key_value dense",
    "mpt": "Wqkv out_proj",
    "opt": "k_proj v_proj q_proj out_proj",
    "jamba": "q_proj k_proj v_proj o_proj",
    "rwkv": "attention.key attention.value attention.receptance output",
}


@pytest.mark.parametrize("name", FOUND)
def test_the_matrices_of_attention_are_found_and_only_they_are_adapted(name):
    model = small_model(name)
    found = attention_modules(model)
    assert {part.rpartition(".")[2] for part in found} == {part.rpartition(".")[2] for part in FOUND[name].split()}
    model = with_adapters(model, lora_config(rank=2, modules=found))
    paths = [path for path, _ in model.named_parameters() if "lora_A" in path]
    assert paths
    assert all("attn" in path.lower() or "attention" in path.lower() for path in paths)


def test_one_line_says_what_was_adapted():
    model = with_adapters(tiny_llama(torch.float32), lora_config(rank=2))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    line = f"adapters on q_proj, k_proj, v_proj, o_proj: 8 matrices, {trained:,} of {total:,} parameters train"
    assert adapted(model) == line


def test_a_model_without_attention_asks_for_names():
    refused(ValueError, "without attention: name the modules to adapt", lambda: attention_modules(small_model("mamba")))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"modules": ["q_porj"]},
            "lora_modules has 'q_porj', which no matrix of the model is called: did you mean 'q_proj'? It has",
        ),
        (
            {"modules": ["q_proj", "zzz"]},
            "lora_modules has 'zzz', which no matrix of the model is called: it has down_proj, ",
        ),
        ({"rank": 100_000}, "lora_rank is 100000, more than the adapted matrices can use: give at most 256."),
    ],
)
def test_modules_and_ranks_that_fit_nothing_are_refused_by_the_trainer(changed, words):
    refused(ValueError, words, lambda: make_trainer(peft_config=lora_config(**changed)))


def test_llamas_names_on_a_fused_model_are_refused_with_what_it_has():
    words = "lora_modules has 'k_proj', which no matrix of the model is called: did you mean"
    refused(ValueError, words, lambda: with_adapters(small_model("phi3"), lora_config()))


def test_a_trainer_measures_its_model_before_the_first_step():
    words = "model has final_logit_softcapping=30.0"
    refused(ValueError, words, lambda: make_trainer(model=small_model("gemma2")))
    words = "target_length is 100 and model is a MptForCausalLM, which takes no notice of position ids"
    refused(ValueError, words, lambda: make_trainer(model=small_model("mpt"), target_length=100))
    words = "route is 'cache' and model is a MptForCausalLM, which does not give what it gives for each answer alone"
    refused(ValueError, words, lambda: make_trainer(model=small_model("mpt")))
    assert make_trainer(model=small_model("mpt"), share_prompt=False).train().global_step == 3
    words = "target_length is 1000 and the position table of the GPT2LMHeadModel has 128 positions"
    refused(ValueError, words, lambda: make_trainer(model=small_model("gpt2"), target_length=1_000))


def test_a_step_measures_nothing_anew(monkeypatch):
    trainer = make_trainer(model=tiny_llama(torch.float32), peft_config=lora_config(rank=2), target_length=100)
    monkeypatch.setattr("minilib.longcontext.model_checks._probe", None)
    trainer.train()
