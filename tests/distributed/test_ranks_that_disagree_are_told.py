"""Ranks that call the loss with different terms are told so on every rank, in one sentence, before anything is sent.

Two real ranks go through all cases in one launch. Each case is what the two ranks differ in; the sentence must name the
term, both values and both ranks. Messages from rank to rank are counted, and none may have left.
"""

import math

import pytest
import torch
import torch.distributed as dist
from support.ranks import results, run_ranks
from support.reference import refused, unit_rows

from minilib import clip_loss, siglip_loss
from minilib.losses.validation import check_transport

DEFAULTS = {"loss": "clip", "width": 8, "dtype": torch.float32, "scale": 14.3, "bias": -10.0, "img": True, "txt": True}
SAME = "every rank must call with the same."
DISAGREEMENTS = {  # what rank 1 does differently, and the sentence
    "width": ({"width": 6}, f"width is 8 on rank 0 and 6 on rank 1: {SAME}"),
    "dtype": ({"dtype": torch.float64}, f"dtype is torch.float32 on rank 0 and torch.float64 on rank 1: {SAME}"),
    "scale": ({"scale": 10.0}, f"logit scale is 14.3 on rank 0 and 10 on rank 1: {SAME}"),
    "loss": ({"loss": "siglip"}, f"loss is clip_loss on rank 0 and siglip_loss on rank 1: {SAME}"),
    "images": ({"img": False}, f"image gradient is wanted on rank 0 and not wanted on rank 1: {SAME}"),
    "texts": ({"txt": False}, f"text gradient is wanted on rank 0 and not wanted on rank 1: {SAME}"),
    "bias": ({"bias": -9.0}, f"logit bias is -10 on rank 0 and -9 on rank 1: {SAME}"),
}
FOR_BOTH = {"bias": {"loss": "siglip"}}
UPSTREAM = (
    "upstream factor is 2 on rank 0 and 1 on rank 1: scale the loss by the same factor on every rank before the "
    "backward pass."
)
DENSE = "backend is 'dense' and group has 2 ranks: the dense loss sees the pairs of one process only, choose 'auto'."
CACHE = "cache_bytes is 1000.0 and group has 2 ranks: a ring caches no tiles, leave it out."
OTHER_FAILED = "rank 1 has raised an error: fix what its own message names and start again."


def share(rank, spoilt=False, **terms):
    """This rank's share of a loss under these terms."""
    terms = DEFAULTS | terms
    options = {name: value for name, value in terms.items() if name not in DEFAULTS}
    img, txt = (unit_rows(3, terms["width"], 2 * rank + k, terms["dtype"]) for k in range(2))
    if spoilt:
        img[1] = math.nan
    img.requires_grad_(terms["img"]), txt.requires_grad_(terms["txt"])
    numbers = (terms["scale"], terms["bias"])[: 1 + (terms["loss"] == "siglip")]
    loss = {"clip": clip_loss, "siglip": siglip_loss}[terms["loss"]]
    return loss(img, txt, *numbers, group=dist.group.WORLD, **options)


def sentence_of(call):
    try:
        call()
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def all_cases(rank):
    sent, send = [], dist.batch_isend_irecv

    def noting(operations):
        sent.append(len(operations))
        return send(operations)

    dist.batch_isend_irecv, found = noting, {}
    for case, (different, _) in DISAGREEMENTS.items():
        terms = FOR_BOTH.get(case, {}) | (different if rank == 1 else {})
        found[case] = sentence_of(lambda terms=terms: share(rank, **terms))
    found["dense"] = sentence_of(lambda: share(rank, backend="dense"))
    found["cache"] = sentence_of(lambda: share(rank, cache_bytes=1e3))
    found["spoilt"] = sentence_of(lambda: share(rank, spoilt=rank == 1))
    found["sent before a refusal"] = sum(sent)
    value = share(rank)
    sent.clear()
    found["upstream"] = sentence_of((value * (2.0, 1.0)[rank]).backward)
    found["sent before a refusal"] += sum(sent)
    found["afterwards"] = share(rank).item()
    return found


@pytest.fixture(scope="module")
def found():
    return results(run_ranks(2, all_cases))


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_both_ranks_are_told_what_differs(found, case):
    assert [of_rank[case] for of_rank in found] == [f"ValueError: {DISAGREEMENTS[case][1]}"] * 2


def test_different_factors_before_the_backward_pass_are_told_to_both(found):
    assert [of_rank["upstream"] for of_rank in found] == [f"ValueError: {UPSTREAM}"] * 2


@pytest.mark.parametrize(("case", "sentence"), [("dense", DENSE), ("cache", CACHE)])
def test_what_a_ring_cannot_do_is_refused_on_both(found, case, sentence):
    assert [of_rank[case] for of_rank in found] == [f"ValueError: {sentence}"] * 2


def test_one_rank_refuses_its_inputs_and_the_other_is_told(found):
    assert found[0]["spoilt"] == f"ValueError: {OTHER_FAILED}"
    assert found[1]["spoilt"].startswith("ValueError: image_features has NaN or infinity in row 1 (1 such rows)")


def test_nothing_is_sent_before_a_refusal(found):
    assert [of_rank["sent before a refusal"] for of_rank in found] == [0, 0]


def test_the_ranks_can_go_on_after_a_refusal(found):
    img, txt = (torch.cat([unit_rows(3, 8, 2 * rank + k, torch.float32) for rank in range(2)]) for k in range(2))
    expected = clip_loss(img, txt, 14.3, backend="dense").item()
    assert sum(of_rank["afterwards"] for of_rank in found) / 2 == pytest.approx(expected, abs=1e-6)


# Without a ring


def test_a_group_that_cannot_send_the_features_is_refused():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    refused(
        ValueError,
        "group has nccl for cuda and the features are on cpu",
        lambda: check_transport({"cuda": "nccl"}, cpu),
    )
    refused(
        ValueError,
        "group has gloo for cpu and the features are on cuda:1",
        lambda: check_transport({"cpu": "gloo"}, gpu),
    )
    both = {"cpu": "gloo", "cuda": "gloo"}
    refused(ValueError, "gloo cannot send what lies on a GPU", lambda: check_transport(both, gpu))
    for config, device in ((both, cpu), ({"cpu": "gloo", "cuda": "nccl"}, gpu), ({"cuda": "nccl"}, gpu)):
        assert check_transport(config, device) is None


def test_a_group_that_is_none_is_refused():
    img, txt = unit_rows(3, 4, 1), unit_rows(3, 4, 2)
    for call in (
        lambda: clip_loss(img, txt, 1.0, group=object()),
        lambda: siglip_loss(img, txt, 1.0, 0.0, group=object()),
    ):
        refused(TypeError, "group is a object: give a process group of which this process is a member", call)


def test_a_ring_without_a_group_is_refused():
    img, txt = unit_rows(3, 4, 1), unit_rows(3, 4, 2)
    refused(ValueError, "backend is 'ring' and group is None", lambda: clip_loss(img, txt, 1.0, backend="ring"))
