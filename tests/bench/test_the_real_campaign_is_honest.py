"""The campaign on a real model: texts without a leak, answers judged by rule, and a stop that goes on.

A random model of two layers stands in for the real one, and records made up here have known answers.
"""

import itertools
import json
import time
from pathlib import Path

import pytest
import torch

from minilib.bench import device
from minilib.bench.ablation import bench_alignment
from minilib.bench.real_alignment import campaign, figures, neighbours, one_run, pages, people, recipe
from minilib.bench.real_alignment.answers import answers_about
from minilib.bench.real_alignment.arms import ARMS, in_order, named
from minilib.data.facts import words_of
from minilib.data.running_text import prose_sentences, token_counter
from minilib.evals.answers import contains
from minilib.models.generation import make_answer_fn
from minilib.trainers import LogoConfig
from minilib.trainers.collator import as_packed

RECORDS = Path(__file__).parents[2] / "book" / "results" / "smollm2" / "records"
SETTINGS = campaign.FULL | campaign.QUICK
PROSE = {word for sentence in prose_sentences() for word in words_of(sentence.lower())}


def texts(part=0, count=4, length=600):
    return list(itertools.islice(people.documents(length=length, seed=3, measure=token_counter(), part=part), count))


@pytest.fixture(scope="module")
def loaded():
    return one_run.loaded("a random model", SETTINGS)


def test_no_value_occurs_in_the_prose_and_training_and_evaluation_share_none():
    assert not {value.lower() for kind in people.VALUES.values() for value in kind} & PROSE
    held = [{v for text in texts(part) for mine in text["people"].values() for v in mine.values()} for part in (0, 1)]
    assert not held[0] & held[1]


def test_every_fact_stands_once_in_its_text_and_the_text_is_as_long_as_asked():
    for text in texts():
        assert text["tokens"] <= 600
        assert len(text["facts"]) == sum(map(len, text["people"].values()))
        assert all(text["context"].count(fact["text"]) == 1 for fact in text["facts"])
        assert all(0 <= fact["depth"] <= 1 for fact in text["facts"])


@pytest.mark.parametrize(
    ("answer", "right", "wrong", "sentence"),
    [
        ("Tarel Vobim works as a baker and lives in Oslo.", [True, True], [], True),
        ("Tarel Vobim works as a baker.", [True, False], [], True),
        ("Tarel Vobim works as a baker and lives in Cairo.", [True, False], ["Cairo"], True),
        ("baker, Oslo", [True, True], [], False),
        ("Tarel Vobim works as a baker and lives in", [True, False], [], False),
        ("It is a function.", [False, False], [], True),
        ("Sazel Nudik works as a baker. Tarel Vobim lives in Oslo.", [False, True], ["baker"], False),
        ("Tarel Fobim works as a baker, while Sesen Fesik lives in Oslo.", [True, False], ["Oslo"], True),
        ("Sazel Nudik lives in Oslo and Tarel Vobim lives in Oslo.", [False, True], [], True),
        ("Tarel Vobim works as a baker in Oslo and has a mouse.", [True, True], ["mouse"], True),  # the example's
        ("Orlen Fask works as a baker.", [False, False], ["baker"], True),
        ("In Oslo Tarel Vobim works as a baker.", [True, True], [], True),
    ],
)
def test_answers_are_judged_by_the_values_they_name(answer, right, wrong, sentence):
    told = {"right": right, "wrong": wrong, "sentence": sentence}
    assert people.judged(answer, ["baker", "Oslo"], "Tarel Vobim") == told
    row = {"values": ["baker", "Oslo"], "facts": [{"name": "Tarel Vobim", "asked": True}]}
    assert people.all_right(answer, row) == (all(right) and not wrong)


def test_values_of_the_example_stand_in_no_list_and_in_no_text():
    found = {value for facts in people.EXAMPLE.values() for value in facts.values()}
    assert not found & {*people.ALL_VALUES}
    assert not {value.lower() for value in found} & PROSE


def test_stored_answers_are_judged_as_today():
    """The verdicts of the book come from its answers; who cares for another rule can judge them anew."""
    for path in RECORDS.glob("*.json"):
        scores = json.loads(path.read_text())["scores"]
        for told in (told for part, found in scores.items() if part.startswith("text ") for told in found):
            assert told | people.judged(told["answer"], told["values"], told["name"]) == told


def test_what_the_page_says_of_single_answers_is_so():
    """One chosen answer is wrong by the rule of today; LongPO answers nearly as SFT at stretched positions does."""
    wrong = []
    for line in (RECORDS.parent / "pairs.jsonl").read_text().splitlines():
        pair = json.loads(line)
        values = [value for value in people.ALL_VALUES if contains(pair["answer"], value)]
        row = {"values": values, "facts": [{"name": " ".join(pair["answer"].split()[:2]), "asked": True}]}
        wrong += [] if people.all_right(pair["chosen"], row) else [pair["row"]]
    assert wrong == [64]
    scores = [json.loads((RECORDS / f"{arm}-1.json").read_text())["scores"]
              for arm in ("longpo_ours", "sft_stretched_positions")]  # fmt: skip
    answers = [[told["answer"] for part in found if part.startswith("text ") for told in found[part]]
               for found in scores]  # fmt: skip
    assert sum(one == other for one, other in zip(*answers, strict=True)) == 78


def test_a_long_answer_without_an_end_is_judged_at_once():
    began = time.process_time()
    assert not people.judged("A " + "word of it and " * 100, ["baker"])["sentence"]
    assert time.process_time() - began < 1


def test_our_own_sentence_is_right(loaded):
    for text in texts():
        for name in text["people"]:
            row = people.asked(text, name)
            assert people.all_right(row["answer"], row)
            assert row["question"] in recipe.prompt_maker(loaded[1])([row["context"]], row["question"])


def test_answers_behind_a_shared_text_are_those_of_each_prompt_alone(loaded):
    model, tokenizer = loaded
    torch.manual_seed(1)
    for parameter in model.parameters():  # a fresh model says one token for ever
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    make = recipe.prompt_maker(tokenizer)
    (text,) = texts(count=1, length=300)
    prompts = [make([text["context"]], people.asked(text, name)["question"]) for name in text["people"]]
    alone = make_answer_fn(model, tokenizer, max_new_tokens=6)
    found = answers_about(model, tokenizer, prompts, 6)
    assert found == alone(prompts)
    assert len({*found}) > 1
    assert answers_about(model, tokenizer, prompts[:1], 6) == found[:1]


def test_one_seed_of_every_arm_comes_first_then_the_five_that_matter_most():
    jobs = in_order(named(None), (1, 2, 3))
    assert [seed for _, seed in jobs[: len(ARMS)]] == [1] * len(ARMS)
    assert {arm.name for arm, _ in jobs[len(ARMS) : len(ARMS) + 10]} == {
        "base", "SFT", "SFT, stretched positions", "SimPO, M = 1", "LOGO",
    }  # fmt: skip
    with pytest.raises(ValueError, match="arms holds 'nothing': choose among 'base', 'SFT'"):
        named(["nothing"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A quick campaign of four arms that was stopped twice before it came to its end."""
    output = tmp_path_factory.mktemp("real")
    settings = {"model": "random", "quick": True, "workers": 1, "output": output, "seeds": (1,)}
    bench_alignment(arms=["LOGO"], budget=0.0, **settings)
    assert not list((output / "records").iterdir())
    made = one_run.make_pairs("random", SETTINGS, SETTINGS["pairs"], output / "pairs.jsonl", None)
    assert made["pairs"] == SETTINGS["pairs"]
    return output, bench_alignment(arms=["LOGO", "SoLoPO (ours)", "LongPO (ours)"], **settings)


def test_a_campaign_leaves_records_document_and_page(finished):
    output, document = finished
    assert set(document["arms"]) == {"base", "LOGO", "SoLoPO (ours)", "LongPO (ours)"}
    assert json.loads((output / "real_alignment.json").read_text())["arms"] == json.loads(json.dumps(document["arms"]))
    page = (output / "real_alignment.md").read_text()
    assert "## Inside the window" in page
    assert "| LOGO | 1 |" in page
    assert "we know the abstract of arXiv 2505.11166, which names two parts, and not its formula" in page
    assert "formula, beta and lambda are as others quote them" in pages.plain(document)
    logo = [record for record in document["records"] if record["arm"] == "LOGO"]
    without = document | {"arms": {"LOGO": document["arms"]["LOGO"]}, "parts": [], "records": logo}
    assert "SoLoPO" not in pages.page(without)
    assert not list((output / "runs").glob("*/checkpoint-*"))


def test_chosen_answers_of_the_pairs_are_right_and_rejected_ones_wrong(finished):
    output, _ = finished
    for line in (output / "pairs.jsonl").read_text().splitlines():
        pair = json.loads(line)
        values = [value for kind in people.VALUES.values() for value in kind if contains(pair["answer"], value)]
        row = {"values": values, "facts": [{"name": " ".join(pair["answer"].split()[:2]), "asked": True}]}
        assert people.all_right(pair["chosen"], row)
        assert not any(people.all_right(answer, row) for answer in pair["rejected"])


def test_tokens_of_the_short_prompts_are_read_too(loaded):
    """SoLoPO reads the chosen answer alone behind the long prompt, LongPO both; both read the short prompt as well."""
    model, tokenizer = loaded
    rows = [{"prompt": "one two three four", "chosen": "five", "rejected": ["six seven"], "short_prompt": "one"}] * 2
    args = LogoConfig("unused", num_rejected=1, report_to=[], use_cpu=True, loss_type="logo")
    tokens = {}
    for name in neighbours.NAMES:
        trainer = neighbours.neighbour_trainer(name, model, args, rows, processing_class=tokenizer)
        inputs = trainer.data_collator([trainer.train_dataset[k] for k in range(2)])
        tokens[name] = trainer.computed_tokens(trainer.pack(inputs))
        long, short = (int((part.segment_ids >= 0).sum()) for part in (as_packed(inputs), as_packed(inputs["short"])))
    assert tokens["LongPO"] == long + short
    six = len(tokenizer("six seven", add_special_tokens=False)["input_ids"])
    assert long + short - 2 * (six + 1) <= tokens["SoLoPO"] < long + short


def test_a_run_that_is_stopped_goes_on_to_the_same_end(finished, tmp_path, monkeypatch):
    output, document = finished
    (tmp_path / "pairs.jsonl").write_bytes((output / "pairs.jsonl").read_bytes())
    arm, settings = ARMS["LOGO"], SETTINGS
    with pytest.raises(one_run.OutOfTimeError):
        one_run.run(arm, 1, "random", settings, tmp_path, 0.0)
    assert list((tmp_path / "runs" / "logo-1").glob("checkpoint-1"))
    assert json.loads((tmp_path / "runs" / "logo-1" / "spent.json").read_text()) > 0  # though it may be killed next
    monkeypatch.setattr(device, "describe", lambda: {"cpu": "the first"})
    model, tokenizer = one_run.loaded("random", settings)
    rows = one_run.training_rows(tmp_path / "pairs.jsonl", tokenizer, settings["pairs"])
    one_run.train(arm, 1, settings, tmp_path / "runs" / "logo-1", model, tokenizer, lambda: rows, None)
    monkeypatch.setattr(device, "describe", lambda: {"cpu": "the second"})  # which measures and has not trained
    again = one_run.run(arm, 1, "random", settings, tmp_path, None)
    assert again["machine"] == {"cpu": "the first"}
    first = next(record for record in document["records"] if record["arm"] == "LOGO")
    assert again["scores"] == first["scores"]
    assert [point["loss"] for point in again["curve"]] == [point["loss"] for point in first["curve"]]


def test_texts_beyond_the_window_are_asked_about_under_one_seed():
    last = campaign.FULL["beyond_seed"]  # the last of three: the first tells about all arms soon
    assert one_run.texts_of(last, campaign.FULL) == campaign.FULL["texts"]
    for seed in {1, 2, 3} - {last}:
        assert list(one_run.texts_of(seed, campaign.FULL)) == ["1000", "2000", "4000", "7000"]


def test_records_of_other_settings_are_not_mixed_in(finished):
    output, _ = finished
    settings = SETTINGS | {"lr": 0.5}
    before = (output / "real_alignment.json").read_bytes()
    with pytest.raises(ValueError, match=r"was begun with lr=0\.001, this run has 0\.5: give another one"):
        campaign.write(output, settings)
    assert (output / "real_alignment.json").read_bytes() == before


def test_other_seeds_of_another_campaign_are_refused_before_the_first_of_them_runs(finished, monkeypatch):
    """No record of seed 9 is there yet, and still its texts are not those of the folder."""
    output, _ = finished
    monkeypatch.setattr(one_run, "run", None)
    with pytest.raises(ValueError, match=r"base-1\.json was begun with texts="):
        campaign.real_alignment("smollm2", ["SFT"], (9,), 1, True, output, None, {4_000: 1})


@pytest.mark.parametrize("given", [{"texts": {"4000": 4}}, {"budget": 60.0}])
def test_the_tiny_model_has_no_texts_and_no_budget(given, tmp_path):
    with pytest.raises(ValueError, match="model is 'tiny' and has no texts or budget"):
        bench_alignment(quick=True, output=tmp_path, **given)


def record(arm, seed, right, length=1_000):
    """A record with one text, four answers of two facts, of which `right` (of 8) are right; twelve steps."""
    flags = [k < right for k in range(8)]
    verdicts = [
        {"right": flags[2 * k : 2 * k + 2], "wrong": [], "sentence": True, "depths": [0.1, 0.9]} for k in range(4)
    ]
    scores = {f"text {length} 0": verdicts, "general": [True, arm == "base", False], "perplexity": 10.0}
    curve = [{"logps/chosen": -2.0}] * 2 + [{"logps/chosen": -0.5}] * 10
    found = {"arm": arm, "seed": seed, "curve": curve, "scores": scores | {f"text 14000 {0}": verdicts}}
    return found | {"machine": {"cpu": f"cpu {seed}"}, "costs": {"cpu_seconds": 100 * seed}}


def test_more_values_named_are_told_apart_from_better_ones():
    """One arm names nothing wrong, one names a wrong value in each answer, one names nothing."""
    guesses, silent = record("SFT", 1, 4), record("LOGO", 1, 0)
    for verdict in guesses["scores"]["text 1000 0"]:
        verdict["wrong"] = ["Cairo"]
    arms = figures.summarised([silent, guesses, record("base", 1, 2)], {"window": 8_192})["arms"]
    assert [*arms] == ["base", "SFT", "LOGO"]  # in the order of arms.yaml
    assert [arm["named_inside"]["mean"] for arm in arms.values()] == [2 / 8, (4 + 4) / 8, 0]
    assert [arm["precision_inside"]["mean"] for arm in arms.values()] == [1, 4 / (4 + 4), 0]
    assert [arm["precision_over_base"]["mean"] for arm in arms.values()] == [0, -0.5, -1]


def test_figures_of_made_up_records_are_those_that_were_put_in():
    records = [record("base", seed, 2) for seed in (1, 2)] + [record("LOGO", seed, 6) for seed in (1, 2)]
    found = figures.summarised(records, {"window": 8_192})
    assert found["arms"]["base"]["facts_inside"]["mean"] == 0.25
    assert found["arms"]["LOGO"]["whole_beyond"]["mean"] == 0.75
    assert found["arms"]["LOGO"]["over_base"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert found["arms"]["LOGO"]["over_sft"] is None
    assert found["arms"]["LOGO"]["kept"] == 0.5
    assert found["arms"]["LOGO"]["seeds"] == [1, 2]
    assert found["arms"]["LOGO"]["chosen"] == {"first": -2.0, "last": -0.5}
    assert [aim["held"] for aim in found["aims"]] == [True, False, True]
    rows = pages.tables(found)["Facts right by tokens of the text"].splitlines()
    assert rows[0] == "| arm | 1,000 | 14,000 |"
    assert rows[3] == "| LOGO | 0.75 | 0.75 |"


def test_seconds_of_two_machines_are_never_one_mean():
    records = [record("base", 1, 2), *(record("LOGO", seed, 6) for seed in (1, 2))]
    rows = pages.tables(figures.summarised(records, {"window": 8_192}))["What it costs"].splitlines()
    assert rows[0].endswith("| CPU seconds, cpu 1 | CPU seconds, cpu 2 |")
    assert rows[-1].endswith("| 100 | 200 |")
    machines = pages._machines(records)
    assert [one["runs"] for one in machines] == [{"base": [1], "LOGO": [1]}, {"LOGO": [2]}]


@pytest.mark.parametrize(("right", "words"), [(8, "is ahead of"), (0, "is behind"), (4, "cannot be told apart from")])
def test_the_verdict_compares_logo_with_sft_at_the_same_positions(right, words):
    records = [record("SFT, stretched positions", seed, 4) for seed in (1, 2)]
    found = figures.summarised([*records, *(record("LOGO", seed, right) for seed in (1, 2))], {"window": 8_192})
    (part,) = found["parts"]
    assert part["part"] == "preference, at stretched positions"
    assert part["facts"]["mean"] == (right - 4) / 8
    assert part["invented"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert pages.verdict(found).startswith(f"LOGO {words} SFT on the same chosen answers, both at stretched positions:")
    assert pages.verdict(found).endswith(", 2 seeds.")
    assert pages.verdict({"parts": []}) == ""
    one = figures.summarised([record("SFT, stretched positions", 1, 4), record("LOGO", 1, right)], {"window": 8_192})
    assert pages.verdict(one).startswith(f"Under one seed LOGO {words} SFT")
    plain = figures.summarised([record("SFT", 1, 4), record("LOGO", 1, right)], {"window": 8_192})
    assert f"LOGO {words} SFT on the same chosen answers at plain positions: " in pages.verdict(plain)


def test_other_texts_are_asked_about_in_a_folder_below_with_the_pairs_above(finished):
    output, _ = finished
    run = {"arms": ["LOGO"], "seeds": (4,), "quick": True, "model": "random"}
    document = bench_alignment(**run, texts={"250": 1}, output=output / "other")
    assert document["settings"]["texts"] == {"250": 1}
    assert [*document["arms"]["LOGO"]["lengths"]] == ["250"]
    assert not (output / "other" / "pairs.jsonl").exists()
    assert document["pairs"] == len((output / "pairs.jsonl").read_text().splitlines())
    page = (output / "other" / "real_alignment.md").read_text()
    assert "every pair in `../pairs.jsonl` next to it" in page
    assert "texts of 250 to 250 tokens" in page
    words = r"^texts has '\w+': give tokens, 100 or more, and a number of texts"
    for texts in ({"long": 1}, {"250": 0}):
        with pytest.raises(ValueError, match=words) as told:
            bench_alignment(**run, texts=texts, output=output / "other")
        assert str(told.value).endswith(", as '{4000: 4}'.")


def test_differences_are_told_seed_by_seed_in_the_order_of_the_seeds():
    records = [record("base", seed, 2) for seed in (1, 2, 3)]
    records += [record("LOGO", seed, right) for seed, right in ((3, 2), (1, 6), (2, 0))]
    found = figures.summarised(records, {"window": 8_192})
    assert found["arms"]["LOGO"]["over_base_by_seed"] == [0.5, -0.25, 0.0]
    assert "| +0.50, -0.25, +0.00 |" in pages.tables(found)["Differences, facts right"]


def test_shares_are_those_of_the_seeds_that_all_arms_have():
    """Seeds have texts of their own, so an arm with an easy second seed must not look better for it."""
    records = [record("base", 1, 2), record("SFT", 1, 4), record("base", 2, 8), record("SFT", 2, 8)]
    found = figures.summarised([*records, record("LOGO", 1, 6)], {"window": 8_192})
    assert found["shared"] == [1]
    assert [arm["facts_inside"]["mean"] for arm in found["arms"].values()] == [0.25, 0.5, 0.75]
    assert [arm["lengths"]["1000"]["mean"] for arm in found["arms"].values()] == [0.25, 0.5, 0.75]
    assert found["arms"]["SFT"]["over_base"]["mean"] == 0.125  # both have both seeds
    assert found["short_questions"] == {"asked": 3, "base": 2}
    assert figures.summarised(records, {"window": 8_192})["shared"] == [1, 2]


def test_what_a_part_adds_is_told_by_length_too():
    records = [record(arm, seed, right, 500 * seed) for arm, more in (("SFT", 0), ("LOGO, plain positions", 2))
               for seed, right in ((1, 2 + more), (2, 4 - more))]  # fmt: skip
    (part,) = figures.summarised(records, {"window": 8_192})["parts"]
    assert {length: found["mean"] for length, found in part["by_length"].items()} == {"500": 0.25, "1000": -0.25}
    assert part["facts"]["mean"] == 0


def test_every_part_is_a_difference_of_two_arms():
    assert {arm for _, one, other in figures.ASKED["parts"] for arm in (one, other)} == set(ARMS) - {"base"}
