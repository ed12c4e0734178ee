"""Proves that the towers give a pair the same features in whatever company it comes, and that they can learn.

Company means the micro-batch: the gradient cache cuts a batch into pieces and runs each piece twice, so a feature that
depends on its neighbours (batch statistics, unmasked padding) would give another loss. The adaptor for transformers is
held to the same promise with a tiny CLIP and a tiny SigLIP of random weights, built here.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minilib.data import render_digits, render_scenes
from minilib.models import HFTowers, TwoTowers
from minilib.models.towers import words_of


@pytest.fixture(scope="module")
def scenes():
    return render_scenes(40, seed=2)


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    return TwoTowers().double()


def test_features_are_unit_vectors_of_the_size_asked_for(scenes):
    towers = TwoTowers(dim=24, width=16)
    img, txt = towers(*scenes)
    assert img.shape == txt.shape == (40, 24)
    torch.testing.assert_close(img.norm(dim=-1), torch.ones(40))
    torch.testing.assert_close(txt.norm(dim=-1), torch.ones(40))


@pytest.mark.parametrize("piece", [1, 3, 7])
def test_cutting_a_batch_into_pieces_changes_no_feature(towers, scenes, piece):
    images, captions = scenes
    img, txt = towers(images, captions)
    img_cut = torch.cat([towers.encode_image(part) for part in images.split(piece)])
    txt_cut = torch.cat([towers.encode_text(captions[k : k + piece]) for k in range(0, 40, piece)])
    torch.testing.assert_close(img_cut, img, rtol=0, atol=1e-12)
    torch.testing.assert_close(txt_cut, txt, rtol=0, atol=1e-12)


def test_no_layer_keeps_statistics_of_the_batch(towers):
    assert not any(isinstance(layer, nn.modules.batchnorm._NormBase) for layer in towers.modules())
    assert not list(towers.buffers())


def test_the_order_of_words_matters(towers):
    there, back = towers.encode_text(["a red ring above a blue square", "a blue square above a red ring"])
    assert (there - back).abs().max() > 1e-3
    same, again = towers.encode_text(["a red ring", "A  red RING"])
    assert torch.equal(same, again)


def test_unknown_words_share_one_place_and_long_captions_lose_their_end():
    towers = TwoTowers(["sun", "moon"], max_words=3)
    assert towers.tokenize(["sun moon star", "moon"]).tolist() == [[3, 2, 1], [2, 0, 0]]
    assert torch.equal(towers.tokenize(["sun sun sun moon"]), towers.tokenize(["sun sun sun"]))
    assert towers.encode_text([""]).isfinite().all()


def test_scripts_without_blanks_are_read_character_by_character():
    assert words_of("答案是北京市") == list("答案是北京市")
    assert words_of("Ein Bild von 北京, sehr schön") == ["ein", "bild", "von", "北", "京", ",", "sehr", "schön"]
    assert words_of("ねこ が") == ["ね", "こ", "が"]
    assert words_of("แมว") == ["แ", "ม", "ว"]
    assert words_of("A red  RING's edge-case 12,000") == ["a", "red", "ring's", "edge-case", "12,000"]
    towers = TwoTowers(words_of("一只红色的猫在桌子上"))
    assert not torch.equal(towers.encode_text(["一只猫"]), towers.encode_text(["一只桌"]))


def test_captions_of_scenes_have_the_words_that_they_always_had():
    assert all(words_of(text) == text.lower().split() for text in render_scenes(300)[1] + render_digits(100)[1])


def test_the_default_vocabulary_knows_scenes_and_digits():
    towers = TwoTowers()
    captions = render_scenes(300)[1] + render_digits(100)[1]
    assert (towers.tokenize(captions) != 1).all()


def test_bytes_and_floats_of_one_picture_agree(towers, scenes):
    images, _ = scenes
    torch.testing.assert_close(towers.encode_image(images), towers.encode_image(images.double() / 255))


def test_either_side_may_be_left_out(towers, scenes):
    images, captions = scenes
    assert towers(images)[1] is None
    assert towers(captions=captions)[0] is None


def test_scale_and_bias_start_where_the_papers_start():
    towers = TwoTowers()
    assert towers.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert towers.logit_bias.item() == -10
    assert TwoTowers(init_scale=10).logit_scale.item() == pytest.approx(math.log(10))


def test_dropout_acts_in_training_only(scenes):
    towers = TwoTowers(dropout=0.5)
    assert not torch.equal(towers(*scenes)[0], towers(*scenes)[0])
    towers.eval()
    assert torch.equal(towers(*scenes)[0], towers(*scenes)[0])


def test_larger_pictures_have_towers_of_their_own():
    images, captions = render_scenes(2, image_size=48)
    assert TwoTowers(image_size=48)(images, captions)[0].shape == (2, 64)


def test_every_parameter_gets_a_gradient(scenes):
    towers = TwoTowers()
    img, txt = towers(*scenes)
    logits = towers.logit_scale.exp() * img @ txt.T + towers.logit_bias
    F.binary_cross_entropy_with_logits(logits, torch.eye(len(img))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in towers.parameters())


def test_a_pair_costs_a_few_million_operations():
    from torch.utils.flop_counter import FlopCounterMode

    images, captions = render_scenes(8)
    with FlopCounterMode(display=False) as counter:
        TwoTowers()(images, captions)
    assert counter.get_total_flops() / 8 < 5e6


def test_two_hundred_steps_learn_to_match_scenes():
    torch.manual_seed(0)
    images, captions = render_scenes(12_800 + 200, objects=(1, 2))
    towers = TwoTowers()
    optimizer = torch.optim.AdamW(towers.parameters(), lr=2e-3)
    for k in range(0, 12_800, 64):
        img, txt = towers(images[k : k + 64], captions[k : k + 64])
        logits, own = towers.logit_scale.exp() * img @ txt.T, torch.arange(64)
        optimizer.zero_grad()
        (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)).backward()
        optimizer.step()
    img, txt = towers(images[-200:], captions[-200:])
    found = ((img @ txt.T).argmax(1) == torch.arange(200)).double().mean().item()
    assert found > 0.2, f"recall@1 is {found:.3f}, chance is 0.005"


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"vocabulary": "red"}, TypeError, "vocabulary must be a non-empty list of words, got 'red'"),
        ({"vocabulary": []}, TypeError, "vocabulary must be a non-empty list of words"),
        ({"vocabulary": [3]}, TypeError, "vocabulary must be a non-empty list of words"),
        ({"dim": 0}, ValueError, "dim must be an integer of at least 1, got 0"),
        ({"width": 2.5}, ValueError, "width must be an integer of at least 1, got 2.5"),
        ({"max_words": 0}, ValueError, "max_words must be an integer of at least 1"),
        ({"image_size": 36}, ValueError, "image_size must be a multiple of 8 of at least 32, got 36"),
        ({"init_scale": 0}, ValueError, "init_scale must be above 0 and finite, got 0"),
        ({"dropout": 1.0}, ValueError, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_settings_are_named_in_one_sentence(settings, error, says):
    with pytest.raises(error, match=says):
        TwoTowers(**{**settings})


def test_bad_images_and_captions_are_named_in_one_sentence(towers):
    with pytest.raises(ValueError, match=r"images must have shape \(k, 3, 32, 32\), got \(2, 3, 16, 16\)"):
        towers.encode_image(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"images must be uint8 or floating point, got torch.int64"):
        towers.encode_image(torch.zeros(2, 3, 32, 32, dtype=torch.int64))
    with pytest.raises(TypeError, match="captions must be a list of strings, got str"):
        towers.encode_text("a red ring")
    with pytest.raises(TypeError, match="captions must be a list of strings, got list"):
        towers.encode_text(["a", 3])


TINY = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<end>", *sorted({w for c in render_scenes(300)[1] for w in c.split()})]
    built = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<end>", "model_max_length": 24}
    return PreTrainedTokenizerFast(tokenizer_object=built, **names)


def tiny_clip():
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    text = {**TINY, "vocab_size": 60, "max_position_embeddings": 24, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config={**TINY, "image_size": 32, "patch_size": 8}, projection_dim=12)
    return CLIPModel(config), CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32), tokenizer())


def tiny_siglip():
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    text = {**TINY, "vocab_size": 60, "max_position_embeddings": 24, "projection_size": 16, "pad_token_id": 0}
    config = SiglipConfig(text_config=text, vision_config={**TINY, "image_size": 32, "patch_size": 8})
    return SiglipModel(config), SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer())


@pytest.mark.parametrize("build", [tiny_clip, tiny_siglip])
def test_a_model_of_transformers_answers_to_the_same_names(build, scenes):
    images, captions = scenes[0][:6], scenes[1][:6]
    model, processor = build()
    towers = HFTowers(model, processor, padding=True if build is tiny_clip else "max_length").eval()
    img, txt = towers(images, captions)
    torch.testing.assert_close(img.norm(dim=-1), torch.ones(6))
    torch.testing.assert_close(txt.norm(dim=-1), torch.ones(6))
    torch.testing.assert_close(towers.encode_image(images[2:3]), img[2:3], rtol=0, atol=1e-5)
    torch.testing.assert_close(towers.encode_text(captions[2:3]), txt[2:3], rtol=0, atol=1e-5)
    assert towers.logit_scale is model.logit_scale
    assert (towers.logit_bias is None) == (build is tiny_clip)


def test_the_adaptor_agrees_with_the_models_own_similarities(scenes):
    model, processor = tiny_clip()
    images, captions = scenes[0][:5], scenes[1][:5]
    towers = HFTowers(model.eval(), processor)
    inputs = processor(text=captions, images=list(images), return_tensors="pt", padding=True)
    own = model(**inputs).logits_per_image
    img, txt = towers(images, captions)
    torch.testing.assert_close(towers.logit_scale.exp() * img @ txt.T, own, rtol=1e-4, atol=1e-4)


def test_training_the_adaptor_trains_the_model(scenes):
    model, processor = tiny_clip()
    img, txt = HFTowers(model, processor)(scenes[0][:4], scenes[1][:4])
    (img * txt).sum().backward()
    assert model.visual_projection.weight.grad.abs().sum() > 0
    assert model.text_projection.weight.grad.abs().sum() > 0


def test_the_adaptor_names_what_is_lacking():
    model, processor = tiny_clip()
    with pytest.raises(TypeError, match=r"model must offer .* got Linear without get_image_features"):
        HFTowers(nn.Linear(2, 2), processor)
    with pytest.raises(TypeError, match=r"processor must offer .* without image_processor"):
        HFTowers(model, tokenizer())
    with pytest.raises(ValueError, match="images must be uint8 with shape"):
        HFTowers(model, processor).encode_image(torch.zeros(2, 3, 32, 32))
    with pytest.raises(TypeError, match="captions must be a list of strings"):
        HFTowers(model, processor).encode_text("one caption")
