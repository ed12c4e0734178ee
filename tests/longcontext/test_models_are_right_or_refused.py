"""Whatever architecture comes, its log-probabilities are those of the model's own logits, or one sentence says no.

The families are classes of transformers with random weights. The judge runs every answer alone, behind its full prompt,
through the model itself. Each family is tried inside and beyond the windows that it has, and at positions with a gap.
"""

import copy
import time

import pytest
import torch
from support.families import CLASSES, logps_alone, pack_and_rows, small_config, small_model
from support.reference import refused
from support.tiny_llama import VOCABULARY, tiny_llama

from minilib.common import Notice
from minilib.longcontext import answer_hidden, pack_answers, stack_packed
from minilib.longcontext import model_checks as checks
from minilib.longcontext.scoring import head_weight, sequence_logps

ROUTES = ("cache", "mask", "separate")
# Right on every route.
PLAIN = """llama, qwen2, qwen3, qwen3_moe, gemma, gpt2, gpt_neox, gpt_bigcode, opt, xglm, falcon, falcon new, olmo,
    olmo2, stablelm, glm, glm4, granite, granitemoe, nemotron, smollm3, persimmon, biogpt, ernie4_5, helium,
    deepseek_v2, deepseek_v3, diffllama, jetmoe, seed_oss, arcee, apertus, llama yarn, phi3 longrope"""
# Right inside of their sliding window of 16 tokens, and as full sequences beyond it.
SLIDING = """mistral, mixtral, gemma3_text, gemma4_text, phi3, olmo3, starcoder2, exaone4, gpt_oss, gemma2 uncapped,
    cohere2 unscaled, qwen2 sliding"""
# Right as full sequences at plain positions, a sentence behind a shared prompt.
SEPARATE = """bloom, mpt, rwkv, mamba, mamba2, falcon_mamba, openai-gpt, bamba, jamba, qwen3_next, gpt_neo,
    falcon alibi"""
# A sentence on every route: their logits are more than hidden states times a matrix, or they have no usable decoder.
REFUSED = """gptj, codegen, phi, gemma2, cohere, cohere2, bert, roberta, bart, xlnet, ctrl, recurrent_gemma, xlstm,
    vaultgemma"""


def names(listed):
    return [name.strip() for name in listed.split(",")]


def tried(model, route, length, gap=0):
    """How far the route is from the judge, or the sentence that it says instead."""
    pack, rows, positions = pack_and_rows(length, gap)
    try:
        with torch.no_grad():
            got = sequence_logps(model, pack, route=route)[0].double()
    except ValueError as error:
        sentence = str(error)
        return sentence if sentence.endswith(".") and "\n" not in sentence else f"not one sentence: {sentence!r}" * 99
    return (got - logps_alone(model, rows, length - 8, positions)).abs().max().item()


@pytest.mark.parametrize("name", [*names(PLAIN), *names(SLIDING)])
def test_a_plain_family_is_right_on_every_route(name):
    model = small_model(name)
    for route in ROUTES:
        assert tried(model, route, 14) < 1e-4
        assert tried(model, route, 14, gap=2) < 1e-4
        beyond = tried(model, route, 34)
        if name in names(SLIDING) and route != "separate":
            assert "choose a model with full attention or route 'separate'" in beyond
        else:
            assert beyond < 1e-4


@pytest.mark.parametrize("name", names(SEPARATE))
def test_a_family_that_cannot_share_a_prompt_says_so_and_is_right_apart(name):
    model = small_model(name)
    for route in ROUTES:
        for length in (14, 34):
            found = tried(model, route, length)
            if isinstance(found, str):
                assert route != "separate", found
                assert "route 'separate'" in found
            else:
                assert found < 1e-4
        assert isinstance(tried(model, route, 34), float) == (route == "separate")
        assert isinstance(found_at_a_gap := tried(model, route, 14, gap=3), str) or found_at_a_gap < 1e-4


@pytest.mark.parametrize("name", names(REFUSED))
def test_a_family_with_another_head_is_one_sentence(name):
    model = small_model(name)
    for route in ROUTES:
        assert isinstance(tried(model, route, 14), str)


def test_there_are_sixty_architectures_here():
    tried_here = {name.split()[0] for listed in (PLAIN, SLIDING, SEPARATE, REFUSED) for name in names(listed)}
    assert len(tried_here) >= 60
    assert tried_here <= set(CLASSES)


# What was found wrong or unclear, one by one


def nested_gemma(cap):
    """A Gemma 4 with towers for text only, whose soft cap stands in the config within the config."""
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    text = small_config("gemma4_text", final_logit_softcapping=cap).to_dict()
    torch.manual_seed(0)
    return Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=None, audio_config=None)).eval()


def test_a_soft_cap_in_a_nested_config_is_refused_and_without_it_the_model_is_right():
    for route in ROUTES:
        assert "model has final_logit_softcapping=3.0, which changes its logits" in tried(nested_gemma(3.0), route, 14)
        assert tried(nested_gemma(None), route, 14) < 1e-4


@pytest.mark.parametrize("change", ["scale", "bias behind the head", "cap"])
def test_a_head_with_something_behind_it_is_measured_whatever_its_name(change):
    model = tiny_llama(torch.float32)
    forward = type(model).forward

    def changed(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        moves = {"scale": 1.01 * out.logits, "cap": 5 * torch.tanh(out.logits / 5)}
        out.logits = moves.get(change, out.logits + torch.linspace(0, 1, VOCABULARY))
        return out

    model.__class__ = type("Other", (type(model),), {"forward": changed})
    refused(ValueError, "whose logits are more than its head (log-prob", lambda: head_weight(model))


@pytest.mark.parametrize("lengths", [(5, 2), (5, 5), (4, 4)])
def test_longrope_is_right_where_the_answer_crosses_its_original_window(lengths):
    model, prompt = small_model("phi3 longrope"), torch.arange(3, 43)  # 40 tokens before a window of 44
    answers = [torch.arange(50, 50 + length) for length in lengths]
    pack, rows = pack_answers(prompt, answers), [torch.cat([prompt, answer]) for answer in answers]
    with torch.no_grad():
        got = sequence_logps(model, pack)[0].double()
    assert (got - logps_alone(model, rows, 40)).abs().max() < 1e-5
    if max(lengths) == 5:
        words = "rotary angles change with the length of a call beyond 44 positions"
        refused(ValueError, words, lambda: sequence_logps(model, pack, route="cache"))
        refused(ValueError, words, lambda: sequence_logps(model, pack, route="mask"))


@pytest.mark.parametrize("name", ["llama dynamic", "phi3 longrope"])
def test_angles_that_follow_the_length_are_right_after_longer_calls_too(name):
    model = small_model(name)
    for length in (60, 50, 14):
        pack, rows, _ = pack_and_rows(length)
        with torch.no_grad():
            got = sequence_logps(model, pack)[0].double()
        alone = [
            logps_alone(small_model(name), [row], length - 8) for row in rows
        ]  # a model that has seen nothing else
        assert (got - torch.cat(alone)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "opt", "xglm", "gpt_bigcode", "gpt_neo", "biogpt"])
def test_a_table_of_positions_is_found_and_named(name):
    model = small_model(name)
    assert checks.own_forward(model).table == 128
    fits, long = pack_and_rows(128)[0], pack_and_rows(140)[0]
    with torch.no_grad():
        assert len(answer_hidden(model, fits, "separate")) == 8
    words = "the position table of the GPT2LMHeadModel has 128 positions" if name == "gpt2" else "the position table of"
    refused(ValueError, f"the layout runs to position 136 and {words}", lambda: answer_hidden(model, long, "separate"))
    checks.check_positions_fit(model, 128)
    refused(
        ValueError, "target_length is 129 and the position table of the", lambda: checks.check_positions_fit(model, 129)
    )


def test_padding_beyond_the_table_is_no_position():
    model, long = small_model("gpt2"), pack_and_rows(128)[0]
    short = pack_answers([3, 4], [[5], [6]], [100, 119])  # padding would count on to position 244
    with torch.no_grad():
        for route in ROUTES:
            both = answer_hidden(model, stack_packed([short, long]), route)
            torch.testing.assert_close(both[:2], answer_hidden(model, short, route), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["rwkv", "mpt", "bloom", "falcon alibi", "mamba"])
def test_a_target_is_refused_where_positions_do_not_reach_the_model(name):
    model = small_model(name)
    words = "takes no notice of position ids: train at plain positions"
    refused(ValueError, words, lambda: checks.check_positions_fit(model, 1_000))
    pack = pack_and_rows(14, gap=3)[0]
    words = "takes no notice of position ids: leave prompt_positions out."
    refused(ValueError, words, lambda: sequence_logps(model, pack, route="separate"))


# How it is measured


def test_a_model_is_measured_once_and_left_as_it_was(monkeypatch):
    model, pack = tiny_llama(torch.float32).train(), pack_and_rows(14, vocabulary=VOCABULARY)[0]
    model.model.layers[0].eval()
    calls, modes = [], [module.training for module in model.modules()]
    model.get_decoder().register_forward_pre_hook(lambda module, args: calls.append(module))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    measured = []
    monkeypatch.setattr(checks, "_probe", lambda model, old=checks._probe: measured.append(model) or old(model))
    head_weight(model)
    checks.own_forward(model)
    assert (calls, len(measured)) == ([], 1)
    for _ in range(3):
        sequence_logps(model, pack)
    assert len(measured) == 2  # and the route
    assert len(calls) == 3 * 2  # prompt and answers, each time
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.config.rope_parameters = model.config.rope_parameters | {"rope_theta": 5.0}
    head_weight(model)
    assert len(measured) == 3  # another config, another model


def test_a_deep_model_in_bf16_is_measured_on_a_few_layers_in_fp32(monkeypatch):
    model = small_model(
        "gemma3_text", num_hidden_layers=12, layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 2
    )
    seen = []
    monkeypatch.setattr(checks, "_full", lambda probe, *rest, old=checks._full: seen.append(probe) or old(probe, *rest))
    pack = pack_and_rows(14)[0]
    with torch.no_grad():
        sequence_logps(model.bfloat16(), pack)
    assert {len(probe.model.layers) for probe in seen} == {6}
    assert {probe.dtype for probe in seen} == {torch.float32}
    assert len(model.model.layers) == 12
    assert model.dtype == torch.bfloat16


def test_weights_that_are_not_here_are_trusted_and_told():
    model = tiny_llama(torch.float32).to("meta")
    with pytest.warns(
        Notice, match="model is a LlamaForCausalLM and has weights that are quantised, sharded or not he"
    ):
        assert checks.own_forward(model) == checks.Own()


@pytest.mark.parametrize(("name", "setting"), [("gpt_neo", "window_size"), ("doge", "keep_window_size")])
def test_a_window_of_any_name_and_size_is_measured_once_a_layout_exceeds_it(name, setting):
    model = small_model(name, max_position_embeddings=2_000, sliding_window=None, **{setting: 600})
    assert tried(model, "cache", 590) < 1e-4
    assert "in a layout of more than 600 tokens does not give" in tried(model, "cache", 700)


def test_damaged_weights_are_told():
    model = tiny_llama(torch.float32)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    refused(ValueError, "its logits are not finite, so its weights are damaged", lambda: head_weight(model))


def test_measuring_a_small_model_takes_less_than_a_second():
    model = tiny_llama(torch.float32)
    began = time.perf_counter()
    sequence_logps(model, pack_and_rows(14, vocabulary=VOCABULARY)[0])
    assert time.perf_counter() - began < 1
