"""A language model is loaded whole: what is missing, damaged or of another model is one sentence that names it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import small_model
from support.language_folders import language_folder, same_logits
from support.reference import refused
from transformers import AutoModelForCausalLM, AutoTokenizer

from minilib.models.loading import load_aligned, load_base, load_language_model, pick_dtype, read_json, write_merged
from minilib.trainers.lora import lora_config, with_adapters


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return language_folder(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def damaged(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_a_whole_folder_loads(folder):
    loaded = load_language_model(str(folder))
    assert loaded.window == 256
    assert same_logits(loaded.model, AutoModelForCausalLM.from_pretrained(folder), 0)


@pytest.mark.parametrize("name", ["/nope", "./nope", "~/nope", "a/b/c"])
def test_a_path_that_is_not_there_is_no_name_on_the_hub(name):
    words = f"model {name!r} could not be loaded (there is no such folder): give 'tiny', a folder or a name on the hub."
    refused(ValueError, words, lambda: load_language_model(name))


def test_a_file_and_a_folder_without_a_config_are_told(tmp_path):
    refused(ValueError, "model '' could not be loaded (the name is empty)", lambda: load_language_model(""))
    (tmp_path / "file").write_text("x")
    refused(ValueError, "(it is a file)", lambda: load_language_model(str(tmp_path / "file")))
    refused(ValueError, "(the folder has no config.json)", lambda: load_language_model(str(tmp_path)))


@pytest.mark.parametrize("text", ["{", "[]", '{"model_type": "nobody"}', "{}", '"text"', '{"model_type": 5}'])
def test_a_damaged_config_is_one_sentence(folder, text):
    (folder / "config.json").write_text(text)
    refused(ValueError, "could not be loaded (", lambda: load_language_model(str(folder)))


@pytest.mark.parametrize("size", [0, 7, 100, 5_000])
def test_truncated_weights_are_one_sentence(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(ValueError, f"model {str(folder)!r} could not be loaded (", lambda: load_language_model(str(folder)))


def test_no_weights_are_one_sentence(folder):
    (folder / "model.safetensors").unlink()
    refused(ValueError, "could not be loaded (", lambda: load_language_model(str(folder)))


def test_a_layer_that_is_missing_is_not_made_up(folder):
    def change(weights):
        for name in [name for name in weights if "layers.1.mlp" in name]:
            del weights[name]

    words = "has weight files that lack model.layers.1.mlp.down_proj.weight and 2 more: get the whole files"
    refused(ValueError, words, lambda: load_language_model(damaged(folder, change)))


def test_weights_of_another_shape_are_told(folder):
    def change(weights):
        weights["model.norm.weight"] = torch.ones(31)

    refused(ValueError, f"model {str(folder)!r} ", lambda: load_language_model(damaged(folder, change)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    def change(weights):
        weights["model.layers.0.mlp.up_proj.weight"][3, 4] = value

    words = "the weight model.layers.0.mlp.up_proj.weight has NaN or infinity"
    refused(ValueError, words, lambda: load_language_model(damaged(folder, change)))


def test_the_tokenizer_of_a_larger_model_is_refused_and_an_added_pad_token_is_not(folder):
    small_model("llama", vocab_size=100).save_pretrained(folder)
    words = "has 100 rows of embeddings and its tokenizer 2,048 tokens, such as "
    refused(ValueError, words, lambda: load_language_model(str(folder)))
    small_model("llama", vocab_size=2_048).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert load_language_model(str(folder)).tokenizer.pad_token_id == 2_048


# Adapters and what they stand on


@pytest.fixture
def run(folder, tmp_path):
    """An adapter with weights of its own on the stretched model of the folder, as `logo` leaves it."""
    loaded = load_language_model(str(folder), rope="yarn", target=1_024)
    model = with_adapters(loaded.model, lora_config(rank=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "run")
    settings = {"model": str(folder), "rope": "yarn", "target_length": 1_024, "window": 256}
    (tmp_path / "run" / "settings.json").write_text(json.dumps(settings))
    return tmp_path / "run"


def test_a_merged_model_is_a_plain_folder_with_the_logits_of_its_adapter(run, tmp_path):
    adapted = load_aligned(run)
    write_merged(run, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert same_logits(merged, adapted.model)
    assert not same_logits(merged, load_base(run).model, 1e-3)
    assert merged.config.rope_parameters["factor"] == 4
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").encode("Oslo keeps silk.")


def test_what_cannot_be_merged_is_told(run, tmp_path):
    refused(ValueError, "holds no adapter to merge", lambda: write_merged(tmp_path / "none", tmp_path / "merged"))
    (run / "adapter_model.safetensors").write_bytes(b"")
    refused(ValueError, "could not be loaded (", lambda: write_merged(run, tmp_path / "merged"))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_adapter_config_is_one_sentence(run, text):
    (run / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"cannot be read|holds a list|could not be loaded") as error:
        load_aligned(run)
    assert len(str(error.value).splitlines()) == 1


def test_an_adapter_without_a_base_is_told(run):
    (run / "settings.json").unlink()
    config = read_json(run / "adapter_config.json")
    (run / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    refused(ValueError, "names no model that its adapter belongs to", lambda: load_aligned(run))


def adapter_in(folder, run, **changed):
    model = with_adapters(AutoModelForCausalLM.from_pretrained(folder), lora_config(rank=4))
    model.save_pretrained(run)
    config = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps(config | changed))
    return run


def test_an_adapter_file_that_lacks_what_its_config_names_is_told(folder, tmp_path):
    run = adapter_in(folder, tmp_path / "run")
    load_aligned(run)
    words = "has an adapter whose file lacks base_model.model.model.layers.0.self_attn."
    for changed in ({"target_modules": ["q_proj", "v_proj", "k_proj", "o_proj", "up_proj"]}, {"use_dora": True}):
        other = adapter_in(folder, tmp_path / str(len(changed)) / next(iter(changed)), **changed)
        refused(ValueError, "has an adapter whose file lacks base_model", lambda other=other: load_aligned(other))
    weights = load_file(run / "adapter_model.safetensors")
    del weights[sorted(weights)[3]]
    save_file(weights, run / "adapter_model.safetensors", {"format": "pt"})
    refused(ValueError, words, lambda: load_aligned(run))


def test_a_run_that_names_two_models_or_no_number_is_told(folder, tmp_path):
    run = adapter_in(folder, tmp_path / "run")
    settings = {"model": "elsewhere", "rope": "none", "target_length": None}
    (run / "settings.json").write_text(json.dumps(settings))
    refused(ValueError, "names the model 'elsewhere' in settings.json and ", lambda: load_aligned(run))
    settings |= {"model": str(folder), "rope": "yarn", "target_length": "x"}
    (run / "settings.json").write_text(json.dumps(settings))
    refused(ValueError, "has a settings.json with rope='yarn' and target_length='x'", lambda: load_aligned(run))


def test_pickled_code_in_place_of_weights_is_told_without_the_advice_to_run_it(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": print}, folder / "pytorch_model.bin")
    words = "has weight files in which more than tensors is pickled, which is not run: get it as safetensors."
    refused(ValueError, words, lambda: load_language_model(str(folder)))


@pytest.mark.parametrize(("short", "long"), [("bf16", "bfloat16"), ("fp32", "float32"), ("fp16", "float16")])
def test_dtypes_have_short_names_too(short, long):
    assert pick_dtype(short, "cpu") == pick_dtype(long, "cpu") == getattr(torch, long)
    refused(ValueError, "dtype 'half' is unknown: choose one of 'auto'", lambda: pick_dtype("half", "cpu"))
