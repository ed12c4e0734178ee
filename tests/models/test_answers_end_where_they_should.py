"""Answers stop at every end, padding is no token of anybody, and what does not fit a model is refused in a sentence.

The models have random weights; where one must say something known, its head is set by hand.
"""

import pytest
import torch
from support.logo_toys import toy_tokenizer
from support.reference import refused
from support.tiny_llama import tiny_llama
from support.toy_tokenizers import chatty
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from minilib.models.generation import make_answer_fn, position_table
from minilib.models.tiny_lm import tiny_lm

PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]


def counting(tokenizer, rows=None):
    """A model that says the id after the last one, w1 w2 w3 ..., whatever stands before."""
    size = rows or len(tokenizer)
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, head_dim=8,
        max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(torch.eye(size).roll(1, 0))
    return model


def word(tokenizer, name):
    return tokenizer.convert_tokens_to_ids(name)


def test_answers_stop_at_every_end_of_the_generation_config():
    tokenizer = toy_tokenizer()
    model = counting(tokenizer)
    assert make_answer_fn(model, tokenizer, max_new_tokens=4)(["w1"]) == ["w2 w3 w4 w5"]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, word(tokenizer, "w4")]
    assert make_answer_fn(model, tokenizer, max_new_tokens=6)(["w1", "w2 w2", "w8"]) == [
        "w2 w3",
        "w3",
        "w9 w10 w11 w12 w13 w14",
    ]
    model.generation_config.eos_token_id = word(tokenizer, "w4")
    assert make_answer_fn(model, tokenizer, max_new_tokens=6)(["w1"]) == ["w2 w3"]


def test_answers_stop_where_the_chat_template_ends_a_turn():
    tokenizer = chatty()
    model = counting(tokenizer)
    end = word(tokenizer, "<|im_end|>")
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[end].fill_(1)
    assert model.generation_config.eos_token_id != end
    assert make_answer_fn(model, tokenizer, max_new_tokens=5)([[{"role": "user", "content": "What?"}]]) == [""]


def test_padding_is_never_said_nor_beyond_the_embedding():
    tokenizer = toy_tokenizer()
    model = counting(tokenizer, rows=61)
    model.generation_config.eos_token_id = word(tokenizer, "w9")
    expected = ["w4 w5 w6 w7 w8", "w5 w6 w7 w8", "w10 w11 w12 w13 w14 w15"]
    ask = make_answer_fn(model, tokenizer, max_new_tokens=6)
    assert ask(PROMPTS) == expected
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})  # nobody has resized the model
    assert tokenizer.pad_token_id >= 61
    assert make_answer_fn(model, tokenizer, max_new_tokens=6)(PROMPTS) == expected
    tokenizer.pad_token = tokenizer.eos_token = None
    assert make_answer_fn(model, tokenizer, max_new_tokens=6)(PROMPTS) == expected


def test_padding_does_not_touch_the_answer_where_id_0_is_a_word():
    tokenizer = toy_tokenizer()
    model = tiny_llama(torch.float32)
    together = make_answer_fn(model, tokenizer, max_new_tokens=6)(PROMPTS)
    assert together == [make_answer_fn(model, tokenizer, max_new_tokens=6)([prompt])[0] for prompt in PROMPTS]


def test_answering_reads_the_prompt_that_training_reads(monkeypatch):
    from minilib.trainers.collator import PairCollator

    tokenizer, seen = toy_tokenizer(bos=True), []
    model = tiny_llama(torch.float32)
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda ids, **more: seen.append(ids) or generate(ids, **more))
    for prompt in ("w1 w2", "<bos> w1 w2"):
        make_answer_fn(model, tokenizer)([prompt])
        row = {"prompt": prompt, "chosen": " w3", "rejected": [" w4"], "number": 0}
        assert (
            seen.pop()[0].tolist()
            == PairCollator(tokenizer).tokenize(row).prompt
            == [2, *word(tokenizer, ["w1", "w2"])]
        )


def gpt2(positions=32):
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_positions=positions, n_embd=16, n_layer=1, n_head=2)).eval()


def test_a_prompt_beyond_the_position_table_is_named():
    ask = make_answer_fn(gpt2(), toy_tokenizer(), max_new_tokens=4)
    assert len(ask(["w1 " * 28])) == 1
    words = "prompts[1] has 29 tokens, 4 more are to come, and the model's table has 32 positions: shorten the prompt"
    refused(ValueError, words, lambda: ask(["w1", "w1 " * 29]))


def test_a_model_that_computes_its_positions_has_no_table():
    assert position_table(tiny_llama()) is None
    assert position_table(gpt2()) == 32
    assert len(make_answer_fn(tiny_llama(torch.float32), toy_tokenizer())(["w1 " * 200])) == 1


@pytest.mark.parametrize("model", [gpt2, tiny_llama])
def test_more_answer_tokens_than_the_window_are_refused(model):
    words = "max_new_tokens is 100,000 and the model reads"
    refused(ValueError, words, lambda: make_answer_fn(model(), toy_tokenizer(), max_new_tokens=100_000))


def test_an_empty_prompt_is_named():
    refused(
        ValueError,
        "prompts[1] has no tokens, got ''",
        lambda: make_answer_fn(tiny_llama(), toy_tokenizer())(["w1", ""]),
    )


def test_answers_are_the_likeliest_tokens_whatever_comes_with_the_model():
    model, tokenizer = tiny_lm()
    prompts = ["Oslo keeps tea. Question: What does Oslo keep? Answer:"]
    plain = make_answer_fn(model, tokenizer, max_new_tokens=6)(prompts)
    kept = model.generation_config
    for name, value in {"repetition_penalty": 8.0, "num_beams": 3, "no_repeat_ngram_size": 2}.items():
        setattr(kept, name, value)
    assert make_answer_fn(model, tokenizer, max_new_tokens=6)(prompts) == plain
