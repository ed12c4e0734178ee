"""python -m minilib pairs: the first half of `logo` as a step of its own, preference pairs from questions and a model.

    output/settings.json         what the pairs were begun with
    output/pairs.jsonl           one pair a line, and pairs.jsonl.state, with which an interrupted command goes on
    output/pairs_report.json     written last: what became of every question and every answer

`python -m minilib logo --model MODEL --data output/pairs.jsonl` trains that model on them, as often as you like.
"""

from __future__ import annotations

from dataclasses import asdict

from minilib.cli import pairs as data_rows
from minilib.cli import run_folder
from minilib.cli.pairs_settings import PairsSettings
from minilib.cli.settings import LogoSettings, columns_of, fill, to_compare
from minilib.models.loading import best_device, is_tiny, load_language_model, pick_dtype, window_of


def make_pairs(settings: PairsSettings) -> None:
    """One run of the command; an interrupted one goes on, a finished one says so."""
    window = window_of(settings.model, trust_remote_code=settings.trust_remote_code)
    filled = fill(LogoSettings(**asdict(settings), target_length=0), window)
    kind, table = data_rows.read_data(filled.data, filled.split, columns_of(filled))
    if kind == "pairs":
        raise ValueError(f"data {settings.data!r} holds pairs already: train on them with `python -m minilib logo`.")
    data_rows.scorer_of(filled.scorer)
    compared = {name: value for name, value in to_compare(filled, window).items() if name in COMPARED}
    with run_folder.opened(settings.output):
        run_folder.begin(settings.output, compared, "pairs", asdict(settings))
        done = (settings.output / data_rows.REPORT).exists()
        loaded = None if done else _loaded(settings)
        made = data_rows.answered_pairs(kind, table, filled, loaded, rank=0)
    path = settings.output / run_folder.PAIRS
    told = "already finished, nothing to do: " if done else ""
    model = "" if is_tiny(settings.model) else f"--model {run_folder.typed(settings.model)} "
    print(f"{told}{path} holds {len(made):,} pairs: python -m minilib logo {model}--data {run_folder.typed(path)}")


def _loaded(settings: PairsSettings):
    device = best_device()
    kept = {"dtype": pick_dtype(settings.dtype, device), "attention": settings.attention}
    kept["trust_remote_code"] = settings.trust_remote_code
    loaded = load_language_model(settings.model, **kept)
    return loaded._replace(model=loaded.model.to(device))


NOT_COMPARED = {"output", "dtype", "attention", "trust_remote_code"}
COMPARED = {*PairsSettings.__dataclass_fields__, "window", "data_sha256"} - NOT_COMPARED
