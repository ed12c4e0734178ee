"""Your own questions and pairs, in the forms that others publish them in, through `pairs`, `logo` and `eval`.

The tiny model answers, and models with random weights where its make does not matter; scores are recounted by hand.
"""

import json
import shlex

import pytest
import torch
from datasets import Dataset
from support.logo_runs import minilib, refusal, write_lines
from support.reference import refused
from support.toy_tokenizers import chatty
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from minilib.cli import make_pairs, own_questions
from minilib.cli import pairs as data_rows
from minilib.cli.evaluate import evaluate
from minilib.cli.settings import LogoSettings, fill
from minilib.data.running_text import token_counter
from minilib.evals.answers import contains_answer, plain_words
from minilib.evals.language_model import fitting_lengths
from minilib.models.loading import load_language_model
from minilib.models.tiny_lm import FOLDER, tiny_lm
from minilib.preferences.haystack_pairs import long_questions

QUICK = ("--steps", 2, "--batch_size", 2, "--lr", 0.01, "--warmup", 1, "--target", 0)


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def questions(count=6, length=200):
    asked = long_questions(count, tiny_lm()[1], length=length, distractors=6)
    return [{name: row[name] for name in ("context", "question", "answer")} for row in asked]


def as_longbench(row, number):
    more = {"length": len(row["context"].split()), "dataset": "needles", "language": "en", "all_classes": None}
    return {"input": row["question"], "context": row["context"], "answers": [row["answer"]], "_id": f"q{number}"} | more


def as_squad(row, number):
    answers = {"text": [row["answer"]], "answer_start": [row["context"].find(row["answer"])]}
    return {"id": f"q{number}", "context": row["context"], "question": row["question"], "answers": answers}


@pytest.fixture(params=["plain", "longbench", "squad"])
def asked(request, tmp_path):
    """A file of questions in one of three forms."""
    forms = {"plain": lambda row, number: row, "longbench": as_longbench, "squad": as_squad}
    rows = [forms[request.param](row, number) for number, row in enumerate(questions())]
    return write_lines(tmp_path / f"{request.param}.jsonl", rows)


# Pairs as a step of their own

ASKING = ("--threshold", 2, "--answer_tokens", 6, "--num_chunks", 4, "--chunk_size", 20)


def test_pairs_are_made_once_and_logo_trains_on_them(asked, tmp_path, monkeypatch, capsys):
    flags = ("pairs", "--data", asked, "--output", tmp_path / "pairs", *ASKING)
    minilib(*flags)
    made = read_lines(tmp_path / "pairs" / "pairs.jsonl")
    out = capsys.readouterr().out
    path = tmp_path / "pairs" / "pairs.jsonl"
    assert f"{path} holds {len(made)} pairs: python -m minilib logo --data {path}" in out
    assert made
    assert {row["question"] for row in made} <= {row["question"] for row in questions()}
    assert json.loads((tmp_path / "pairs" / "pairs_report.json").read_text())["rows"] == 6
    monkeypatch.setattr(data_rows, "build_pairs", None)  # nobody asks again
    minilib(*flags)
    assert "already finished, nothing to do" in capsys.readouterr().out
    minilib("logo", "--data", path, "--output", tmp_path / "run", *QUICK)
    assert data_rows.read_data(str(path.parent))[1].to_list() == data_rows.read_data(str(path))[1].to_list()
    assert "in 2 steps" in capsys.readouterr().out
    told = refusal(capsys, *flags, "--seed", 3)
    assert "was begun with seed=0, this run has seed=3" in told


def test_the_next_command_names_the_model_and_quotes_what_a_shell_would_split(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make_pairs, "window_of", lambda *_, **__: 512)
    monkeypatch.setattr(make_pairs, "_loaded", lambda _: None)
    monkeypatch.setattr(data_rows, "answered_pairs", lambda *_, **__: [1])
    asked = write_lines(tmp_path / "asked.jsonl", questions())
    minilib("pairs", "--model", tmp_path / "my llama", "--data", asked, "--output", tmp_path / "my pairs")
    command = capsys.readouterr().out.split("pairs: python -m minilib ")[1]
    given = ["--model", str(tmp_path / "my llama"), "--data", str(tmp_path / "my pairs" / "pairs.jsonl")]
    assert shlex.split(command) == ["logo", *given]


def test_a_run_goes_on_under_either_name_of_a_dtype():
    short, long = (fill(LogoSettings(dtype=name), 256) for name in ("bf16", "bfloat16"))
    assert short == long


@pytest.mark.parametrize("window", [64, 256, 1_024, 2_048, 8_192, 131_072])
def test_by_default_chunks_question_and_answer_fit_the_window(window, tmp_path):
    path = write_lines(tmp_path / "questions.jsonl", questions(1))
    settings = fill(LogoSettings(model="mine", data=str(path)), window)
    room = window - settings.chunk_size * settings.num_chunks - settings.answer_tokens
    assert room >= window // 16  # for the question


def talkative_model(folder):
    """Random weights behind the tiny model's tokenizer: its answers do not end before they are cut."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, eos_token_id=None, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_logo_trains_on_what_pairs_makes_by_default(tmp_path, capsys):
    model = talkative_model(tmp_path / "model")
    path = write_lines(tmp_path / "questions.jsonl", questions(8, length=600))
    minilib("pairs", "--model", model, "--data", path, "--output", tmp_path / "pairs", "--threshold", 2)
    made = tmp_path / "pairs" / "pairs.jsonl"
    minilib("logo", "--model", model, "--data", made, "--output", tmp_path / "run", *QUICK)
    assert "in 2 steps" in capsys.readouterr().out


def test_the_most_frequent_reason_names_what_to_change(tmp_path):
    report = tmp_path / "pairs_report.json"
    report.write_text(json.dumps({"skipped": {"no critical chunk": 1, "longer than the model reads": 2}}))
    assert data_rows._advice(report, LogoSettings(threshold=6)) == "lower chunk_size or answer_tokens"
    report.write_text(json.dumps({"skipped": {}}))
    assert data_rows._advice(report, LogoSettings(threshold=6)) == "try another model"


def test_a_question_too_long_for_a_table_of_positions_is_counted_and_the_others_answered(tmp_path):
    torch.manual_seed(0)
    model, rows = gpt2(tmp_path / "gpt2", positions=128), questions(8)
    rows[4]["question"] += " Say it at once." * 20
    path = write_lines(tmp_path / "questions.jsonl", rows)
    minilib("pairs", "--model", model, "--data", path, "--output", tmp_path / "out", *ASKING)
    report = json.loads((tmp_path / "out" / "pairs_report.json").read_text())
    assert report["rows"] == 8
    assert report["pairs"] > 0
    assert report["skipped"]["longer than the model reads"] == 1


def test_a_pair_that_a_table_of_positions_holds_is_kept_though_nothing_could_follow_its_prompt(tmp_path, monkeypatch):
    """No model answers the whole prompt of a pair, only what chosen and rejected answers read of it."""
    asked = {}
    monkeypatch.setattr(data_rows, "build_pairs", lambda *args, **settings: asked.update(settings, answer=args[1]))
    model = gpt2(tmp_path / "gpt2", positions=128)
    settings = fill(LogoSettings(model=str(model), data=str(tmp_path), answer_tokens=6), 128)
    data_rows._from_questions(load_language_model(str(model)), None, settings, tmp_path / "pairs.jsonl")
    assert asked["max_tokens"] == 128
    prompts = ["the" + " the" * (n - 1) for n in (119, 120, 121, 127)]
    assert [token_counter(tiny_lm()[1])(prompt) for prompt in prompts] == [119, 120, 121, 127]
    answers = asked["answer"](prompts)
    assert answers[2:] == ["", ""]
    assert all(answers[:2])


def test_an_answer_to_a_prompt_beyond_the_table_is_empty_and_the_others_keep_their_places():
    answered = data_rows._where_it_fits(lambda prompts: [prompt.upper() for prompt in prompts], len, most=6)
    assert answered(["abc", "abcde", "abcd"]) == ["ABC", "", "ABCD"]
    assert answered(["abcdefgh"]) == [""]


def test_interrupted_pairs_go_on_and_end_as_unbroken_ones(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "questions.jsonl", questions(12))
    flags = ("pairs", "--data", path, *ASKING)
    make, calls = data_rows.make_answer_fn, []

    def breaking(*args, **settings):
        answer = make(*args, **settings)

        def answered(prompts):
            calls.append(len(prompts))
            if len(calls) == 4:
                raise KeyboardInterrupt
            return answer(prompts)

        return answered

    monkeypatch.setattr(data_rows, "make_answer_fn", breaking)
    with pytest.raises(SystemExit):
        minilib(*flags, "--output", tmp_path / "broken")
    assert not (tmp_path / "broken" / "pairs_report.json").exists()
    monkeypatch.setattr(data_rows, "make_answer_fn", make)
    for name in ("broken", "whole"):
        minilib(*flags, "--output", tmp_path / name)
    ends = [(tmp_path / name / "pairs.jsonl").read_bytes() for name in ("broken", "whole")]
    assert ends[0] == ends[1]


def test_pairs_of_pairs_are_refused(tmp_path, capsys):
    path = write_lines(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": " b", "rejected": " c"}])
    told = refusal(capsys, "pairs", "--data", path, "--output", tmp_path / "out")
    assert "holds pairs already: train on them with `python -m minilib logo`" in told


def test_columns_of_other_names_are_named(tmp_path, capsys):
    rows = [{"book": r["context"], "ask": r["question"], "gold": r["answer"]} for r in questions()]
    path = write_lines(tmp_path / "mine.jsonl", rows)
    told = refusal(capsys, "pairs", "--data", path, "--output", tmp_path / "out")
    assert "has the columns ['book', 'ask', 'gold']: give pairs with" in told
    names = ("--context_column", "book", "--question_column", "ask", "--answer_column", "gold")
    minilib("pairs", "--data", path, "--output", tmp_path / "out", *ASKING, *names)
    assert read_lines(tmp_path / "out" / "pairs.jsonl")
    minilib("eval", "--model", "tiny", "--data", path, "--output", tmp_path / "eval", "--answer_tokens", 4, *names)
    told = refusal(capsys, "eval", "--model", "tiny", "--data", path, *names[:4], "--answer_column", "golden")
    assert "data has no column 'golden' in row 0 nor in any other" in told


# Own questions scored


def test_eval_scores_your_own_questions(asked, tmp_path, capsys):
    minilib("eval", "--model", "tiny", "--data", asked, "--output", tmp_path / "out", "--answer_tokens", 6)
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    scores = found["models"]["tiny"]
    lines = read_lines(tmp_path / "out" / "answers-model.jsonl")
    assert [line["row"] for line in lines] == list(range(6))
    assert scores["questions"] == 6
    golds = [row["answer"] for row in questions()]
    assert [line["accepted"] for line in lines] == [[gold] for gold in golds]
    right = [contains_answer(line["answer"], {"answer": gold}) for line, gold in zip(lines, golds)]
    same = [plain_words(line["answer"]) == plain_words(gold) for line, gold in zip(lines, golds)]
    assert scores["contains"] == sum(right) / 6
    assert scores["exact"] == sum(same) / 6
    assert scores["contains"] > 0.5  # the tiny model does answer
    assert 0 < scores["f1"] <= 1
    assert f"{scores['contains']:.1%}" in capsys.readouterr().out


def test_a_run_of_logo_is_scored_next_to_its_base(tmp_path):
    pairs = [
        {
            "prompt": f"Oslo keeps {good}. Question: What does Oslo keep? Answer:",
            "chosen": f" {good}",
            "rejected": " tea",
        }
        for good in ("amber", "silk", "salt", "wool")
    ]
    path = write_lines(tmp_path / "pairs.jsonl", pairs)
    minilib("logo", "--data", path, "--output", tmp_path / "run", *QUICK)
    asked = write_lines(tmp_path / "questions.jsonl", questions(3))
    evaluate(run=tmp_path / "run", data=str(asked), answer_tokens=4)
    models = json.loads((tmp_path / "run" / "evaluation.json").read_text())["models"]
    assert set(models) == {"base", "aligned"}
    assert all(len(read_lines(tmp_path / "run" / f"answers-{name}.jsonl")) == 3 for name in models)


def test_answers_of_other_weights_are_not_taken_for_those_of_the_model(tmp_path, capsys):
    model = gpt2(tmp_path / "gpt2")
    path = write_lines(tmp_path / "questions.jsonl", questions(2))
    flags = ("eval", "--model", model, "--data", path, "--output", tmp_path / "out", "--answer_tokens", 2)
    minilib(*flags)
    gpt2(tmp_path / "gpt2")  # trained anew, so to speak
    assert "answers-model.jsonl was begun with weights=" in refusal(capsys, *flags)


@pytest.mark.parametrize("command", ["logo", "pairs"])
def test_more_answer_tokens_than_the_window_are_refused(tmp_path, capsys, command):
    path = write_lines(tmp_path / "questions.jsonl", questions(1))
    told = refusal(capsys, command, "--data", path, "--output", tmp_path / "out", "--answer_tokens", 100_000)
    assert "100,000" in told


def test_an_interrupted_evaluation_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    path = write_lines(tmp_path / "questions.jsonl", questions(5))
    flags = ("eval", "--model", "tiny", "--data", path, "--output", tmp_path / "out", "--answer_tokens", 4)
    monkeypatch.setattr(own_questions, "BATCH", 2)
    make, asked = own_questions.make_answer_fn, []

    def breaking(*args, **settings):
        answer = make(*args, **settings)

        def answered(prompts):
            asked.extend(prompts)
            if len(asked) == 4:
                raise KeyboardInterrupt
            return answer(prompts)

        return answered

    monkeypatch.setattr(own_questions, "make_answer_fn", breaking)
    with pytest.raises(SystemExit):
        minilib(*flags)
    assert len(read_lines(tmp_path / "out" / "answers-model.jsonl")) == 2
    minilib(*flags)
    assert len(asked) == 2 + 2 + 3  # the two that were answered are not asked again
    lines = read_lines(tmp_path / "out" / "answers-model.jsonl")
    assert [line["row"] for line in lines] == list(range(5))
    told = refusal(capsys, *flags[:-1], 5)
    assert "was begun with answer_tokens=4, now it is 5" in told


def test_questions_longer_than_the_window_are_named_or_cut(tmp_path, capsys):
    rows = [*questions(2), *questions(2, length=400)]
    path = write_lines(tmp_path / "questions.jsonl", rows)
    flags = ("eval", "--model", "tiny", "--data", path, "--answer_tokens", 4)
    minilib(*flags, "--output", tmp_path / "whole")
    assert "longer than the window of 256 tokens in rows 2, 3: they are asked in full" in capsys.readouterr().err
    minilib(*flags, "--output", tmp_path / "cut", "--cut_middle", "true")
    assert "longer than the window" not in capsys.readouterr().err
    whole, cut = (read_lines(tmp_path / name / "answers-model.jsonl") for name in ("whole", "cut"))
    assert [line["cut"] for line in whole] == [False] * 4
    assert [line["cut"] for line in cut] == [False, False, True, True]
    assert max(line["tokens"] for line in whole) > 256
    assert all(240 < line["tokens"] <= 252 for line in cut[2:])
    assert json.loads((tmp_path / "cut" / "evaluation.json").read_text())["models"]["tiny"]["cut"] == 2


@pytest.mark.parametrize("fast", [True, False])
def test_the_middle_is_left_out_and_both_ends_stay(fast):
    from support.toy_tokenizers import byte_pairs, slow_bytes

    tokenizer = byte_pairs() if fast else slow_bytes()
    text = "The Seine flows through Paris, to the sea. " * 10
    cut = own_questions.without_middle(tokenizer, text, 20)
    assert len(tokenizer.encode(cut, add_special_tokens=False)) in range(18, 23)
    assert text.startswith(cut[:8])
    assert text.endswith(cut[-8:])
    assert own_questions.without_middle(tokenizer, text, 10_000) == text
    assert own_questions.without_middle(tokenizer, text, 0) == ""


def gpt2(folder, positions=256):
    """A model whose positions come from a table, with the tokenizer of the tiny model."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    shape = {"vocab_size": len(tokenizer), "n_positions": positions, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=1)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_eval_keeps_within_a_table_of_positions(tmp_path, capsys):
    model = gpt2(tmp_path / "gpt2")
    minilib("eval", "--model", model, "--samples", 1, "--output", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["models"][str(model)]["needle_map"]["lengths"] == [96, 224]
    told = refusal(capsys, "eval", "--model", model, "--samples", 1, "--lengths", "[96,480]")
    assert "lengths has 480 and the model's position table 256 positions, 32 of them for question and answer" in told


def test_a_table_too_short_for_any_haystack_is_told(tmp_path):
    model = GPT2LMHeadModel.from_pretrained(gpt2(tmp_path / "gpt2", positions=64))
    with pytest.raises(ValueError, match="lengths has 32 and the model's position table 64 positions, 32 of them for"):
        fitting_lengths(model, tiny_lm()[1], 64)


def test_own_questions_beyond_a_table_are_refused_or_cut(tmp_path, capsys):
    model = gpt2(tmp_path / "gpt2")
    path = write_lines(tmp_path / "questions.jsonl", [*questions(2), *questions(1, length=400)])
    flags = ("eval", "--model", model, "--data", path, "--output", tmp_path / "out", "--answer_tokens", 4)
    told = refusal(capsys, *flags)
    assert "longer than the 256 positions of the model, the answer included, in row 2: cut them with cut_middle" in told
    minilib(*flags, "--cut_middle", "true")
    assert [line["cut"] for line in read_lines(tmp_path / "out" / "answers-model.jsonl")] == [False, False, True]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--answer_tokens", 100_000), "answer_tokens is 100,000 and the model's window 256 tokens"),
        (("--answer_tokens", 0), "answer_tokens is 0"),
        (("--data", "nowhere.jsonl"), "data 'nowhere.jsonl' does not exist"),
        (("--data", ""), "data is empty"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path, capsys, flags, words):
    path = write_lines(tmp_path / "questions.jsonl", questions(1))
    assert words in refusal(capsys, "eval", "--model", "tiny", "--data", path, "--output", tmp_path / "out", *flags)


def test_bad_questions_are_listed(tmp_path, capsys):
    rows = questions(2) + [{"context": "c", "question": "q", "answer": ""}] * 14
    path = write_lines(tmp_path / "questions.jsonl", rows)
    told = refusal(capsys, "eval", "--model", "tiny", "--data", path)
    assert told.startswith("minilib: data has no 'answer' in row 2; data has no 'answer' in row 3; ")
    assert told.endswith("; and 4 rows more: fix these rows or leave them out.")


# Pairs of TRL's forms


def chat_model(folder):
    tokenizer = chatty()
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **shape)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_conversational_rows_train_without_any_flag_for_them(tmp_path, capsys):
    def say(role, text):
        return [{"role": role, "content": text}]

    rows = [
        {"prompt": say("user", "What?"), "chosen": say("assistant", f"Paris {k}"), "rejected": say("assistant", "Rome")}
        for k in range(4)
    ]
    whole = [{name: row["prompt"] + row[name] for name in ("chosen", "rejected")} for row in rows]
    model = chat_model(tmp_path / "model")
    losses = []
    for name, table in (("explicit", rows), ("implicit", whole)):
        path = write_lines(tmp_path / f"{name}.jsonl", table)
        flags = ("--steps", 1, "--warmup", 0, "--lora_modules", "[q_proj]")
        minilib("logo", "--model", model, "--data", path, "--output", tmp_path / name, *flags)
        assert "4 pairs with prompts of up to" in capsys.readouterr().out
        losses.append(json.loads((tmp_path / name / "records.json").read_text())[0]["loss"])
    assert losses[0] == losses[1]


def test_questions_to_a_chat_model_become_pairs_in_its_template(tmp_path):
    model = chat_model(tmp_path / "model")
    rows = [
        {"context": "The sea. " * 20 + "Oslo keeps tea. " + "The sea. " * 20, "question": "What does Oslo keep?",
         "answer": "tea"}
    ]  # fmt: skip
    path = write_lines(tmp_path / "questions.jsonl", rows)
    flags = ("--threshold", 0, "--answer_tokens", 4, "--num_chunks", 2, "--chunk_size", 30)
    minilib("pairs", "--model", model, "--data", path, "--output", tmp_path / "pairs", *flags)
    for pair in read_lines(tmp_path / "pairs" / "pairs.jsonl"):
        assert pair["prompt"].startswith("<|im_start|>user\n")
        assert pair["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert pair["separator"] == ""


def pairs_of(count, **changed):
    return [
        {"prompt": f"Oslo keeps tea {k}.", "chosen": " tea", "rejected": [" silk", " wool"]} | changed
        for k in range(count)
    ]


BAD = {
    "numeric chosen": ({"chosen": 7}, "row 2 has 7 as chosen: give a text that is not empty."),
    "null": ({"chosen": None}, "data has no 'chosen' in row 2: fill the field or leave out the row."),
    "empty": ({"rejected": []}, "data has no 'rejected' in row 2"),
    "nested null": ({"rejected": [" a", None]}, "row 2 has None as rejected[1]"),
    "longer than the window": (
        {"prompt": "Oslo keeps tea. " * 80},
        "tokens of prompt and 2 of an answer, and the model reads 256",
    ),
    "messages without a template": (
        {"prompt": [{"role": "user", "content": "a"}]}
        | {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")},
        "the tokenizer has no chat template for messages",
    ),
}


def test_questions_without_words_are_named_before_anything_is_answered(tmp_path, capsys):
    """LongBench has rows with a context alone, which `eval` asks and nobody can make a pair of."""
    rows = [as_longbench(row, number) for number, row in enumerate(questions(4))]
    rows[1]["input"] = rows[3]["input"] = ""
    path = write_lines(tmp_path / "a.jsonl", rows)
    told = refusal(capsys, "pairs", "--data", path, "--output", tmp_path / "run", *ASKING)
    assert "data has no question in rows 1, 3: fill the field or leave out the row" in told
    assert not (tmp_path / "run").exists()


def test_what_pairs_writes_into_the_data_folder_is_no_data(tmp_path, capsys):
    (data := tmp_path / "data").mkdir()
    write_lines(data / "a.jsonl", questions(4))
    for _ in range(2):
        minilib("pairs", "--data", data, "--output", data / "run", *ASKING)
    write_lines(data / "b.jsonl", questions(1))
    told = refusal(capsys, "pairs", "--data", data, "--output", data / "run", *ASKING)
    assert "was begun with data_sha256" in told
    told = refusal(capsys, "eval", "--model", "tiny", "--data", data, "--output", data / "eval")
    assert "lies in the data, where its files would be questions: choose another." in told


def test_the_cache_next_to_a_saved_table_is_no_data(tmp_path):
    rows = [as_squad(row, number) for number, row in enumerate(questions(4))]
    Dataset.from_list(rows).save_to_disk(tmp_path / "data")
    for _ in range(2):
        evaluate(model="tiny", data=str(tmp_path / "data"), output=tmp_path / "run", answer_tokens=4)
    assert list((tmp_path / "data").glob("cache-*.arrow")), "nothing was written there, so this shows nothing"


def test_a_question_without_a_prompt_is_one_behind_its_system_message(tmp_path, capsys):
    row = {"chosen": "It is tea.", "rejected": "It is silk."}
    user = {"role": "user", "content": "What?"}
    for name, system in (("question", "Be brief."), ("instruction", ""), ("input", None)):
        path = write_lines(tmp_path / f"{name}.jsonl", [row | {name: "What?", "system": system}] * 2)
        kind, table = data_rows.read_data(str(path))
        wanted = [{"role": "system", "content": system}, user] if system else [user]
        assert (kind, table["prompt"][1]) == ("pairs", wanted)
    path = write_lines(tmp_path / "both.jsonl", [row | {"question": "What?", "input": "Oslo keeps tea."}])
    refused(
        ValueError,
        "data has 'question' and 'input' and no 'prompt' in row 0: give",
        lambda: data_rows.read_data(str(path)),
    )
    assert capsys.readouterr().err.count("minilib:") == 0
    data_rows.read_data(str(write_lines(tmp_path / "system.jsonl", [row | {"prompt": "What?", "system": "Be brief."}])))
    assert "minilib: data has a column 'system', which is not read: put it into the prompt." in capsys.readouterr().err


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_with_its_field(tmp_path, capsys, case):
    changed, words = BAD[case]
    rows = pairs_of(4)
    rows[2] |= changed
    path = write_lines(tmp_path / "pairs.jsonl", rows)
    flags = ("--num_rejected", 1) if case.startswith("messages") else ()
    assert words in refusal(capsys, "logo", "--data", path, "--output", tmp_path / "run", *QUICK, *flags)


def test_equal_answers_and_words_that_run_together_are_told_and_trained(tmp_path, capsys):
    rows = pairs_of(6)
    rows[1]["rejected"] = [" wool", " tea"]
    rows[4] |= {"chosen": "tea"}
    rows[5] |= {"chosen": rows[5]["prompt"] + " tea"}
    path = write_lines(tmp_path / "pairs.jsonl", rows)
    minilib("logo", "--data", path, "--output", tmp_path / "run", *QUICK)
    err = capsys.readouterr().err
    assert "minilib: data has row 1 with a rejected answer equal to the chosen one." in err
    assert "minilib: data has no blank between prompt and chosen answer in rows 4, 5, and none is put there" in err
    assert "minilib: data has row 5 with a chosen answer that repeats the prompt before it." in err


def test_one_rejected_answer_for_each_prompt_needs_no_flag():
    given = LogoSettings(data=str(FOLDER / "config.json"))
    filled = fill(given, 256)
    table = Dataset.from_list(pairs_of(3, rejected=" silk"))
    fitted = data_rows.fit_to_data(given, filled, "pairs", table)
    assert (fitted.num_rejected, fitted.target_length) == (1, 0)
    assert data_rows.fit_to_data(given, filled, "pairs", Dataset.from_list(pairs_of(3))).num_rejected == 2
    assert data_rows.fit_to_data(given, filled, "questions", table) == filled
