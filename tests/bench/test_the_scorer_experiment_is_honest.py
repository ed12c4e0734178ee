"""The experiment on scorers: words apart, texts that hold their facts once, known recalls, and a stop that goes on.

Random models of two layers stand in for the real ones; made-up scores have known answers.
"""

import itertools
import json

import pytest
import torch
from support.reference import refused

from minilib import clip_loss
from minilib.bench.scorers import bench_scorers, campaign, encoder, lesson, pages, people, recall
from minilib.data.facts import words_of
from minilib.data.running_text import prose_sentences
from minilib.preferences.chunking import chunk_text, count_words
from minilib.preferences.importance import exact_entities
from minilib.trainers import ContrastiveTrainer

SETTINGS = campaign.FULL | campaign.QUICK
PROSE = {word for sentence in prose_sentences() for word in words_of(sentence.lower())}


def of_part(part):
    """What only this part says: roles in text and question, values, and what things are called."""
    roles = people.WORDS["roles"][part]
    kinds = people.KINDS.values()
    return {*roles, *roles.values(), *(v for k in kinds for v in (*k["values"][part], *k["asks"][part]))}


def texts(count=3, **settings):
    found = people.documents(length=200, seed=3, measure=count_words, **({"part": 1} | settings))
    return list(itertools.islice(found, count))


def test_what_is_tuned_on_and_what_is_unseen_share_no_word():
    assert not of_part(0) & of_part(1)
    told = {*people.VALUES, *(text for part in people.WORDS["roles"] for pair in part.items() for text in pair)}
    assert not {word for text in told for word in text.split()} & PROSE
    assert len({*people.VALUES}) == len(people.VALUES)


def test_other_words_share_none_with_the_text_and_same_names_do():
    for rows in texts(part=0) + texts():
        for row in rows:
            facts = " ".join(fact["text"] for fact in row["facts"] if fact["asked"])
            assert not words_of(row["question"].lower()) & words_of(facts.lower()) - {"the", "a", "by", "of", "has"}
            assert exact_entities(row["context"], row["question"], row) == 0
    for row in texts(count=1, names=True)[0]:
        assert exact_entities(row["context"], row["question"], row) == 3  # a name and two values


def test_every_fact_stands_once_and_the_critical_chunks_hold_it():
    for rows in texts():
        chunks = chunk_text(rows[0]["context"], 20)
        for row in rows:
            flags = people.critical(row, chunks)
            held = "".join(chunk if flag else "\n" for chunk, flag in zip(chunks, flags))
            asked = [fact["text"] for fact in row["facts"] if fact["asked"]]
            assert len(asked) == 2
            assert all(row["context"].count(text) == 1 and text in held for text in asked)
            assert flags == [bool(recall.told_places(chunk, row["question"], row)) for chunk in chunks]
            assert people.all_right(row["answer"], row["values"])
            assert not people.all_right(f"{row['answer']} and {people.VALUES[0]}", row["values"])


def test_a_training_pair_answers_its_question():
    made = people.training_pairs(20, 12, 0)
    for question, chunk, (role, asked, kind) in zip(*made.values()):
        assert role in chunk.lower()
        assert people.WORDS["roles"][0][role] in question
        assert kind in asked
        assert any(value in chunk for value in people.KINDS[kind]["values"][0])


def test_recalls_and_threshold_of_made_up_scores_are_known():
    found = [{"critical": [[True, False, False, True]], "rows": [0]}]
    perfect, turned = [[[0.9, 0.2, 0.1, 0.8]]], [[[0.1, 0.8, 0.9, 0.2]]]
    assert recall.recalls(found, perfect)["curve"] == [0.5, 1, 1, 1]
    assert recall.recalls(found, perfect)["at_critical"]["mean"] == 1
    assert recall.recalls(found, turned)["at_critical"]["mean"] == 0
    assert recall.best_threshold(found, perfect) == pytest.approx(0.5)
    assert recall.best_threshold(found, [[[1.0, 0.0, 0.0, 0.0]]]) == pytest.approx(0.5)  # none between equal scores


def test_the_encoder_reads_a_text_alike_alone_and_among_others():
    model = encoder.load_encoder(quick=True)
    some = ["the function returns a value", "a list", "the keys of the mapping are names and the values are numbers"]
    together = model.features(some)
    torch.testing.assert_close(together, torch.cat([model.features([text]) for text in some]))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    scorer = encoder.CosineScorer(model)
    assert scorer(some[0], some[1], {}) == pytest.approx(float(together[0] @ together[1]), abs=1e-6)


def test_a_step_of_the_tuning_takes_the_gradient_of_the_whole_batch():
    made = people.training_pairs(12, 10, 0)
    rows, grads = encoder._Rows({name: made[name] for name in ("image", "caption")}), []
    for micro in (12, 5):
        model = encoder.load_encoder(quick=True)
        for module in model.modules():
            module.p = 0.0  # no dropout
        trainer = ContrastiveTrainer(model, rows, batch_size=12, micro_batch_size=micro, steps=1, progress=False)
        loss = trainer.backward(0)
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)
    dense = clip_loss(model.encode_text(made["image"]), model.encode_text(made["caption"]), model.logit_scale.exp())
    torch.testing.assert_close(loss, dense.detach(), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A quick campaign, stopped at once and taken up again."""
    folder = tmp_path_factory.mktemp("scorers")
    place = {"output": folder / "scorers.json", "work": folder / "work", "quick": True}
    bench_scorers(budget=0.0, **place)
    assert json.loads(place["output"].read_text())["parts"] == {}
    return place, bench_scorers(**place)


def test_a_campaign_leaves_all_parts_page_and_features(finished):
    place, document = finished
    kept = json.loads(place["output"].read_text())
    assert kept["parts"] == json.loads(json.dumps(document["parts"]))
    measured = [part.removeprefix("recall, ") for part in kept["parts"] if part.startswith("recall")]
    assert measured == ["exact entities", "rare words", "MiniLM", pages.TUNED, f"{pages.TUNED}, batch 8"]
    assert kept["parts"]["recall, rare words"]["same names"]["at_critical"]["mean"] > 0.5
    assert kept["parts"][f"pairs, {campaign.CEILING}"]["facts_in_prompt"] == 1
    assert document["aligned"]["base"]["seeds"] == [1]
    page = place["output"].with_suffix(".md").read_text()
    assert "## Recall of the critical chunks" in page
    assert "| base | 0.00 |" in page
    again = bench_scorers(**place)
    assert again["parts"] == kept["parts"]


def test_stored_features_are_those_of_the_encoder_and_belong_to_their_texts(finished):
    place, _ = finished
    found, features = lesson.stored(SETTINGS, place["output"].with_suffix(".npz"))
    fresh = encoder.load_encoder(quick=True).features([chunk for text in found for chunk in text["chunks"]])
    torch.testing.assert_close(features["chunks"], fresh, rtol=0, atol=0.01)
    assert len(features["train questions"]) == len(features["train chunks"]) == SETTINGS["tuning_pairs"]
    refused(
        ValueError, "belongs to other texts",
        lambda: lesson.stored(SETTINGS | {"text_seed": 5}, place["output"].with_suffix(".npz")),
    )  # fmt: skip


def test_judged_pairs_count_what_nobody_knew():
    row = texts(count=1)[0][0]
    asked = [fact["text"] for fact in row["facts"] if fact["asked"]]
    cut = [asked[0][:9], asked[0][9:], asked[1]]  # the prompt joins both halves
    pairs = [
        {"row": 0, "chosen": row["answer"], "rejected": ["nothing", row["answer"]], "chunks": cut},
        {"row": 0, "chosen": row["values"][0], "rejected": ["a", "b"], "chunks": asked[:1]},
    ]
    found = campaign.judged_pairs(pairs, [row])
    assert found["chosen_right"] == 0.5
    assert found["chosen_facts"] == 0.75
    assert found["rejected_wrong"] == 0.75
    assert found["facts_in_prompt"] == 0.75


def test_bad_arguments_and_other_settings_are_named(finished, tmp_path):
    place, _ = finished
    refused(ValueError, "budget is -1", lambda: bench_scorers(output=tmp_path / "x.json", budget=-1))
    refused(
        ValueError,
        "was begun with quick=True, this run has False",
        lambda: bench_scorers(output=place["output"], work=tmp_path),
    )
    (tmp_path / "x.json").write_text("[]")
    refused(ValueError, "is no file of this experiment", lambda: bench_scorers(output=tmp_path / "x.json"))
