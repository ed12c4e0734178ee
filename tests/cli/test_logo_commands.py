"""`python -m minilib logo` aligns a model on haystacks, on your pairs and on your questions, and `eval` measures it.

The tiny model is trained for a handful of steps, so that every promise of the command can be seen in seconds: what it
writes, what it refuses before it writes, and that an interrupted run ends as an unbroken one. The runs happen in this
process, but for the one that torchrun starts.
"""

import inspect
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from support.logo_runs import minilib

from minilib.cli import logo as command
from minilib.cli import pairs as data_rows
from minilib.cli import run_folder
from minilib.cli.doctor import diagnosis
from minilib.cli.eval_settings import EvalSettings
from minilib.cli.evaluate import evaluate
from minilib.cli.pairs_settings import PairsSettings
from minilib.cli.settings import ALIASES, LogoSettings, fill
from minilib.evals.language_model import default_lengths, default_samples
from minilib.longcontext.text_ids import prompt_ids
from minilib.models.loading import load_aligned, load_language_model
from minilib.models.tiny_lm import FOLDER, tiny_lm
from minilib.preferences.haystack_pairs import long_questions

QUICK = ("--steps", 4, "--save_every", 2, "--batch_size", 2, "--lr", 0.02, "--warmup", 1)
OF_THE_CLOCK = ("tokens_per_second", "peak_memory")


def refusal(capsys, *arguments):
    """What the command says when it refuses, one line on standard error and exit status 2."""
    with pytest.raises(SystemExit) as end:
        minilib(*arguments)
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("minilib: ")]
    return line


def records_of(folder):
    records = json.loads((folder / "records.json").read_text())
    return [{name: value for name, value in record.items() if name not in OF_THE_CLOCK} for record in records]


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run on haystacks."""
    folder = tmp_path_factory.mktemp("logo") / "run"
    minilib("logo", "--output", folder, "--rows", 12, *QUICK)
    return folder


@pytest.fixture
def pairs(run, tmp_path):
    """A file of your own pairs, which happen to be those of the finished run."""
    rows = [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]
    kept = [{name: row[name] for name in ("prompt", "separator", "chosen", "rejected", "chunks")} for row in rows]
    return write_lines(tmp_path / "pairs.jsonl", kept)


def edited(path, number, **fields):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number] |= fields
    return write_lines(path, rows)


def test_logo_answers_haystacks_trains_and_keeps_what_it_did(run):
    records = records_of(run)
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert {"loss", "rewards/margins", "rewards/accuracies", "tokens", "lora_delta_norm"} <= set(records[-1])
    pair = json.loads((run / "pairs.jsonl").read_text().splitlines()[0])
    assert len(pair["rejected"]) == 2
    assert len(pair["chunks"]) == 8
    assert json.loads((run / "pairs_report.json").read_text())["rows"] == 12
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]


def test_the_settings_that_were_left_out_are_written_down(run):
    found = json.loads((run / "settings.json").read_text())
    wanted = {
        "target_length": 1024,
        "chunk_size": 28,
        "num_chunks": 8,
        "length": 960,
        "lora_modules": ["q_proj", "k_proj"],
    }
    assert wanted.items() <= found.items()


def test_the_adapter_loads_with_peft_alone_and_moves_the_model(run):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = torch.tensor([AutoTokenizer.from_pretrained(run).encode("Lisbon keeps amber.")])
    base = AutoModelForCausalLM.from_pretrained(FOLDER)
    before = base(ids).logits
    after = PeftModel.from_pretrained(base, run)(ids).logits
    assert (after - before).abs().max() > 1e-3


def test_a_finished_run_says_so_and_does_nothing(run, capsys):
    before = content(run)
    minilib("logo", "--output", run, "--rows", 12, *QUICK)
    assert capsys.readouterr().out.startswith("already finished, nothing to do\nloss ")
    assert content(run) == before


def test_the_summary_says_what_was_learned_and_where_it_lies(pairs, tmp_path, capsys):
    minilib("logo", "--data", pairs, "--output", tmp_path / "run", *QUICK)
    out = capsys.readouterr().out
    assert re.search(
        r"loss [\d.]+ -> [\d.]+, margin -?[\d.]+ -> -?[\d.]+, accuracy \d+% -> \d+% in 4 steps, [\d,]+", out
    )
    assert f"{tmp_path / 'run'} holds the adapter: python -m minilib eval --run {tmp_path / 'run'}" in out
    assert "spread over 1,024 positions" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--steps", 5), "was begun with steps=4, this run has steps=5: use the same setting or another output."),
        (("--loss", "sft"), "was begun with loss_type='logo', this run has loss_type='sft'"),
        (("--seed", 1), "was begun with seed=0, this run has seed=1"),
    ],
)
def test_a_run_of_other_settings_is_refused_before_anything_is_touched(run, capsys, flags, words):
    before = content(run)
    assert words in refusal(capsys, "logo", "--output", run, "--rows", 12, *QUICK, *flags)
    assert content(run) == before


def test_other_data_under_the_same_name_are_other_settings(pairs, tmp_path, capsys):
    minilib("logo", "--data", pairs, "--output", tmp_path / "run", *QUICK)
    edited(pairs, 0, chosen="something else")
    told = refusal(capsys, "logo", "--data", pairs, "--output", tmp_path / "run", *QUICK)
    assert "was begun with data_sha256=" in told


@pytest.mark.parametrize("name", ["model.json", "checkpoint-8", "adapter_config.json"])
def test_a_folder_of_somebody_else_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=f"holds {name} and no settings.json, so it is of another run"):
        run_folder.begin(tmp_path, {"steps": 1})


def test_damaged_settings_are_told(tmp_path):
    (tmp_path / "settings.json").write_text('{"steps": 1')
    with pytest.raises(ValueError, match=r"has a damaged settings\.json: delete the folder to start anew"):
        run_folder.begin(tmp_path, {"steps": 1})


def test_an_interrupted_run_goes_on_and_ends_as_an_unbroken_one(pairs, tmp_path, monkeypatch, capsys):
    flags = ("--data", pairs, "--output", tmp_path / "broken", *QUICK)
    on_step_end = command._Bar.on_step_end

    def interrupted(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        if state.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command._Bar, "on_step_end", interrupted)
    with pytest.raises(SystemExit) as end:
        minilib("logo", *flags)
    assert end.value.code == 130
    assert "stopped by Ctrl-C: the same command starts again, from what is saved." in capsys.readouterr().err
    assert not (tmp_path / "broken" / "records.json").exists()
    with pytest.raises(ValueError, match="is not finished: give the same `python -m minilib logo` once more"):
        evaluate(run=tmp_path / "broken")
    monkeypatch.setattr(command._Bar, "on_step_end", on_step_end)
    minilib("logo", *flags)
    minilib("logo", "--data", pairs, "--output", tmp_path / "whole", *QUICK)
    assert records_of(tmp_path / "broken") == records_of(tmp_path / "whole")
    ends = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("broken", "whole")]
    assert ends[0] == ends[1]


def test_a_single_rejected_answer_may_be_a_text_and_positions_may_stay(pairs, tmp_path):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    plain = [{"prompt": r["prompt"], "chosen": r["chosen"], "rejected": r["rejected"][0]} for r in rows]
    path = write_lines(tmp_path / "plain.jsonl", plain)
    minilib("logo", "--data", path, "--output", tmp_path / "run", "--num_rejected", 1, "--target", 0, *QUICK)
    assert len(records_of(tmp_path / "run")) == 4


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"chosen": None}, "data has no 'chosen' in row 2: fill the field or leave out the row."),
        ({"chosen": "  "}, "row 2 has '  ' as chosen: give a text that is not empty."),
        ({"rejected": ["one"]}, "row 2 has 1 rejected answers and num_rejected is 2"),
        ({"chunks": ["not there"]}, "row 2 has 'not there' as chunks[0], which its prompt does not hold"),
        ({"prompt": "word " * 2000, "chunks": ["word " * 2000]}, "row 2: target is 1024 and prompt and answer have"),
    ],
)
def test_a_bad_row_is_named_before_the_first_step(pairs, tmp_path, capsys, fields, words):
    edited(pairs, 2, **fields)
    assert words in refusal(capsys, "logo", "--data", pairs, "--output", tmp_path / "run", *QUICK)
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_run_that_was_refused_may_begin_again_with_what_was_fixed(pairs, tmp_path, capsys):
    whole = pairs.read_text()
    edited(pairs, 2, chosen=None)
    refusal(capsys, "logo", "--data", pairs, "--output", tmp_path / "run", *QUICK)
    pairs.write_text(whole)
    minilib("logo", "--data", pairs, "--output", tmp_path / "run", *QUICK)
    assert len(records_of(tmp_path / "run")) == 4


def test_rows_without_chunks_are_told_of_the_two_ways_out_where_a_target_is_asked_for(pairs, tmp_path, capsys):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    write_lines(pairs, [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows])
    told = refusal(capsys, "logo", "--data", pairs, "--output", tmp_path / "run", "--target", 1024)
    assert "has no column 'chunks': give each row the pieces of its context, or train at plain positions" in told
    minilib("logo", "--data", pairs, "--output", tmp_path / "run", *QUICK)
    assert "at plain positions" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["target_length"] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"prompt": "a"}\n',
            "has the columns ['prompt']: give pairs with prompt, chosen, rejected, or questions with",
        ),
        ('{"prompt": "a"\n', "could not be read"),
        ('{"context": "a", "question": "b", "answer": ""}\n', "data has no 'answer' in row 0"),
    ],
)
def test_a_file_that_is_neither_pairs_nor_questions_is_refused(tmp_path, capsys, text, words):
    (tmp_path / "data.jsonl").write_text(text)
    assert words in refusal(capsys, "logo", "--data", tmp_path / "data.jsonl", "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_questions_of_your_own_are_answered_by_the_model_once(tmp_path, monkeypatch, capsys):
    asked = long_questions(6, tiny_lm()[1])
    rows = [{name: row[name] for name in ("context", "question", "answer")} for row in asked]
    path = write_lines(tmp_path / "questions.jsonl", rows)
    flags = ("--data", path, "--threshold", 2, "--answer_tokens", 8, *QUICK)
    minilib("logo", "--output", tmp_path / "run", *flags)
    built = [json.loads(line) for line in (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()]
    assert f"{len(built)} pairs out of 6 questions" in capsys.readouterr().out
    assert {pair["question"] for pair in built} <= {row["question"] for row in rows}
    (tmp_path / "run" / "records.json").unlink()  # as if the training had not come to its end
    monkeypatch.setattr(data_rows, "build_pairs", None)  # nobody asks again
    minilib("logo", "--output", tmp_path / "run", *flags)
    assert len(records_of(tmp_path / "run")) == 4


def test_questions_that_give_no_pair_are_told(tmp_path, capsys):
    row = {"context": "A text that says nothing.", "question": "What does Oslo keep?", "answer": "silk"}
    path = write_lines(tmp_path / "questions.jsonl", [row])
    told = refusal(capsys, "logo", "--data", path, "--output", tmp_path / "run", *QUICK)
    assert "gave no pair" in told
    assert "lower threshold, which is 6, in another output." in told
    assert json.loads((tmp_path / "run" / "pairs_report.json").read_text())["skipped"] == {"no critical chunk": 1}


def test_another_rank_waits_until_the_first_has_answered(run, tmp_path):
    settings = LogoSettings(data="haystack", output=tmp_path)

    def first_rank():
        (tmp_path / "pairs.jsonl").write_bytes((run / "pairs.jsonl").read_bytes())
        run_folder.write_json(tmp_path / "pairs_report.json", {})

    later = threading.Timer(1.0, first_rank)
    later.start()
    table = data_rows.answered_pairs("haystack", None, settings, None, rank=1)
    later.join()
    assert len(table) == len((run / "pairs.jsonl").read_text().splitlines())


def test_settings_may_come_from_a_yaml_file(pairs, tmp_path):
    lines = [f"data: {pairs}", "steps: 1", "loss: simpo", "num_rejected: 1", "rope: yarn", "lora_modules: [v_proj]"]
    (tmp_path / "mine.yaml").write_text("\n".join(lines) + "\n")
    minilib("logo", "--config", tmp_path / "mine.yaml", "--output", tmp_path / "run")
    found = json.loads((tmp_path / "run" / "settings.json").read_text())
    names = ("steps", "loss_type", "rope", "lora_modules")
    assert [found[name] for name in names] == [1, "simpo", "yarn", ["v_proj"]]
    assert load_aligned(tmp_path / "run").model.config.rope_parameters["factor"] == 4
    assert load_aligned(tmp_path / "run").window == 256


def test_all_weights_may_be_trained_and_then_load_as_any_model(pairs, tmp_path, capsys):
    flags = ("--data", pairs, "--output", tmp_path / "run", "--lora_rank", 0)
    assert "learning_rate has no default without LoRA (lora_rank 0)" in refusal(capsys, "logo", *flags)
    minilib("logo", *flags, "--lr", 1e-4, "--steps", 1)
    assert load_language_model(str(tmp_path / "run")).window == 256
    minilib("eval", "--run", tmp_path / "run", "--lengths", "[64]", "--samples", 1)
    assert set(json.loads((tmp_path / "run" / "evaluation.json").read_text())["models"]) == {"base", "aligned"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do both")
@pytest.mark.parametrize(("name", "value"), [("dtype", "float16"), ("attention", "flex_attention")])
def test_what_needs_a_gpu_is_told_before_any_answer(tmp_path, capsys, name, value):
    told = refusal(capsys, "logo", "--output", tmp_path / "run", f"--{name}", value)
    assert f"{name} is {value!r} and there is no GPU: choose 'auto'" in told
    assert not (tmp_path / "run" / "pairs.jsonl").exists()


def test_a_model_of_short_sight_is_told_before_any_answer(tmp_path, capsys):
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256, "sliding_window": 64}
    MistralForCausalLM(MistralConfig(**shape, **heads)).save_pretrained(tmp_path / "mistral")
    tokenizer.save_pretrained(tmp_path / "mistral")
    told = refusal(capsys, "logo", "--model", tmp_path / "mistral", "--output", tmp_path / "run")
    assert "choose a model with full attention" in told
    assert not (tmp_path / "run" / "pairs.jsonl").exists()


def test_a_large_model_gets_the_papers_settings():
    found = asdict(fill(LogoSettings(model="some/8B"), 8192))
    wanted = {"lora_rank": 32, "num_chunks": 16, "chunk_size": 448, "target_length": 32_768, "batch_size": 1}
    assert (wanted | {"gradient_accumulation_steps": 8}).items() <= found.items()
    assert fill(LogoSettings(model="some/8B"), 131_072).chunk_size == 512


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"loss_type": "ppo"}, "loss_type 'ppo' is unknown"),
        ({"position_mode": "far"}, "position_mode 'far' is unknown"),
        ({"rope": "far"}, "rope 'far' is unknown"),
        ({"rope": "ntk", "target_length": 0}, "rope is 'ntk' and target_length 0"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
        ({"attention": "flash"}, "attention 'flash' is unknown"),
        ({"scorer": "entities"}, "scorer is 'entities' and data 'haystack'"),
        ({"data": "nowhere.jsonl"}, "data 'nowhere.jsonl' is no file"),
        ({"steps": 0}, "steps is 0: give a positive whole number."),
        ({"learning_rate": -1.0}, "learning_rate is -1.0: give a positive learning rate."),
        ({"warmup": -1}, "warmup is -1: give 0 or more."),
        ({"loss_type": "sft", "beta": 1.0}, "beta is 1.0 and loss_type is 'sft', which has no beta"),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(changed, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        fill(LogoSettings(**changed), 256)


@pytest.mark.parametrize("name", ["./nowhere", "nobody/nothing"])
def test_a_model_that_is_not_there_is_one_sentence(capsys, tmp_path, name):
    told = refusal(capsys, "logo", "--model", name, "--output", tmp_path / "run")
    assert told.startswith(f"minilib: model {name!r} could not be loaded (")
    assert not (tmp_path / "run").exists()


def test_an_adapter_is_no_model_to_begin_with(run, tmp_path, capsys):
    told = refusal(capsys, "logo", "--model", run, "--output", tmp_path / "run")
    assert "is an adapter: give the model that it belongs to, or evaluate it with --run." in told


def test_a_chat_template_frames_the_prompt_and_the_first_token_comes_once():
    tokenizer = tiny_lm()[1]
    assert data_rows.prompt_for(tokenizer)(["a", " b"], "Why?") == "a b Question: Why? Answer:"
    tokenizer.bos_token = "<eos>"
    tokenizer.chat_template = "{{ bos_token }}[user] {{ messages[0]['content'] }}{{ ' [model]\n' }}"
    prompt = data_rows.prompt_for(tokenizer)(["a", " b"], "Why?")
    assert prompt == "<eos>[user] a b\n\nWhy? [model]\n"
    assert prompt_ids(tokenizer, prompt).count(tokenizer.bos_token_id) == 1


def test_eval_measures_the_aligned_model_beside_its_base(run, tmp_path, capsys):
    asked = ("--lengths", "[64,300]", "--samples", 2)
    minilib("eval", "--run", run, "--output", tmp_path, *asked)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    out = capsys.readouterr().out
    minilib("eval", "--model", "tiny", "--output", tmp_path / "tiny", *asked)
    alone = json.loads((tmp_path / "tiny" / "evaluation.json").read_text())["models"]["tiny"]
    base, aligned = found["models"]["base"], found["models"]["aligned"]
    assert base == alone  # the adapter is off
    assert aligned["perplexity"]["value"] != base["perplexity"]["value"]
    assert [len(row) for row in aligned["needle_map"]["accuracy"]] == [2] * 5
    assert aligned["lost_in_the_middle"]["length"] == 64
    for words in (
        "fact at 0%",
        "all depths",
        "recall of two details",
        "fact in 64 tokens",
        "perplexity over 256 tokens",
    ):
        assert words in out
    assert (tmp_path / "needle_map.png").read_bytes().startswith(b"\x89PNG")


def test_eval_reads_half_a_window_to_four_of_them():
    assert default_lengths(256) == [96, 224, 480, 992]
    assert default_lengths(131_072) == [32_736]


def test_without_a_gpu_a_large_window_is_asked_about_short_texts():
    """SmolLM2 on two cores: what `eval` does by default must end in minutes."""
    assert default_lengths(8_192, 100, on_gpu=False) == [412, 924]
    assert default_samples(8_192, on_gpu=False) == 2


def test_eval_refuses_texts_too_short_for_their_facts(run, capsys):
    assert "give 1 or more samples and 64 or more tokens" in refusal(capsys, "eval", "--run", run, "--lengths", "[8]")


@pytest.mark.parametrize(
    ("name", "described"), [("logo", LogoSettings), ("pairs", PairsSettings), ("eval", EvalSettings)]
)
def test_help_speaks_of_every_argument(name, described, capsys):
    with pytest.raises(SystemExit):
        minilib(name, "--help")
    shown = " ".join(capsys.readouterr().out.split())
    for name in inspect.signature(described).parameters:
        meaning = re.search(
            rf"^        {name}: (\S+ \S+)", inspect.getdoc(described).replace("\n", "\n    "), re.MULTILINE
        )
        assert meaning, f"{name} is not explained"
        assert f"--{name}" in shown
        assert meaning[1] in shown


def test_shorter_flags_are_other_names_of_their_settings_in_a_file_too(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "logo", seen.append)
    values = {"loss": "dpo", "target": 900, "positions": "pose", "accumulate": 3, "lr": 0.5}
    assert set(values) == set(ALIASES.values())
    minilib("logo", *(part for name, value in values.items() for part in (f"--{name}", value)))
    longer = {name: values[shorter] for name, shorter in ALIASES.items()}
    minilib("logo", *(part for name, value in longer.items() for part in (f"--{name}", value)))
    for number, named in enumerate((values, longer)):
        (tmp_path / f"{number}.yaml").write_text("".join(f"{name}: {value}\n" for name, value in named.items()))
        minilib("logo", "--config", tmp_path / f"{number}.yaml")
    assert seen == [LogoSettings(**longer)] * 4


def test_doctor_says_what_logo_can_use(monkeypatch):
    (line,) = [line for line in diagnosis() if line.startswith("logo ")]
    assert re.search(r"transformers [\d.]+, peft [\d.]+, accelerate [\d.]+; auto picks \w+, sdpa attention", line)
    monkeypatch.setattr("minilib.cli.doctor._installed", lambda package: package != "peft")
    assert "logo      not here: it needs peft (pip install peft)" in diagnosis()


@pytest.mark.slow
def test_two_ranks_of_torchrun_train_on_the_pairs_of_the_first(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "minilib"]
    flags = ["logo", "--output", tmp_path / "run", "--rows", 12, *QUICK]
    result = subprocess.run([*launch, *map(str, flags)], capture_output=True, text=True, env={**os.environ})
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("in 4 steps") == 1  # one rank speaks
    assert [record["step"] for record in records_of(tmp_path / "run")] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["ranks"] == 2
    assert Path(tmp_path / "run" / "adapter_config.json").exists()
