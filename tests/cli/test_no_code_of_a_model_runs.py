"""Python files, pickles and settings that come with a model are never run and never asked about.

Every payload would leave a file behind. The commands run in a process of their own with "y" waiting on standard input.
"""

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.language_folders import language_folder

import minilib
from minilib.cli.eval_settings import EvalSettings
from minilib.cli.pairs_settings import PairsSettings
from minilib.cli.settings import LogoSettings
from minilib.models.loading import load_language_model

EVIL = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "evil"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
CODE = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
SCRIPT = """
import sys
from minilib.__main__ import main
for line in sys.argv[1:]:
    try:
        main(line.split(" "))
        print("DONE", 0, file=sys.stderr)
    except SystemExit as end:
        print("DONE", end.code, file=sys.stderr)
"""


class Touch:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def edited(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def folders(tmp_path):
    """Folders with payloads by name, and the file that any of them would write."""
    mark, good = tmp_path / "ran", language_folder(tmp_path / "good", "llama")
    made = {name: shutil.copytree(good, tmp_path / name) for name in ("model", "native", "tokenizer", "pickled")}
    for folder in made.values():
        (folder / "evil.py").write_text(EVIL.format(mark=str(mark)))
    edited(made["model"] / "config.json", model_type="evil", auto_map=CODE)
    edited(made["native"] / "config.json", auto_map=CODE)
    chosen = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}, "tokenizer_class": "Tokenizer"}
    edited(made["tokenizer"] / "tokenizer_config.json", **chosen)
    (made["pickled"] / "model.safetensors").unlink()
    (made["pickled"] / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Touch(mark)}))
    for name, base in (("adapter", made["model"]), ("bin_adapter", good), ("settings", made["model"])):
        run = made[name] = tmp_path / name
        run.mkdir()
        adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
        (run / "adapter_config.json").write_text(json.dumps(adapter | {"base_model_name_or_path": str(base)}))
        (run / "adapter_model.bin").write_bytes(pickle.dumps({"a": Touch(mark)}))
    begun = {"model": str(made["model"]), "trust_remote_code": True}
    (made["settings"] / "settings.json").write_text(json.dumps(begun))
    return made, mark


def run(tmp_path, *command):
    settings = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        input="y\n" * 20,
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        cwd=tmp_path,
    )


def test_no_payload_runs_and_each_is_one_sentence(folders, tmp_path):
    made, mark = folders
    out = tmp_path / "out"
    lines = [
        f"logo --output {out} --rows 2 --steps 1 --model {made[name]}" for name in ("model", "tokenizer", "pickled")
    ]
    lines += [f"eval --output {out} --samples 1 --model {made['model']}"]
    lines += [f"eval --output {out} --samples 1 --run {made[name]}" for name in ("adapter", "bin_adapter", "settings")]
    found = run(tmp_path, "-c", SCRIPT, *lines)
    said = [line for line in found.stderr.splitlines() if line.startswith(("minilib: ", "DONE"))]
    assert said[1::2] == ["DONE 2"] * len(lines), found.stderr
    assert all(line.startswith("minilib: ") for line in said[::2])
    assert sum("comes with Python code, which is not run" in line for line in said) == 5
    assert "Do you wish to run" not in found.stdout + found.stderr
    assert "Traceback" not in found.stderr
    assert not mark.exists()


def test_a_native_model_with_code_next_to_it_loads_without_the_code(folders):
    made, mark = folders
    assert type(load_language_model(str(made["native"])).model).__module__.startswith("transformers.")
    assert not mark.exists()


def test_the_command_itself_with_yes_waiting_runs_nothing(folders, tmp_path):
    made, mark = folders
    found = run(tmp_path, "-m", "minilib", "logo", "--model", str(made["model"]), "--output", str(tmp_path / "out"))
    assert (found.returncode, mark.exists()) == (2, False)
    (said,) = [line for line in found.stderr.splitlines() if line.startswith("minilib: ")]
    assert said.endswith("read the code, and give --trust_remote_code true if you trust it.")


def test_every_call_that_could_load_code_says_whether_it_may():
    calls = []
    for path in Path(minilib.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name.endswith(".from_pretrained") and name.startswith("Auto"):
                calls.append((path.name, name, "trust_remote_code" in [keyword.arg for keyword in node.keywords]))
    assert len(calls) >= 3
    assert [call for call in calls if not call[2]] == []


def test_a_flag_of_ours_lets_it_run(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "cache"))
    made, mark = folders
    loaded = load_language_model(str(made["model"]), trust_remote_code=True)
    assert (mark.exists(), type(loaded.model).__name__) == (True, "Model")
    assert not any(kind().trust_remote_code for kind in (LogoSettings, PairsSettings, EvalSettings))
