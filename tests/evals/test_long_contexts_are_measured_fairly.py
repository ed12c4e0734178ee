"""The long-context measures tell true readers from blind ones, count what they say they count, and end in time.

Their subjects are made up: a model that copies by rule where the rule is known, and the tiny model where it is not.
"""

import math
import re
import time
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.reference import refused
from transformers import LlamaConfig, LlamaForCausalLM

from minilib.data.facts import as_prompt
from minilib.data.haystack import haystack
from minilib.evals import longcontext
from minilib.evals.answers import contains
from minilib.evals.longcontext import kind_scores, lost_in_the_middle, needle_map, retention, wilson
from minilib.evals.perplexity import perplexity_by_position
from minilib.evals.retrieval_heads import _most_looked_at, needle_tokens, retrieval_heads
from minilib.models.generation import _batches, make_answer_fn
from minilib.models.tiny_lm import new_model, tiny_lm


@pytest.fixture(scope="module")
def loaded():
    return tiny_lm()


def reader(sees):
    """Stands in for `make_answer_fn`: answers from the part of the prompt that `sees` leaves, finding the fact."""

    def make(model, tokenizer, **_):
        def answer(prompts):
            texts = []
            for prompt in prompts:
                context, question = prompt.split("Question:")
                name = re.findall(r"[A-Z]\w+", question)[1]  # the first such word is What or Which
                words = sees(context).split()
                found = [words[i + 2].strip(".") for i in range(len(words) - 2) if words[i] == name]
                texts.append(" and ".join(found) or "nothing")
            return texts

        return answer

    return make


def test_a_perfect_reader_fills_the_map_and_a_blind_one_leaves_it_empty(monkeypatch):
    for sees, share in ((lambda text: text, 1.0), (lambda text: "", 0.0)):
        monkeypatch.setattr(longcontext, "make_answer_fn", reader(sees))
        result = needle_map(None, None, lengths=(60, 200), depths=(0.0, 0.5, 1.0), samples=3)
        assert result.accuracy.shape == (3, 2)
        assert (result.accuracy == share).all()


def test_a_reader_of_the_last_sixty_words_is_caught_in_the_right_cells(monkeypatch):
    monkeypatch.setattr(longcontext, "make_answer_fn", reader(lambda text: " ".join(text.split()[-60:])))
    result = needle_map(None, None, lengths=(60, 400), depths=(0.0, 0.5, 1.0), samples=4)
    assert result.accuracy.tolist() == [[1, 0], [1, 0], [1, 1]]


def test_a_reader_of_both_ends_is_lost_in_the_middle_and_the_anchors_show_it(monkeypatch):
    monkeypatch.setattr(longcontext, "make_answer_fn", reader(lambda text: text[:300] + " " + text[-300:]))
    curve = lost_in_the_middle(None, None, length=400, places=5, samples=4)
    assert curve.accuracy == [1, 0, 0, 0, 1]
    assert (curve.closed_book, curve.oracle) == (0, 1)
    assert all(low <= share <= high for share, (low, high) in zip(curve.accuracy, curve.intervals))


def test_recall_counts_the_values_that_were_named(monkeypatch):
    def first_only(model, tokenizer, **_):
        answer = reader(lambda text: text)(model, tokenizer)
        return lambda prompts: [text.split(" and ")[0] for text in answer(prompts)]

    monkeypatch.setattr(longcontext, "make_answer_fn", first_only)
    scores = kind_scores(None, None, kind="multi", values=4, samples=5, length=200)
    assert scores == {"accuracy": 0, "recall": 0.25}


def test_an_answer_counts_when_the_gold_words_stand_in_it_in_one_run():
    assert contains("The amber, and silk.", "amber and silk")
    assert contains("An  AMBER!", "the amber")
    assert not contains("ambergris", "amber")
    assert not contains("silk and amber", "amber and silk")


@given(st.integers(0, 50), st.integers(1, 50))
def test_intervals_hold_the_share_and_shrink_with_samples(right, extra):
    samples = right + extra
    low, high = wilson(right / samples, samples)
    assert 0 <= low <= right / samples <= high <= 1
    wider = wilson(right / samples, samples * 4)
    assert wider[1] - wider[0] < high - low


def test_an_answer_does_not_depend_on_who_else_is_asked(loaded):
    tokenizer = loaded[1]
    model = new_model(len(tokenizer)).eval()
    for matrix in (p for p in model.parameters() if p.ndim == 2):
        matrix.data.mul_(8)  # wild weights: every token, padding too, would change what is said
    rows = [row for n in (40, 90, 200) for row in islice(haystack(length=n, tokenizer=tokenizer, seed=n), 3)]
    prompts = [as_prompt(row["context"], row["question"]) for row in rows]
    together = make_answer_fn(model, tokenizer)(prompts)
    alone = make_answer_fn(model, tokenizer, batch_tokens=1)(prompts)
    assert together == alone
    assert make_answer_fn(model, tokenizer)(prompts[::-1]) == together[::-1]
    assert len(set(together)) > 1
    assert make_answer_fn(model, tokenizer)([]) == []


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_batches_keep_their_budget_and_lose_nobody(lengths, budget):
    batches = _batches([[0] * n for n in lengths], budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)


def test_perplexity_by_position_is_the_models_own_loss(loaded):
    model, tokenizer = loaded
    text = next(haystack(length=150, tokenizer=tokenizer))["context"]
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        logs = model(ids, attention_mask=torch.ones_like(ids)).logits[0].double().log_softmax(-1)
    losses = [-logs[t - 1, ids[0, t]].item() for t in range(1, ids.shape[1])]  # losses[t - 1] belongs to position t
    buckets = perplexity_by_position(model, tokenizer, [text], length=150, bucket=50)
    assert list(buckets) == [k for k in (0, 50, 100) if k < ids.shape[1]]
    for begin, value in buckets.items():
        mine = losses[max(begin - 1, 0) : begin + 49]
        assert value == pytest.approx(math.exp(sum(mine) / len(mine)), rel=1e-4)


def test_perplexity_rises_past_the_window_and_retention_stays_inside(loaded):
    buckets = perplexity_by_position(*loaded, bucket=256, samples=6)
    assert buckets[768] > 1.3 * buckets[0]
    kept = retention(*loaded, samples=20)
    assert kept["accuracy"] >= 0.8
    assert kept["perplexity"] < buckets[768]


def copier(tokenizer):
    """A small random model whose attention, where it is asked for, is written by hand instead of computed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def test_both_head_scores_are_what_their_formulas_say(loaded, monkeypatch):
    tokenizer = loaded[1]
    rows = list(islice(haystack(length=80, kind="multi", tokenizer=tokenizer, seed=2), 3))

    def by_hand(model, ids, answer, context, kernel):
        # Head (0, 0) looks at the token to come, (0, 1) at the first value always, (1, *) at the text's beginning.
        row = next(r for r in rows if tokenizer.encode(r["context"]) == ids[:context])
        at = [f["token_start"] + 2 for f in row["facts"] if f["asked"]]
        return torch.tensor([[[at[i], at[0]], [0, 0]] for i in range(len(answer))])

    monkeypatch.setattr("minilib.evals.retrieval_heads._most_looked_at", by_hand)
    scores = retrieval_heads(copier(tokenizer), tokenizer, rows)
    assert scores.copy_score.tolist() == [[1, 0.5], [0, 0]]
    assert scores.best_ten == pytest.approx(0.75)
    assert scores.hit_share == pytest.approx(0.5)
    assert retrieval_heads(copier(tokenizer), tokenizer, rows, needle="fact").copy_score[0, 0] == pytest.approx(2 / 5)


def test_attention_read_step_by_step_is_that_of_one_pass(loaded):
    model, tokenizer = loaded
    row = next(haystack(length=100, kind="multi", tokenizer=tokenizer))
    ids, answer = tokenizer.encode(as_prompt(row["context"], row["question"])), tokenizer.encode(row["answer"])
    looked = _most_looked_at(model, ids, answer, row["tokens"], "sdpa")  # (answer, layers, heads)
    whole = torch.tensor([ids + answer[:-1]])
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(whole, attention_mask=torch.ones_like(whole), output_attentions=True)
    model.set_attn_implementation("sdpa")
    for i in range(len(answer)):
        expected = torch.stack([layer[0, :, len(ids) - 1 + i, : row["tokens"]].argmax(-1) for layer in out.attentions])
        assert torch.equal(looked[i], expected)


def test_the_tiny_models_own_look_up_head_is_found(loaded):
    scores = retrieval_heads(*loaded, list(islice(haystack(length=200, tokenizer=loaded[1]), 8)))
    assert scores.copy_score.max() > 0.8
    assert 0 < scores.hit_share < 0.9
    assert loaded[0].config._attn_implementation == "sdpa", "the kernel was not put back"


def test_needle_tokens_are_the_value_or_the_whole_fact(loaded):
    tokenizer = loaded[1]
    row = next(haystack(length=80, tokenizer=tokenizer))
    (fact,) = [fact for fact in row["facts"] if fact["asked"]]
    spans = tokenizer(row["context"], return_offsets_mapping=True)["offset_mapping"]
    assert needle_tokens(row, spans, "value") == [fact["token_start"] + 2]
    assert needle_tokens(row, spans, "fact") == list(range(fact["token_start"], fact["token_end"]))


def test_a_full_map_takes_less_than_two_minutes(loaded):
    start = time.process_time()
    result = needle_map(*loaded)
    assert time.process_time() - start < 100  # of one core: CPU seconds do not depend on the neighbours
    assert result.accuracy.shape == (5, 5)


def test_any_tokenizer_without_padding_and_any_mode_will_do(loaded):
    model, tokenizer = loaded
    plain = SimpleNamespace(
        encode=tokenizer.encode, batch_decode=tokenizer.batch_decode, pad_token_id=None, eos_token_id=1
    )
    prompts = ["Oslo keeps tea. Question: What does Oslo keep? Answer:", "Lima keeps salt."]
    model.train()
    assert make_answer_fn(model, plain)(prompts) == make_answer_fn(model, tokenizer)(prompts)
    assert model.training
    model.eval()


BAD = {
    "samples": (lambda m, t: needle_map(m, t, samples=0), "samples must be at least 1"),
    "places": (lambda m, t: lost_in_the_middle(m, t, places=0), "places must be at least 1"),
    "kind": (lambda m, t: kind_scores(m, t, kind="riddle"), "kind 'riddle' is unknown"),
    "bucket": (lambda m, t: perplexity_by_position(m, t, bucket=0), "bucket must be at least 1"),
    "length": (lambda m, t: perplexity_by_position(m, t, length=1), "length must be at least 2"),
    "tokens": (lambda m, t: make_answer_fn(m, t, max_new_tokens=0), "max_new_tokens must be an integer of at least 1"),
    "heat": (lambda m, t: make_answer_fn(m, t, temperature=-1), "temperature must not be negative"),
    "prompt": (lambda m, t: make_answer_fn(m, t)(["one", ""]), "prompts[1] has no tokens"),
    "needle": (lambda m, t: retrieval_heads(m, t, [{}], needle="straw"), "needle 'straw' is unknown"),
    "rows": (lambda m, t: retrieval_heads(m, t, []), "rows must hold at least one haystack"),
    "answer": (
        lambda m, t: retrieval_heads(m, t, [next(haystack(kind="count", tokenizer=t))]),
        "stands in no asked fact",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_measure_refuses_with_one_sentence(loaded, case):
    run, words = BAD[case]
    refused(ValueError, words, lambda: run(*loaded))


@pytest.mark.parametrize("letter", ["A", "B"])
@pytest.mark.parametrize("form", ["{}", "({})", "{}.", "{})", " {} "])
def test_letters_of_choices_are_found_in_every_form(letter, form):
    """A is an article, too, and no other letter is."""
    gold = form.format(letter)
    assert contains(f"The answer is {gold.strip()}", gold)
    assert contains(f"The answer is ({letter}).", gold)
    assert not contains("The answer is (C)", gold)
    assert not contains("Such answers are a matter of taste", gold)


def test_nothing_is_no_answer():
    assert not contains("A sentence with an end.", "")
    assert not contains("A sentence with an end.", "  ")
