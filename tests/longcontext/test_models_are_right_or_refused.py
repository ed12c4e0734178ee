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

from minilib.longcontext import answer_hidden, pack_answers
from minilib.longcontext import model_checks as checks
from minilib.longcontext.scoring import head_weight, sequence_logps

ROUTES = ("cache", "mask", "separate")
# Right on every route, inside of a sliding window of 16 tokens where they have one.
PLAIN = """
    llama mistral mixtral qwen2 qwen3 qwen3_moe gemma gemma3_text gemma4_text phi3 gpt2 gpt_neox gpt_bigcode opt xglm
    falcon olmo olmo2 olmo3 starcoder2 stablelm glm glm4 granite granitemoe nemotron smollm3 persimmon biogpt exaone4
    ernie4_5 helium gpt_oss deepseek_v2 deepseek_v3 diffllama jetmoe seed_oss arcee apertus
""".split()
PLAIN += ["falcon new", "llama yarn", "gemma2 uncapped", "cohere2 unscaled", "qwen2 sliding", "phi3 longrope"]
SLIDING = {"mistral", "mixtral", "gemma3_text", "gemma4_text", "phi3", "olmo3", "starcoder2", "exaone4", "gpt_oss"}
SLIDING |= {"gemma2 uncapped", "cohere2 unscaled", "qwen2 sliding"}
# Right as full sequences at plain positions, a sentence behind a shared prompt.
SEPARATE = "bloom mpt rwkv mamba mamba2 falcon_mamba openai-gpt bamba jamba qwen3_next gpt_neo".split()
SEPARATE += ["falcon alibi"]
# A sentence on every route: their logits are more than hidden states times a matrix, or they have no usable decoder.
REFUSED = "gptj codegen phi gemma2 cohere cohere2 bert roberta bart xlnet ctrl recurrent_gemma xlstm vaultgemma".split()


def tried(model, route, length, gap=0):
    """How far the route is from the judge, or the sentence that it says instead."""
    pack, rows, positions = pack_and_rows(length, gap)
    try:
        with torch.no_grad():
            got = sequence_logps(model, pack, route=route)[0].double()
    except ValueError as error:
        assert "\n" not in str(error)
        assert str(error).endswith(".")
        return str(error)
    return (got - logps_alone(model, rows, length - 8, positions)).abs().max().item()


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_family_is_right_on_every_route(name):
    model = small_model(name)
    for route in ROUTES:
        assert tried(model, route, 14) < 1e-4
        assert tried(model, route, 14, gap=2) < 1e-4
        beyond = tried(model, route, 34)
        if name in SLIDING and route != "separate":
            assert "choose a model with full attention or route 'separate'" in beyond
        else:
            assert beyond < 1e-4


@pytest.mark.parametrize("name", SEPARATE)
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


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_with_another_head_is_one_sentence(name):
    model = small_model(name)
    for route in ROUTES:
        assert isinstance(tried(model, route, 14), str)


def test_there_are_more_than_sixty_architectures_here():
    names = {name.split()[0] for name in (*PLAIN, *SEPARATE, *REFUSED)}
    assert len(names) >= 60
    assert names <= set(CLASSES)
