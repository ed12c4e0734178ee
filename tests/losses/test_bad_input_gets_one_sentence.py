"""Every refusal is one sentence that names the argument, what came and the mend, and comes before any work is lost."""

import math

import pytest
import torch
from support.reference import refused, unit_rows
from support.toys import ToyPairs, ToyTowers

from minilib import ContrastiveTrainer, clip_loss, siglip_loss

I, T = unit_rows(6, 4, 1, torch.float32), unit_rows(6, 4, 2, torch.float32)  # noqa: E741


def with_value(features, row, value):
    features = features.clone()
    features[row, 1] = value
    return features


FEATURES = {
    "lengths": ((I, T[:5]), ValueError, "image_features has 6 rows and text_features 5"),
    "widths": ((I, T[:, :3]), ValueError, "image_features has width 4 and text_features 3"),
    "empty": ((I[:0], T[:0]), ValueError, "image_features has shape (0, 4): the batch is empty"),
    "no width": ((I[:, :0], T[:, :0]), ValueError, "image_features has shape (6, 0)"),
    "a vector": ((I[0], T[0]), ValueError, "image_features has shape (4,): give a matrix"),
    "integers": ((I.int(), T.int()), TypeError, "image_features has dtype torch.int32"),
    "a list": ((I.tolist(), T), TypeError, "image_features is a list"),
    "devices": ((I, T.to("meta")), ValueError, "image_features is on cpu and text_features on meta"),
    "dtypes": ((I, T.double()), TypeError, "image_features is torch.float32 and text_features torch.float64"),
    "nan": ((with_value(I, 3, math.nan), T), ValueError, "image_features has NaN or infinity in row 3"),
    "infinity": ((I, with_value(T, 5, math.inf)), ValueError, "text_features has NaN or infinity in row 5"),
    "cancelling infinities": (
        (with_value(with_value(I, 4, math.inf), 2, -math.inf), T),
        ValueError,
        "image_features has NaN or infinity in row 2 (2 such rows)",
    ),
}

OPTIONS = {
    "no tile": ({"tile_size": 0}, ValueError, "tile_size is 0"),
    "negative tile": ({"tile_size": -5}, ValueError, "tile_size is -5"),
    "fractional tile": ({"tile_size": 2.5}, ValueError, "tile_size is 2.5"),
    "backend": ({"backend": "magic"}, ValueError, "backend 'magic' is unknown: choose one of 'auto', 'dense', 'tiled'"),
}

CLIP_OPTIONS = {
    "negative cache": ({"cache_bytes": -1}, ValueError, "cache_bytes is -1"),
    "cache that is no number": ({"cache_bytes": math.nan}, ValueError, "cache_bytes is nan"),
    "gradient dtype": ({"grad_dtype": torch.int8}, ValueError, "grad_dtype is torch.int8"),
}

SCALES = {
    "two scales": (torch.ones(2), ValueError, "logit_scale has shape (2,)"),
    "infinite scale": (math.inf, ValueError, "logit_scale is inf"),
    "no scale": (None, TypeError, "logit_scale is None: give a number"),
    "a text": ("14", TypeError, "logit_scale is '14': give a number, or a tensor of one element"),
    "nan scale": (torch.tensor(math.nan), ValueError, "logit_scale is nan"),
}


@pytest.mark.parametrize("loss", [clip_loss, lambda i, t, s, **k: siglip_loss(i, t, s, -10.0, **k)])
@pytest.mark.parametrize("case", [*FEATURES, *OPTIONS, *SCALES])
def test_both_losses_refuse(case, loss):
    features, scale, options = (I, T), 14.3, {}
    if case in FEATURES:
        features, error, words = FEATURES[case]
    elif case in OPTIONS:
        options, error, words = OPTIONS[case]
    else:
        scale, error, words = SCALES[case]
    refused(error, words, lambda: loss(*features, scale, **options))


@pytest.mark.parametrize("case", CLIP_OPTIONS)
def test_clip_loss_refuses(case):
    options, error, words = CLIP_OPTIONS[case]
    refused(error, words, lambda: clip_loss(I, T, 14.3, **options))


def test_rows_whose_sum_overflows_are_not_taken_for_infinite():
    large = torch.full((2, 4), 1e38)
    assert math.isfinite(clip_loss(large, I[:2], 1e-38, backend="dense").item())


TRAINER = {
    "batch": ({"batch_size": 100}, "batch_size is 100 but the dataset has 24 rows"),
    "no batch": ({"batch_size": 0}, "batch_size is 0"),
    "micro-batch": ({"micro_batch_size": 0}, "micro_batch_size is 0"),
    "steps": ({"steps": 0}, "steps is 0"),
    "save_every": ({"save_every": 0}, "save_every is 0"),
    "loss": ({"loss": "hinge"}, "loss 'hinge' is unknown: choose one of 'clip', 'siglip'"),
    "frozen": ({"frozen": "audio"}, "frozen 'audio' is unknown"),
    "backend": ({"backend": "magic"}, "backend 'magic' is unknown"),
}


@pytest.mark.parametrize("case", TRAINER)
def test_the_trainer_refuses_before_the_first_step(case):
    options, words = TRAINER[case]
    settings = {"batch_size": 8, "steps": 2, **options}
    refused(ValueError, words, lambda: ContrastiveTrainer(ToyTowers(), ToyPairs(24), **settings))


def trainer(path, model=None, **options):
    settings = {"batch_size": 8, "steps": 2, "progress": False, "output_dir": path, **options}
    return ContrastiveTrainer(model or ToyTowers(), ToyPairs(24), **settings)


def test_a_checkpoint_of_another_model_is_refused_and_stays_as_it_was(tmp_path):
    trainer(tmp_path).train()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    wide = trainer(tmp_path, ToyTowers(dim=12))
    weights = [p.clone() for p in wide.model.parameters()]
    refused(ValueError, "belongs to another model", wide.train)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert all(torch.equal(a, b) for a, b in zip(weights, wide.model.parameters()))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    trainer(tmp_path).train()
    refused(ValueError, "was made with seed=0, this run has seed=1", trainer(tmp_path, seed=1).train)


def test_a_truncated_checkpoint_is_refused(tmp_path):
    trainer(tmp_path).train()
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:200])
    refused(ValueError, "cannot be read", trainer(tmp_path).train)
