"""What LOGO's released trainer does otherwise than the paper, one deviation at a time; each is seen to matter.

The judge is the full table of log-probabilities, from which the rows that a deviation scores are picked by hand.
"""

import pytest
import torch
from support.preference_toys import answers, gradient
from support.reference import refused
from support.tiny_llama import VOCABULARY, tiny_llama

from minilib.longcontext import pack_answers, stack_packed
from minilib.longcontext.scoring import DEVIATIONS, released_logps, sequence_logps
from minilib.losses.preference import logo_loss

BETA, GAMMA = 2.5, 0.6


def test_the_released_negatives_equal_its_slice_without_an_end():
    c, r = answers(b=1, m=2)
    rows = torch.cat([c, r[0]])  # the trainer's batch: chosen, first rejected, second rejected
    chosen, first, second = rows[:1], rows[1:2], rows[1:]
    theirs = torch.nn.functional.softplus(GAMMA - BETA * (chosen - (first + second) / 2)).mean()
    mine = logo_loss(c, r, beta=BETA, gamma=GAMMA, sft_weight=0.0, released={"negatives"})
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)


def test_the_released_negatives_weigh_three_to_one_and_so_depend_on_their_order():
    zero = torch.zeros(1, dtype=torch.float64)
    settings = {"beta": 1e-3, "gamma": 0.0, "sft_weight": 0.0, "released": {"negatives"}}
    pushes = gradient(lambda c, r: logo_loss(c, r, **settings), zero, torch.zeros(1, 2).double())[1]
    assert (pushes[0, 0] / pushes[0, 1]).item() == pytest.approx(3)
    c, r = answers(m=2)
    settings["beta"] = BETA
    assert abs(logo_loss(c, r, **settings) - logo_loss(c, r.flip(1), **settings)) > 1e-3


def batch():
    """Two prompts with three answers each; answers of the first share their first two tokens and their last one."""
    tokens = [
        ([3, 9, 4, 4], [[7, 8, 1, 2, 5], [7, 8, 6, 2, 5], [7, 8, 1, 3, 5]]),
        ([11, 2], [[1, 2], [3, 4, 5, 6], [1, 2, 3]]),
    ]
    return stack_packed([pack_answers(prompt, replies) for prompt, replies in tokens])


def token_table(model, b):
    """Log-probability of every token of the vocabulary behind every position, (b * L, V)."""
    mask = b.attention_mask
    return torch.log_softmax(
        model(input_ids=b.input_ids, position_ids=b.position_ids, attention_mask=mask, use_cache=False).logits, -1
    ).flatten(0, 1)


def test_without_deviations_they_are_the_usual_log_probabilities():
    model, b = tiny_llama(), batch()
    with torch.no_grad():
        means, sft = released_logps(model, b)
        torch.testing.assert_close(means, sequence_logps(model, b), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(sft, means[:, 0], rtol=1e-12, atol=1e-12)


def test_the_unshifted_sft_term_scores_the_token_that_was_just_read():
    model, b = tiny_llama(), batch()
    with torch.no_grad():
        table = token_table(model, b)
        means, sft = released_logps(model, b, {"sft_unshifted"})
        width = b.input_ids.shape[1]
        for e in range(2):
            own = (b.segment_ids[e] == 1).nonzero()[:, 0]
            expected = table[e * width + own, b.input_ids[e, own]].mean()
            torch.testing.assert_close(sft[e], expected, rtol=1e-9, atol=0)
        torch.testing.assert_close(means, sequence_logps(model, b), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shifted", [True, False])
def test_the_padded_sft_term_takes_padding_for_token_0(shifted):
    model, b = tiny_llama(), batch()
    named = {"sft_padding"} if shifted else {"sft_padding", "sft_unshifted"}
    with torch.no_grad():
        table = token_table(model, b)
        sft = released_logps(model, b, named, route="mask")[1]
        plain = released_logps(model, b, named - {"sft_padding"})[1]
    width = b.input_ids.shape[1]
    padding = (b.segment_ids[1] == -1).nonzero()[:, 0]
    assert len(padding) == 8
    last = (b.segment_ids[1] == 1).nonzero()[-1]
    behind = torch.cat([last, padding[:-1]]) if shifted else padding
    expected = (2 * plain[1] + table[width + behind, 0].sum()) / (2 + 8)
    torch.testing.assert_close(sft[1], expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(sft[0], plain[0], rtol=1e-9, atol=0)  # the longer one has no padding


def test_the_window_leaves_out_what_answers_share_and_the_first_difference():
    model, b = tiny_llama(), batch()
    with torch.no_grad():
        table = token_table(model, b)
        means, sft = released_logps(model, b, {"window"})
        usual = sequence_logps(model, b)
    # first example: answers differ at places 2 and 3, so place 3 alone is scored
    for a in range(3):
        row = (b.answer == a).nonzero()[:, 0][3]
        torch.testing.assert_close(means[0, a], table[b.predict[row], b.labels[row]], rtol=1e-9, atol=0)
    # second one: they differ from place 0 to the end of the longest, so places 1 to 3 are
    for a, count in enumerate([1, 3, 2]):
        rows = (b.answer == 3 + a).nonzero()[:, 0][1:]
        assert len(rows) == count
        torch.testing.assert_close(means[1, a], table[b.predict[rows], b.labels[rows]].mean(), rtol=1e-9, atol=0)
    torch.testing.assert_close(sft, usual[:, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DEVIATIONS)
def test_every_deviation_changes_the_loss(name):
    model, b, settings = tiny_llama(), batch(), {"beta": 10.0, "gamma": 3.0, "sft_weight": 0.1}
    values = []
    for released in ((), {name}):
        with torch.no_grad():
            means, sft = released_logps(model, b, released)
        own = {"negatives"} & set(released)
        values.append(logo_loss(means[:, 0], means[:, 1:], sft=sft, **settings, released=own).item())
    assert abs(values[0] - values[1]) > 1e-3


def test_the_sft_term_rewards_predicting_and_the_unshifted_one_rewards_copying(monkeypatch):
    b, model = batch(), tiny_llama()
    model.lm_head.weight.data = torch.eye(VOCABULARY, dtype=torch.float64) * 100
    for wanted, deviations in (("next", ()), ("copy", {"sft_unshifted"})):

        def hidden(model, packed, route, wanted=wanted):
            seen = b.input_ids.flatten()[packed.predict]
            return torch.eye(VOCABULARY, dtype=torch.float64)[packed.labels if wanted == "next" else seen]

        monkeypatch.setattr("minilib.longcontext.scoring.answer_hidden", hidden)
        other = () if deviations else {"sft_unshifted"}
        assert released_logps(model, b, deviations)[1].abs().max() < 1e-12
        if wanted == "copy":
            assert released_logps(model, b, other)[1].max() < -10


def test_a_deviation_that_is_unknown_is_refused():
    refused(ValueError, "released is {'speed'}", lambda: released_logps(tiny_llama(), batch(), {"speed"}))
