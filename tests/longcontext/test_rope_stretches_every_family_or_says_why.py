"""Every model and every way to stretch its angles: the angles are as the formula says, or one sentence says why not.

Interpolation by 4 puts position 4 p where p was, which needs no formula to check: the whole model gives the same there.
"""

import math

import pytest
import torch
from support.families import CLASSES, pack_and_rows, small_config, small_model

from minilib.longcontext.rope import METHODS, stretch_config
from minilib.models.loading import check_stretched

FAMILIES = """llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma, phi, phi3, gpt_neox, olmo, olmo2, starcoder2,
    stablelm, cohere, granite, glm, glm4, nemotron, smollm3, persimmon, gemma3_text, gemma4_text, gpt_oss, deepseek_v3,
    exaone4, llama yarn, phi3 longrope, modernbert-decoder, gpt2, gptj, opt, bloom, mpt, rwkv, mamba, falcon, jamba"""
CANNOT = {"gemma3_text", "gemma4_text", "gpt_oss", "llama yarn", "phi3 longrope", "modernbert-decoder"}
CANNOT |= {"gpt2", "gptj", "opt", "bloom", "mpt", "rwkv", "mamba", "jamba"}


def stretched(name, method, target):
    """The model, and one of the same weights under the stretched config."""
    config = small_config(name)
    config = stretch_config(config, method, target)
    model = small_model(name)
    torch.manual_seed(0)
    other = CLASSES[name.split()[0]][1](type(config)(**config.to_dict())).eval()  # as from a file
    other.load_state_dict(model.state_dict())
    check_stretched(other, small_config(name), method)
    return model, other


def said(call):
    with pytest.raises(ValueError) as error:
        call()
    return str(error.value)


def rotary(model):
    return next(module for module in model.modules() if hasattr(module, "inv_freq"))


@pytest.mark.parametrize("name", [name.strip() for name in FAMILIES.split(",")])
def test_angles_are_stretched_as_the_formula_says_or_a_sentence_says_why_not(name):
    ids = pack_and_rows(14)[1][0][None]
    for method in METHODS[1:]:
        if name in CANNOT or (name == "phi3" and method != "ntk"):  # whose config takes LongRoPE alone
            assert len(said(lambda method=method: stretched(name, method, 512)).splitlines()) == 1
            continue
        plain, other = stretched(name, method, 512)
        before, after = rotary(plain), rotary(other)
        near, far = (torch.arange(ids.shape[1])[None] * step for step in (1, 4))
        mask = torch.ones_like(ids)
        with torch.no_grad():
            original = plain(input_ids=ids, position_ids=near, attention_mask=mask).logits
            moved = other(
                input_ids=ids, position_ids=near if method != "dynamic_ntk" else near * 20, attention_mask=mask
            ).logits
            if method == "interpolation":
                at = other(input_ids=ids, position_ids=far, attention_mask=mask).logits
                torch.testing.assert_close(at, original, rtol=0, atol=1e-5)
        assert (moved - original).abs().max() > 0
        if method == "ntk":  # the slowest angle is that of interpolation, the fastest stays
            assert after.inv_freq[0] == before.inv_freq[0]
            assert (after.inv_freq[-1] * 4 / before.inv_freq[-1]).item() == pytest.approx(1, rel=1e-4)
        if method == "yarn":
            assert after.attention_scaling == pytest.approx(0.1 * math.log(4) + 1)


def test_settings_that_a_model_ignores_are_told():
    model = small_model("llama")
    with pytest.raises(ValueError, match="the angles of a LlamaForCausalLM do not follow the settings of its config"):
        check_stretched(model, small_config("llama"), "yarn")
