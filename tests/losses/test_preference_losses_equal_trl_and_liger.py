"""Preference losses equal TRL's and Liger's values for the cases that both define, where these are installed.

`pip install trl accelerate liger-kernel`; only their loss functions are called, on log-probabilities that are given.
"""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from support.preference_toys import answers

from minilib.losses.preference import cpo_loss, dpo_loss, orpo_loss, simpo_loss

BETA, GAMMA = 2.5, 0.6


def trl(module):
    reason = "trl is not installed, so its values are not compared"
    return pytest.importorskip(f"trl.{module}", reason=reason, exc_type=ImportError)


def liger(module):
    reason = "liger-kernel is not installed, so its values are not compared"
    return pytest.importorskip(f"liger_kernel.chunked_loss.{module}", reason=reason, exc_type=ImportError)


@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_simpo_and_the_preference_term_of_cpo_equal_trl(gamma):
    trainer = trl("experimental.cpo.cpo_trainer").CPOTrainer
    settings = {"beta": BETA, "simpo_gamma": gamma, "loss_type": "simpo" if gamma else "sigmoid"}
    state = SimpleNamespace(**settings, alpha=0.0, label_smoothing=0.0, accelerator=SimpleNamespace(device="cpu"))
    c, r = answers(m=1, scale=3.0)
    theirs = trainer.cpo_loss(state, c, r[:, 0])[0].mean().item()
    assert simpo_loss(c, r[:, 0], beta=BETA, gamma=gamma).item() == pytest.approx(theirs, rel=1e-6)
    if not gamma:
        assert cpo_loss(c, r, beta=BETA, sft_weight=0.0).item() == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_orpo_equals_trl(scale):
    trainer = trl("experimental.orpo.orpo_trainer").ORPOTrainer
    c, r = (x.float() for x in answers(m=1, scale=scale))
    state = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    theirs = -trainer.odds_ratio_loss(state, c, r[:, 0])[0].mean() - c.mean()  # it adds the SFT loss elsewhere
    assert orpo_loss(c, r, beta=0.3).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_dpo_equals_trl():
    trainer = trl("trainer.dpo_trainer").DPOTrainer
    (c, r), (rc, rr) = answers(m=1), answers(m=1, seed=1)
    rows = 2 * len(c)
    # One answer token behind one prompt token in each row, chosen answers first; the model returns what it is told.
    inputs = {
        "input_ids": torch.ones(rows, 2).long(),
        "attention_mask": torch.ones(rows, 2).long(),
        "completion_mask": torch.tensor([[0, 1]]).expand(rows, 2),
        "ref_chosen_logps": rc,
        "ref_rejected_logps": rr[:, 0],
    }
    unused = dict.fromkeys(("entropy", "mean_logits", "is_top1"), torch.ones(rows, 1).bool())
    outputs = SimpleNamespace(log_probs=torch.cat([c, r[:, 0]])[:, None], **unused)
    state = MagicMock(beta=BETA, loss_types=["sigmoid"], loss_weights=[1.0], f_divergence_type="reverse_kl")
    state.configure_mock(ld_alpha=None, use_weighting=False, aux_loss_enabled=False, precompute_ref_logps=True)
    state.configure_mock(_tp_size=1, _total_train_tokens=0)
    state.accelerator.gather_for_metrics = state.accelerator.gather = lambda x: x
    theirs = trainer._compute_loss(state, lambda **_: outputs, inputs, False)
    assert dpo_loss(c, r, rc, rr, beta=BETA).item() == pytest.approx(theirs.item(), rel=1e-6)


def liger_term(name, chosen, rejected, **settings):
    """Liger's preference term; it divides by half the rows of the targets."""
    function = getattr(liger(f"{name.lower()}_loss"), f"LigerFusedLinear{name}Function")
    return function.preference_loss_fn(chosen, rejected[:, 0], torch.zeros(2 * len(chosen), 4), **settings)[0].item()


def test_every_preference_term_equals_liger():
    (c, r), (rc, rr) = answers(m=1), answers(m=1, seed=1)
    pairs = [
        (dpo_loss(c, r, rc, rr, beta=BETA), {"ref_chosen_logps": rc, "ref_rejected_logps": rr[:, 0]}, "DPO"),
        (simpo_loss(c, r, beta=BETA, gamma=GAMMA), {"gamma": GAMMA}, "SimPO"),
        (cpo_loss(c, r, beta=BETA, sft_weight=0.0), {}, "CPO"),
        (orpo_loss(c, r, beta=BETA) + c.mean(), {}, "ORPO"),
    ]
    for mine, settings, name in pairs:
        assert mine.item() == pytest.approx(liger_term(name, c, r, beta=BETA, **settings), rel=1e-6), name


@pytest.mark.parametrize("sft_weight", [0.0, 0.3])
def test_simpo_from_hidden_states_equals_liger(sft_weight):
    """Loss and both gradients of one pair of equal lengths, for which Liger's token-mean SFT term is ours too."""
    from minilib.losses.logo_from_hidden import logo_loss_from_hidden

    loss_type = liger("simpo_loss").LigerFusedLinearSimPOLoss
    hidden, weight = torch.randn(2, 9, 16), torch.randn(40, 16)
    labels = torch.randint(40, (2, 9))
    settings = {"alpha": sft_weight, "compute_nll_loss": sft_weight > 0, "compiled": False}
    leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
    theirs = loss_type(beta=BETA, gamma=GAMMA, **settings)(leaves[1], leaves[0], labels)[0]
    expected = [theirs.detach(), *torch.autograd.grad(theirs, leaves)]
    leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
    answer = torch.arange(2).repeat_interleave(9)
    mine, _ = logo_loss_from_hidden(
        leaves[0].flatten(0, 1),
        leaves[1],
        labels.flatten(),
        answer,
        num_rejected=1,
        beta=BETA,
        gamma=GAMMA,
        sft_weight=sft_weight,
    )
    for a, b in zip([mine.detach(), *torch.autograd.grad(mine, leaves)], expected):
        assert (a - b).norm() <= 2e-6 * b.norm()
