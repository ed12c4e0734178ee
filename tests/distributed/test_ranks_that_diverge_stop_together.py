"""Several ranks whose weights grow beyond all numbers stop at one step, with one sentence, and save nothing of it."""

import re

from support.ranks import results, run_ranks
from support.toys import ToyPairs, ToyTowers

from minilib.trainers import ContrastiveTrainer, DivergedError


def sentence(rank, folder):
    settings = {"batch_size": 8, "steps": 6, "save_every": 1, "progress": False, "lr": 1e30, "warmup": 2}
    try:
        ContrastiveTrainer(ToyTowers(dropout=0.0), ToyPairs(24), output_dir=folder, **settings).train()
    except DivergedError as error:
        return str(error)


def test_every_rank_stops_at_the_same_step_with_the_same_sentence(tmp_path):
    told = set(results(run_ranks(2, sentence, tmp_path)))
    assert len(told) == 1
    assert re.match(r"stopped at step \d of 6, learning rate \S+ \(peak 1e\+30\)", told.pop())
