"""python -m minilib eval: whatever a run has trained is asked what it can do, two towers or a language model.

    model.json                              two towers of `clip`       recall at k, both ways
    adapter_config.json, or config.json     a language model           needle map, details, middle, perplexity

The first is in `minilib.cli.clip`, the second in `minilib.evals.language_model`.
"""

from contextlib import nullcontext
from pathlib import Path

from minilib.cli import clip as commands


def evaluate(
    run: Path = Path("runs/clip"),
    model: str | None = None,
    data: str = "scenes",
    pairs: int = 1_000,
    lengths: list[int] | None = None,
    samples: int = 20,
    base: bool = True,
    seed: int = 1,
    output: Path | None = None,
    dtype: str = "auto",
    attention: str = "auto",
    trust_remote_code: bool = False,
) -> None:
    """Measure what a run has trained, or any language model, print it and write it to evaluation.json.

    Two towers: recall at 1, 5 and 10, both ways. A language model: right answers by depth and length of a text, recall
    of two details, lost in the middle, perplexity within the window, and needle_map.png.

    Args:
        run: the output folder of `clip` or `logo`.
        model: a language model instead of a run: "tiny", a folder of transformers, or a name on the hub.
        data: towers only; as in `clip`, made pairs come from another seed than those of the training.
        pairs: towers only; how many scenes or digit strips to make.
        lengths: tokens of the texts, such as [96,224]; by default half a window, one, two and four, up to 32,768.
        samples: questions for each length and place.
        base: whether the model from before the alignment is measured next to the aligned one.
        seed: of the made pairs or texts.
        output: folder of what is written, by default the run's (for a model runs/eval).
        dtype: of a language model: "auto" (bf16 on a GPU), "float32", "bfloat16" or "float16".
        attention: of a language model: "auto" (sdpa), "sdpa" or "eager".
        trust_remote_code: of a language model: whether Python files that come with it may run.
    """
    from minilib.models.loading import holds_language_model

    if model is None and (run / "model.json").exists():
        commands.evaluate(data, run, pairs, seed)
        return
    if model is None and not holds_language_model(run):
        if (run / "settings.json").exists():
            raise ValueError(f"run {run} is not finished: give the same `python -m minilib logo` once more.")
        raise ValueError(
            f"run {run} holds no trained model: run `python -m minilib clip --output {run}` or `python -m minilib logo "
            f"--output {run}` first."
        )
    if samples < 1 or min(lengths or [64]) < 64:
        raise ValueError(f"samples is {samples} and lengths {lengths}: give 1 or more samples and 64 or more tokens.")
    how = {"dtype": dtype, "attention": attention, "trust_remote_code": trust_remote_code}
    found, window = _measured(run, model, base, how, lengths=lengths, samples=samples, seed=seed)
    _write(found, window, output or (run if model is None else Path("runs/eval")))


def _measured(run: Path, model: str | None, base: bool, settings: dict, **asked) -> tuple[dict, int]:
    """The numbers of the models by name, and the window that they were trained on."""
    from minilib.models import loading as language

    device = commands.best_device()
    settings = settings | {"dtype": language.pick_dtype(settings["dtype"], device)}
    if model is not None:
        loaded = language.load_language_model(model, **settings)
        return {model: _ask(loaded, device, **asked)}, loaded.window
    aligned, found = language.load_aligned(run, **settings), {}
    if base and hasattr(aligned.model, "disable_adapter"):
        found["base"] = _ask(aligned, device, without_adapter=True, **asked)
    elif base and (before := language.load_base(run, **settings)):
        found["base"] = _ask(before, device, **asked)
    return found | {"aligned": _ask(aligned, device, **asked)}, aligned.window


def _ask(loaded, device: str, *, lengths: list[int] | None, samples: int, seed: int, without_adapter: bool = False):
    from minilib.evals.language_model import lengths_for, measure

    model = loaded.model.to(device)
    with model.disable_adapter() if without_adapter else nullcontext():
        return measure(
            model, loaded.tokenizer, window=loaded.window, samples=samples,
            lengths=lengths_for(model, loaded.window, lengths),
            seed=10_000 + seed,  # training has the small seeds
        )  # fmt: skip


def _write(found: dict, window: int, folder: Path) -> None:
    from minilib.cli.run_folder import write_json
    from minilib.evals.language_model import report
    from minilib.evals.longcontext import NeedleMap
    from minilib.teaching.plots import needle_maps, to_png

    print("\n".join(report(found)))
    write_json(folder / "evaluation.json", {"window": window, "models": found})
    cells = {name: NeedleMap(**scores["needle_map"]) for name, scores in found.items()}
    (folder / "needle_map.png").write_bytes(to_png(needle_maps(cells, window)))
    print(f"{folder / 'evaluation.json'}, {folder / 'needle_map.png'}")
