"""`clip --model` trains encoders of transformers, and plain transformers loads what it has written with equal recall.

Three families with random weights: CLIP, SigLIP, and a vision with a text encoder. Recall by plain transformers is
computed here with transformers' own calls, without the adaptor of minilib.
"""

import json
import re
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import toy_encoders
from torch.nn import functional as F

import minilib.__main__ as main_module
from minilib.data import load_pairs
from minilib.evals import recall_at_k
from minilib.models import HFTowers
from minilib.models.encoders import join_towers, load_towers, make_augment, try_out
from minilib.trainers import ContrastiveTrainer

QUICK = ("--batch_size", 8, "--steps", 2, "--micro_batch_size", 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve pictures of a few sizes, each with its caption."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    rows = []
    for k in range(12):
        pixels = generator.integers(0, 256, (20 + k, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        rows.append({"file_name": f"{k}.png", "caption": f"picture {k // 10} {k % 10} the red"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    vit, bert = toy_encoders.vit_folder(root / "vit"), toy_encoders.bert_folder(root / "bert")
    return {
        "clip": ["--model", toy_encoders.clip_folder(root / "clip")],
        "siglip": ["--model", toy_encoders.siglip_folder(root / "siglip")],
        "pair": ["--image_model", vit, "--text_model", bert, "--dim", 8],
    }


def minilib(*arguments):
    main_module.main([str(argument) for argument in arguments])


def told(capsys, *arguments) -> str:
    """The sentence that ends the command."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        minilib(*arguments)
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("minilib: ")]
    assert len(lines) == 1, lines
    return lines[0]


def plain_recall(folder, data) -> dict:
    """Recall with transformers' own classes and calls."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).eval()
    tokenizer, images = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    rows = load_pairs(data, image_size=None)[:]
    padding = "max_length" if hasattr(model, "logit_bias") else True
    text = tokenizer(rows["caption"], padding=padding, truncation=True, return_tensors="pt")
    text.pop("token_type_ids", None)
    with torch.no_grad():
        img = model.get_image_features(**images(images=rows["image"], return_tensors="pt")).pooler_output
        txt = model.get_text_features(**text).pooler_output
    return recall_at_k(F.normalize(img, dim=-1), F.normalize(txt, dim=-1))


def as_read(recall) -> dict:
    return json.loads(json.dumps(recall))


@pytest.mark.parametrize("mode", ["full", "linear", "lora"])
@pytest.mark.parametrize("family", ["clip", "siglip", "pair"])
def test_each_family_is_trained_saved_and_loaded_by_plain_transformers(family, mode, folders, data, tmp_path, capsys):
    run = tmp_path / "run"
    minilib("clip", "--data", data, *folders[family], "--mode", mode, "--lr", 0.01, "--output", run, *QUICK)
    out = capsys.readouterr().out
    assert re.search(rf"trained: .* weights \({mode}\)", out)
    minilib("eval", "--run", run, "--data", data)
    assert json.loads((run / "evaluation.json").read_text()) == as_read(plain_recall(run, data))
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines == json.loads((run / "records.json").read_text())
    assert [line["step"] for line in lines] == [0, 1]


def weights(folder) -> dict:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(("mode", "frozen"), [("full", "image"), ("full", "text"), ("linear", None), ("lora", "text")])
def test_only_what_is_chosen_moves(mode, frozen, folders, data, tmp_path):
    flags = ("--frozen", frozen) if frozen else ()
    minilib("clip", "--data", data, *folders["clip"], "--mode", mode, *flags, "--output", tmp_path / "run", *QUICK)
    before, after = weights(folders["clip"][1]), weights(tmp_path / "run")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    sides = {"image": ("vision_", "visual_"), "text": ("text_",)}
    if frozen:
        assert not any(name.startswith(sides[frozen]) for name in moved)
        assert any(name.startswith(sides["text" if frozen == "image" else "image"]) for name in moved)
    if mode == "linear":
        assert moved == {"visual_projection.weight", "text_projection.weight", "logit_scale"}
    if mode == "lora":
        assert all("self_attn" in name or "projection" in name or name == "logit_scale" for name in moved)
        assert any("q_proj" in name for name in moved)


def test_a_stopped_run_goes_on_with_its_adapters_and_its_log(folders, data, tmp_path):
    flags = ("--data", data, *folders["pair"], "--mode", "lora", "--batch_size", 8, "--steps", 4, "--save_every", 1)
    minilib("clip", *flags, "--output", tmp_path / "whole")
    step = ContrastiveTrainer.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContrastiveTrainer, "step", lambda self, k: step(self, k) if k < 2 else 1 / 0)
        with pytest.raises(SystemExit):
            minilib("clip", *flags, "--output", tmp_path / "broken")
    minilib("clip", *flags, "--output", tmp_path / "broken")
    assert all(torch.equal(weights(tmp_path / "whole")[k], v) for k, v in weights(tmp_path / "broken").items())
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "broken")]
    whole, broken = ([json.loads(line)["loss"] for line in log] for log in logs)
    assert whole == broken


def test_a_validation_split_is_scored_while_training(folders, data, tmp_path, capsys):
    flags = ("--validation", 0.25, "--save_every", 1, "--batch_size", 4, "--steps", 2)
    minilib("clip", "--data", data, *folders["clip"], *flags, "--output", tmp_path / "run")
    records = json.loads((tmp_path / "run" / "records.json").read_text())
    for record in records:
        assert set(record["validation"]) == {"image_to_text", "text_to_image"}
        assert set(record["validation"]["image_to_text"]) == {"1", "5", "10"}
    out = capsys.readouterr().out
    assert "validation: 3 pairs, scored with every checkpoint" in out
    assert re.search(r"image to text recall@1 [\d.]+%", out)


def test_bfloat16_autocast_trains_and_leaves_fp32_weights(folders, data, tmp_path):
    minilib("clip", "--data", data, *folders["clip"], "--dtype", "bf16", "--output", tmp_path / "run", *QUICK)
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "run").values())
    one = load_towers(str(tmp_path / "run"))
    one.dtype = torch.bfloat16
    half = one.eval().encode_text(["the red picture"])
    one.dtype = None
    whole = one.encode_text(["the red picture"])
    assert half.dtype == torch.float32
    assert 0 < (half - whole).abs().max() < 0.05


# The loss belongs to the model


def test_the_loss_is_the_models_own_and_a_missing_bias_is_told(folders, data, tmp_path, capsys):
    flags = ("--data", data, "--output", tmp_path / "run", *QUICK)
    sentence = told(capsys, "clip", *flags, *folders["clip"], "--loss", "siglip")
    assert "loss is 'siglip' and CLIPModel has no logit_bias: choose loss 'clip'" in sentence


def test_a_scale_above_a_hundred_stays_for_siglip_and_is_clamped_for_clip(folders, data, tmp_path):
    for loss, low, high in (("siglip", 111, 114), ("clip", 99.9, 100.1)):
        run = tmp_path / loss
        minilib("clip", "--data", data, *folders["siglip"], "--loss", loss, "--output", run, *QUICK)
        scales = [record["scale"] for record in json.loads((run / "records.json").read_text())]
        assert all(low < scale < high for scale in scales)


# Captions are cut at the positions that the text model has


@pytest.mark.parametrize("text", ["bert", "distilbert", "roberta"])
def test_long_captions_are_cut_where_the_tokenizer_knows_no_length(text, tmp_path):
    made = {"bert": toy_encoders.bert_folder, "distilbert": toy_encoders.distilbert_folder}
    folder = made.get(text, toy_encoders.roberta_folder)(tmp_path / text)
    towers = join_towers(str(toy_encoders.vit_folder(tmp_path / "vit")), str(folder), dim=8)
    most = 13 if text == "roberta" else 12
    assert towers.max_tokens == most
    try_out(towers.train(), text)
    assert towers.training
    towers.eval()
    long = "red " * 40
    torch.testing.assert_close(towers.encode_text([long]), towers.encode_text(["red " * (most - 1)]))
    assert towers.count_cut([long, "red", "red " * (most - 1), "red " * most]) == 2


def test_a_model_without_a_pooled_output_takes_the_mean_of_real_tokens(tmp_path):
    folder = toy_encoders.distilbert_folder(tmp_path / "text")
    towers = join_towers(str(toy_encoders.vit_folder(tmp_path / "vit")), str(folder), dim=8).eval()
    alone = towers.encode_text(["red"])
    torch.testing.assert_close(towers.encode_text(["red", "a big red picture"])[:1], alone, rtol=0, atol=1e-6)


def test_how_many_captions_are_cut_is_said_in_a_line(folders, data, tmp_path, capsys):
    rows = [{"image": str(k) + ".png", "caption": "red " * (5 + 10 * (k % 2))} for k in range(8)]
    (data / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    minilib("clip", "--data", data / "long.jsonl", *folders["clip"], "--output", tmp_path / "run", *QUICK)
    assert "4 of 8 captions are longer than the 12 tokens that are read: cut there" in capsys.readouterr().out


# Augmentation


def test_augmentation_without_a_library_is_none_and_said(folders, data, tmp_path, capsys):
    minilib("clip", "--data", data, *folders["clip"], "--augment", "true", "--output", tmp_path / "run", *QUICK)
    assert re.search(
        "augmentation: (none, since neither torchvision nor kornia is installed|.* crops)", capsys.readouterr().out
    )


def test_augmentation_is_torchvisions_where_it_is_installed(monkeypatch):
    made = []
    v2 = types.SimpleNamespace(RandomResizedCrop=lambda size, **options: made.append((size, options)) or "crop")
    transforms = types.SimpleNamespace(v2=v2)
    monkeypatch.setattr("minilib.models.encoders.find_spec", lambda name: name == "torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(transforms=transforms))
    monkeypatch.setitem(sys.modules, "torchvision.transforms", transforms)
    assert make_augment(16) == ("crop", "augmentation: torchvision's random crops")
    assert made[0][0] == (16, 16)


def test_the_gradient_cache_sees_the_same_random_crops_in_both_passes(folders, data):
    """Equal to one pass over the whole batch: the draws come after the random state that the cache keeps."""

    def gradient(micro):
        towers = load_towers(str(folders["clip"][1]))
        towers.augment = lambda image: image.rotate(90 * int(torch.randint(4, ())))
        pairs = load_pairs(data, image_size=None)
        trainer = ContrastiveTrainer(towers, pairs, batch_size=8, micro_batch_size=micro, steps=1, progress=False)
        draws = []
        original = towers.augment
        towers.augment = lambda image: (draws.append(torch.get_rng_state()), original(image))[1]
        torch.manual_seed(3)
        towers.train()
        trainer.backward(0)
        return draws

    cached = gradient(4)
    assert len(cached) == 16
    assert all(torch.equal(a, b) for a, b in zip(cached[:8], cached[8:]))


# What cannot be used is one sentence


def remote(folder):
    """A folder whose code would leave a mark."""
    toy_encoders.clip_folder(folder)
    (folder / "payload.py").write_text(f"open({str(folder / 'mark')!r}, 'w').write('ran')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "payload", "auto_map": {"AutoConfig": "payload.Config", "AutoModel": "payload.Model"}}
    (folder / "config.json").write_text(json.dumps(config))


def test_code_that_comes_with_a_model_is_not_run(data, tmp_path, capsys):
    remote(tmp_path / "model")
    for flags in (
        ("--model", tmp_path / "model"),
        ("--image_model", tmp_path / "model", "--text_model", tmp_path / "model"),
    ):
        sentence = told(capsys, "clip", "--data", data, *flags, "--output", tmp_path / "run", *QUICK)
        assert "brings code of its own, which is not run: pass trust_remote_code" in sentence
    assert not (tmp_path / "model" / "mark").exists()


def test_models_that_cannot_be_used_are_named_in_one_sentence(folders, data, tmp_path, capsys):
    def asked(*flags):
        return told(capsys, "clip", "--data", data, "--output", tmp_path / "run", *QUICK, *flags)

    clip, vit = folders["clip"][1], folders["pair"][1]
    assert "there is no such folder" in asked("--model", "/nope")
    assert "ViTModel has one side only" in asked("--model", vit)
    assert "image_model and text_model go together" in asked("--image_model", vit)
    assert "take one dual encoder" in asked("--model", clip, "--text_model", vit)
    assert "mode is 'lora' and there is no model" in asked("--mode", "lora")
    assert "mode is 'half'" in asked("--model", clip, "--mode", "half")
    cut = toy_encoders.clip_folder(tmp_path / "cut")
    kept = {name: tensor for name, tensor in weights(cut).items() if "text_projection" not in name}
    with safe_open(cut / "model.safetensors", "pt") as file:
        about = file.metadata()
    save_file(kept, cut / "model.safetensors", metadata=about)
    assert "1 of its weights are missing, the first is text_projection.weight" in asked("--model", cut)
    small = toy_encoders.clip_folder(tmp_path / "small")
    tokenizer = toy_encoders.tokenizer()
    tokenizer.add_tokens([f"word{k}" for k in range(40)])
    tokenizer.save_pretrained(small)
    assert "has 40 token embeddings and its tokenizer" in asked("--model", small)


def test_pictures_reach_the_processor_in_their_own_size(folders, data):
    towers = load_towers(str(folders["clip"][1])).eval()
    assert isinstance(towers, HFTowers)
    seen = []
    processor = towers.processor.image_processor
    towers.processor.image_processor = lambda images, **options: (seen.extend(images), processor(images, **options))[1]
    towers.encode_image(load_pairs(data, image_size=None)[:3]["image"])
    assert [image.size for image in seen] == [(30, 20), (30, 21), (30, 22)]


# Folders that load and would train on nonsense, or end in an error after the training


def without_tokenizer(folder):
    """transformers then makes a tokenizer that knows no word, without a line about it."""
    for path in folder.glob("*token*"):
        path.unlink()


def pooled_at_nothing(folder):
    """No caption has this token, so CLIP takes the features of the first one."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (folder / "config.json").write_text(json.dumps(config))


def with_weight(name, change):
    def write(folder):
        kept = weights(folder)
        save_file(kept | {name: change(kept[name].clone())}, folder / "model.safetensors", metadata={"format": "pt"})

    return write


def adapter(folder):
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPModel

    get_peft_model(CLIPModel.from_pretrained(folder), LoraConfig(target_modules=["q_proj"])).save_pretrained(folder)


NAME = "text_model.encoder.layers.0.layer_norm1.bias"
NONSENSE = {
    "no tokenizer": (without_tokenizer, "tokenizer that knows nothing of the captions"),
    "pooled at no token": (pooled_at_nothing, "gives half of a caption the features of all of it (eos_token_id?)"),
    "a NaN": (with_weight(NAME, lambda w: w.fill_(torch.nan)), f"the weight {NAME} has NaN or infinity"),
    "another shape": (with_weight(NAME, lambda w: w[:3]), f"another shape than config.json says, the first is {NAME}"),
    "an adapter": (adapter, "it is an adapter, merge it"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_a_model_is_tried_on_the_captions_before_it_trains(case, data, tmp_path, capsys):
    change, words = NONSENSE[case]
    change(toy_encoders.clip_folder(tmp_path / "clip"))
    assert words in told(
        capsys, "clip", "--data", data, "--output", tmp_path / "run", *QUICK, "--model", tmp_path / "clip"
    )
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize("kind", ["ResNet", "ConvNext"])
def test_an_encoder_with_a_size_for_each_stage_is_measured(kind, data, tmp_path, capsys):
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    sizes |= {"embedding_size": 8} if kind == "ResNet" else {"num_stages": 2}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    image = getattr(transformers, f"{kind}Model")(config)
    toy_encoders.save(tmp_path / "image", image, toy_encoders.image_processor("vit", 32))
    text = toy_encoders.bert_folder(tmp_path / "bert")
    flags = ["--image_model", tmp_path / "image", "--text_model", text, "--dim", 8]
    minilib("clip", "--data", data, "--output", tmp_path / "run", *QUICK, *flags)
    minilib("eval", "--data", data, "--run", tmp_path / "run")
    assert "recall@1" in capsys.readouterr().out
    assert load_towers(str(tmp_path / "run")).model.visual_projection.in_features == 16


def test_encoders_in_each_others_place_and_settings_that_nobody_reads_are_told(folders, data, tmp_path, capsys):
    def asked(*flags):
        return told(capsys, "clip", "--data", data, "--output", tmp_path / "run", *QUICK, *flags)

    clip, vit, bert = folders["clip"][1], folders["pair"][1], folders["pair"][3]
    assert "a BertModel takes input_ids" in asked("--image_model", bert, "--text_model", vit)
    assert "dim is 8 and the model has its own" in asked("--model", clip, "--dim", 8)
    assert "image_size is 64 and a model has its own" in asked("--model", clip, "--image_size", 64)
    assert "lora_rank is 2 and mode 'full'" in asked("--model", clip, "--lora_rank", 2)
    assert "it is a file" in asked("--model", clip / "config.json")
    for name in ("~/nowhere", "../nowhere", "https://huggingface.co/a/b"):
        assert "there is no such folder" in asked("--model", name)


def test_other_dual_encoders_give_the_similarities_of_their_own_forward_pass(tmp_path):
    import transformers

    text = {**toy_encoders.TINY, "vocab_size": 40, "max_position_embeddings": 12}
    pictures = [Image.fromarray(np.random.default_rng(k).integers(0, 256, (20, 24, 3), dtype=np.uint8)) for k in (0, 1)]
    captions = ["a red picture", "the big green caption of one 4"]
    for kind in ("ChineseCLIP", "AltCLIP", "MetaClip2", "CLIPSeg"):
        torch.manual_seed(0)
        more = {"project_dim": 16} if kind == "AltCLIP" else {}
        config = getattr(transformers, f"{kind}Config")(
            text_config={**text, **more, "eos_token_id": 3, "pad_token_id": 0}, vision_config=toy_encoders.VISION,
            projection_dim=12,
        )  # fmt: skip
        model = getattr(transformers, f"{kind}Model")(config)
        folder = toy_encoders.save(tmp_path / kind, model, toy_encoders.image_processor(), toy_encoders.tokenizer())
        towers = load_towers(str(folder)).eval()
        inputs = towers.processor.tokenizer(captions, padding=True, return_tensors="pt")
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        inputs |= towers.processor.image_processor(images=pictures, return_tensors="pt")
        with torch.no_grad():
            ours = towers.logit_scale.exp() * towers.encode_text(captions) @ towers.encode_image(pictures).T
            torch.testing.assert_close(ours, towers.model(**inputs).logits_per_text, rtol=0, atol=1e-4)
