"""The toy of lesson 09 is a language model: rows are probabilities, answers are products of them, a Llama agrees."""

from itertools import pairwise

import pytest
import torch
from support.reference import refused

from minilib.longcontext.scoring import sequence_logps
from minilib.losses import preference
from minilib.teaching import toy_policy as toy


def test_every_row_is_a_distribution_and_prefers_the_words_that_may_follow():
    rows = toy.start().exp()
    torch.testing.assert_close(rows.sum(1), torch.ones(len(toy.WORDS), dtype=torch.float64))
    for word, followers in toy.FOLLOWERS.items():
        best = rows[toy.WORDS.index(word)].topk(len(followers)).indices
        assert {toy.WORDS[k] for k in best.tolist()} == set(followers)


def test_an_answer_is_scored_word_by_word_from_the_word_before():
    table = toy.start()
    words = ["?", *toy.CHOSEN.split()]
    by_hand = [table.softmax(1)[toy.WORDS.index(a), toy.WORDS.index(b)].log() for a, b in pairwise(words)]
    torch.testing.assert_close(toy.answer_logps(table, toy.CHOSEN), torch.stack(by_hand))
    torch.testing.assert_close(toy.sums(table)[0, 0], sum(by_hand))
    torch.testing.assert_close(toy.means(table)[0, 0], sum(by_hand) / 7)
    assert toy.means(table).shape == (1, 3)
    code, following = toy.ids("code is").tolist()
    assert toy.probability(table, "code", "is") == pytest.approx(table[code, following].exp().item())


def test_rejected_answers_share_the_first_three_words_and_are_shorter():
    for answer in (toy.WRONG, toy.EVASIVE):
        assert answer.split()[:3] == toy.CHOSEN.split()[:3]
        assert len(answer.split()) < len(toy.CHOSEN.split())


def test_training_is_plain_gradient_descent_and_keeps_what_it_is_given():
    start = toy.start()
    table, history = toy.train(lambda t: -toy.means(t)[0, 0], start, steps=2, rate=0.5)
    leaf = toy.start().requires_grad_()
    for _ in range(2):
        (grad,) = torch.autograd.grad(-toy.means(leaf)[0, 0], leaf)
        leaf = (leaf - 0.5 * grad).detach().requires_grad_()
    torch.testing.assert_close(table, leaf.detach(), rtol=0, atol=0)
    assert torch.equal(start, toy.start())
    assert history.shape == (3, 3)
    torch.testing.assert_close(history[[0, -1]], torch.cat([toy.means(start), toy.means(table)]), rtol=0, atol=0)


def test_a_llama_without_layers_says_the_same_and_only_its_head_learns():
    pytest.importorskip("transformers", reason="transformers is not installed, so the toy stays a table")
    from minilib.longcontext import pack_answers

    table = toy.train(lambda t: -toy.means(t)[0, 1], steps=3)[0]
    model = toy.as_model(table)
    packed = pack_answers(toy.ids("that word was lost . ?"), [toy.ids(answer) for answer in toy.ANSWERS])
    for route in ("mask", "cache"):
        torch.testing.assert_close(sequence_logps(model, packed, route=route), toy.means(table), rtol=1e-5, atol=1e-6)
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == ["lm_head.weight"]


def test_the_story_of_the_lesson_holds():
    def logo(table, sft_weight):
        means = toy.means(table)
        return preference.logo_loss(means[:, 0], means[:, 1:], beta=2.5, gamma=0.25, sft_weight=sft_weight)

    sft = toy.train(lambda t: -toy.means(t)[0, 0], steps=60)[1]
    assert (sft[-1] > sft[0]).all()  # the rejected answers rise too
    without, beside = (toy.train(lambda t, w=weight: logo(t, w))[1] for weight in (0.0, 0.1))
    assert without[-1, 0] < without[0, 0]  # the margin grows and the chosen answer falls
    assert beside[-1, 0] > beside[0, 0]
    for history in (without, beside):
        assert history[-1, 0] - history[-1, 1:].mean() > 1.0 > history[0, 0] - history[0, 1:].mean()


def test_an_unknown_word_is_refused_in_one_sentence():
    refused(ValueError, "text holds 'eight': the toy policy knows the words", lambda: toy.ids("the code is eight ."))
