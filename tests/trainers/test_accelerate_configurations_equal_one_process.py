"""The commands that README and book print start two ranks, and these end with the losses and weights of one process.

Each command is taken from the page, gets a few flags more (fewer steps, another folder), and runs in two processes over
gloo. The judge is the same command in this process. Steps are small: where Adam meets a gradient of rounding errors,
its first step goes one way or the other at the full learning rate.
"""

import json
import runpy
import shlex
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType
from safetensors.torch import load_file
from support.printed import ROOT, printed, start
from transformers import AutoModelForCausalLM

import minilib.__main__ as main_module
from minilib.cli import launch
from minilib.cli.launch import shard_on_cpus
from minilib.models.tiny_lm import FOLDER

PAGE = "book/scale.md"
COMMANDS = printed(PAGE, "command")
CLOSE = 1e-5
CLIP = ("--pairs", 96, "--batch_size", 32, "--steps", 3, "--dim", 16, "--lr", 1e-4)
LOGO = ("--rows", 4, "--steps", 2, "--lr", 3e-5, "--warmup", 0)
SAID = {"ring": "the ring over gloo", "siglip": "the ring over gloo", "ddp": "DDP", "fsdp2": "FSDP"}


def flags_of(command):
    """What follows `-m minilib` in a printed command."""
    words = shlex.split(command)
    return words[words.index("minilib") + 1 :]


def in_this_process(command, *more):
    main_module.main([*flags_of(command), *map(str, more)])


def losses(folder, name="loss"):
    return [record[name] for record in json.loads((folder / "records.json").read_text())]


def assert_close(got, expected):
    assert got.keys() == expected.keys()
    for name, true in expected.items():
        off = (got[name] - true).abs().max().item()
        assert off <= CLOSE, f"{name} is off by {off:.2g}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", "siglip"])
def test_two_ranks_of_the_ring_train_what_one_process_trains(name, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    in_this_process(COMMANDS[name], *CLIP, "--output", one)
    said = start(COMMANDS[name], *CLIP, "--output", two)
    assert said.count(f"2 ranks train, {SAID[name]}\n") == 1
    assert losses(two) == pytest.approx(losses(one), abs=CLOSE)
    weights = (torch.load(folder / "checkpoint.pt", weights_only=True)["model"] for folder in (two, one))
    assert_close(*weights)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    in_this_process(COMMANDS["ddp"], *LOGO, "--output", folder, "--batch_size", 2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_two_ranks_of_an_engine_align_what_one_process_aligns(name, one_process, tmp_path):
    said = start(COMMANDS[name], *LOGO, "--output", tmp_path / "run", "--batch_size", 1)
    assert said.count(f"2 ranks train, {SAID[name]}") == 1
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["ranks"] == 2
    for number in ("loss", "lora_delta_norm"):
        assert losses(tmp_path / "run", number) == pytest.approx(losses(one_process, number), rel=CLOSE)
    assert_close(*(load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "run", one_process)))


@pytest.mark.slow
def test_your_own_script_shards_all_weights_and_ends_where_one_process_ends(one_process, tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text(printed(PAGE, "file")["train.py"] + "\n")
    arguments = [str(FOLDER), str(one_process / "pairs.jsonl")]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments, str(tmp_path / "one")])
    runpy.run_path(str(script), run_name="__main__")
    command = COMMANDS["script"].replace("train.py path/to/model pairs.jsonl runs/mine", str(script))
    start(command, *arguments, tmp_path / "two")
    # As a user reads them: under FSDP the file names tied weights twice.
    found = [AutoModelForCausalLM.from_pretrained(tmp_path / folder).state_dict() for folder in ("two", "one")]
    assert_close(*found)


# Commands


def test_readme_prints_commands_of_this_page_only():
    found = printed("README.md", "command")
    assert found
    assert set(found.values()) <= set(COMMANDS.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_configurations_that_commands_name_exist(name):
    words = shlex.split(COMMANDS[name])
    files = [after for word, after in pairwise(words) if word == "--config_file"]
    assert all((ROOT / file).exists() for file in files)


def test_accelerate_without_gpus_starts_one_process_for_its_cpu_flag_and_that_is_said(monkeypatch, capsys):
    """accelerate sets these for several processes, and RANK in none of them, where it starts one."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("RANK", raising=False)
    for command in ("clip", "logo"):
        with pytest.raises(SystemExit) as end:
            main_module.main([command])
        assert end.value.code == 2
        assert "has started one: give it `--config_file book/accelerate/ddp.yaml`" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    launch.check_launcher()


def test_the_number_of_ranks_is_said():
    assert launch.who_trains(1, "DDP") == "1 rank trains"
    assert launch.who_trains(3, "DDP on CPUs") == "3 ranks train, DDP on CPUs"


# Configurations


@pytest.mark.parametrize(
    ("file", "kind"),
    [("ddp", DistributedType.MULTI_GPU), ("fsdp2", DistributedType.FSDP), ("zero3", DistributedType.DEEPSPEED)],
)
def test_accelerate_reads_each_configuration(file, kind):
    found = load_config_from_file(str(ROOT / f"book/accelerate/{file}.yaml"))  # an unknown key is an error
    assert (found.distributed_type, found.num_processes, found.use_cpu) == (kind, 2, False)


def test_the_settings_of_deepspeed_are_those_of_zero_3():
    """DeepSpeed itself needs GPUs: what can be tested here is what accelerate makes of the file."""
    settings = yaml.safe_load((ROOT / "book/accelerate/zero3.yaml").read_text())["deepspeed_config"]
    names = {"zero3_init_flag", "zero3_save_16bit_model", "offload_optimizer_device", "offload_param_device"}
    names |= {"zero_stage", "gradient_clipping", "gradient_accumulation_steps"}
    assert settings.keys() == names
    plugin = DeepSpeedPlugin(**settings)
    made = plugin.deepspeed_config["zero_optimization"]
    assert made["stage"] == 3
    assert made["offload_param"]["device"] == made["offload_optimizer"]["device"] == "none"
    assert made["stage3_gather_16bit_weights_on_model_save"] is True


def between_cpus(**asked):
    state = SimpleNamespace(distributed_type=DistributedType.MULTI_CPU)
    return SimpleNamespace(**{"fsdp": False, "deepspeed": None, "distributed_state": state} | asked)


def test_fsdp_between_cpus_shards_and_deepspeed_is_refused(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    plain, asked = between_cpus(), between_cpus(fsdp=True)
    for args in (plain, asked, between_cpus(distributed_state=None)):
        shard_on_cpus(args)
    assert plain.distributed_state.distributed_type == DistributedType.MULTI_CPU
    assert asked.distributed_state.distributed_type == DistributedType.MULTI_GPU
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    shard_on_cpus(plain)
    assert plain.distributed_state.distributed_type == DistributedType.MULTI_GPU
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match=r"DeepSpeed is asked for and training is on CPUs: shard with FSDP"):
        shard_on_cpus(between_cpus())
