"""The tiny model answers in its window, fails beyond it, loads quickly offline, and one command makes it again."""

import json
import subprocess
import sys
from itertools import islice
from random import Random

import pytest
import torch
from support.reference import refused

from minilib.data.facts import NAMES, NUMBERS, VALUES, as_prompt
from minilib.data.haystack import haystack
from minilib.evals.longcontext import kind_scores
from minilib.models.tiny_lm import FOLDER, WINDOW, new_model, tiny_lm
from minilib.teaching.tiny_lm.documents import Stage, make_batch, make_document
from minilib.teaching.tiny_lm.training import STAGES, train_tiny_lm

SEEDS = (11, 12, 13)  # of the haystacks; the record in the checkpoint used others


@pytest.fixture(scope="module")
def loaded():
    return tiny_lm()


def accuracy(loaded, length, seed):
    return kind_scores(*loaded, kind="single", length=length, samples=100, seed=seed)["accuracy"]


@pytest.mark.parametrize("seed", SEEDS)
def test_single_details_are_found_inside_the_window(loaded, seed):
    assert accuracy(loaded, WINDOW - 32, seed) >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_most_details_are_lost_at_four_windows(loaded, seed):
    assert accuracy(loaded, 4 * WINDOW - 32, seed) < 0.5


def test_the_record_holds_what_the_checkpoint_scores(loaded):
    record = json.loads((FOLDER / "training.json").read_text())
    assert record["command"] == "python -m minilib.teaching.tiny_lm.training"
    assert [stage["steps"] for stage in record["stages"]] == [stage.steps for stage in STAGES]
    seed, samples = record["seeds"][0], record["samples"]
    now = kind_scores(*loaded, kind="single", length=WINDOW - 32, samples=samples, seed=seed)["accuracy"]
    # Other versions of Python, whose documentation is the running text, read a little different.
    assert now == pytest.approx(record["scores"]["single, in the window"][0], abs=0.05)


def test_the_checkpoint_is_small_and_has_every_file():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= set(files)
    assert sum(files.values()) < 4 * 2**20


def test_it_loads_in_two_seconds_without_a_network():
    script = (
        "import time, socket, transformers.models.llama.modeling_llama as _\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "socket.socket.connect = None  # any use of the network would raise\n"
        "from minilib.models.tiny_lm import tiny_lm\n"
        "start = time.process_time(); tiny_lm(); print(time.process_time() - start)\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert float(out) < 2


def test_every_word_of_a_fact_is_one_token_wherever_it_stands(loaded):
    tokenizer = loaded[1]
    for word in (*NAMES, *VALUES, *NUMBERS):
        (token,) = tokenizer.encode(word)
        assert tokenizer.encode(f"It is {word}.")[-2] == token


def test_the_tokenizer_gives_every_text_back(loaded):
    for text in ("Lisbon keeps amber.", "Ünïcode, tabs\tand\nlines: 12,5 %", "x" * 50):
        assert loaded[1].decode(loaded[1].encode(text)).removeprefix(" ") == text


def test_shifting_all_positions_changes_nothing(loaded):
    model, tokenizer = loaded
    row = next(haystack(length=200, tokenizer=tokenizer))
    ids = tokenizer(as_prompt(row["context"], row["question"]), return_tensors="pt", return_token_type_ids=False)
    place = torch.arange(ids["input_ids"].shape[1])[None]
    with torch.no_grad():
        here, there = (model(**ids, position_ids=place + shift).logits for shift in (0, 5000))
    torch.testing.assert_close(here, there, atol=2e-3, rtol=0)


def test_training_documents_stay_in_the_window_and_mark_only_answers(loaded):
    tokenizer, rng = loaded[1], Random(0)
    for stage in STAGES:
        for _ in range(20):
            ids, spans, _, _ = make_document(rng, stage, tokenizer)
            assert len(ids) <= stage.length <= WINDOW
            assert spans, "a document without a question"
            for first, last in spans:
                assert tokenizer.decode(ids[:first]).endswith(" Answer:")
                assert ids[last - 1] == tokenizer.eos_token_id
                assert tokenizer.eos_token_id not in ids[first : last - 1]


def test_hints_point_from_the_asking_token_to_the_right_one(loaded):
    tokenizer = loaded[1]
    batch = make_batch(Random(1), STAGES[1], tokenizer)
    seen = set()
    for document, q, p in batch.name.tolist():
        words = tokenizer.convert_ids_to_tokens(batch.ids[document])
        assert p < q
        assert words[p][1:] in NAMES
        assert words[q] == ":" or words[q][1:] in VALUES
    for document, q, p in batch.value.tolist():
        words = tokenizer.convert_ids_to_tokens(batch.ids[document])
        # What the token after q says is what stands at p.
        assert words[q + 1] == words[p]
        seen.add(words[q])
    assert seen == {":", "Ġand"}


def test_one_command_trains_saves_and_reports(tmp_path):
    short = (Stage(3, 4, 64, (2, 4), (3, 4), 1.0), Stage(2, 2, 96, (2, 4), (2, 3), 0.0))
    record = train_tiny_lm(tmp_path, stages=short, samples=2, progress=False)
    assert record["kept_step"] == record["curve"][-1]["step"] == 5
    assert all(len(scores) == 3 for scores in record["scores"].values())
    model, tokenizer = tiny_lm(tmp_path)
    assert len(tokenizer) == model.config.vocab_size == 2048


def test_the_same_seed_trains_the_same_model(tmp_path):
    short = (Stage(2, 2, 64, (2, 4), (3, 4), 1.0),)
    for folder in ("one", "two"):
        train_tiny_lm(tmp_path / folder, stages=short, samples=1, progress=False)
    one, two = (tiny_lm(tmp_path / folder)[0].state_dict() for folder in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_folder_without_a_model_is_refused(tmp_path):
    refused(ValueError, "has no config.json and no model.safetensors and no tokenizer.json", lambda: tiny_lm(tmp_path))


def test_an_untrained_model_finds_nothing(loaded):
    torch.manual_seed(0)
    fresh = new_model(len(loaded[1])).eval()
    assert kind_scores(fresh, loaded[1], length=100, samples=20)["accuracy"] < 0.1
    assert next(islice(fresh.parameters(), 1)).dtype == torch.float32
