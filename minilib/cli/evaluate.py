"""python -m minilib eval: whatever a run has trained is asked what it can do, two towers or a language model.

    model.json                              two towers of `clip`       recall at k, both ways
    adapter_config.json, or config.json     a language model           needle map, details, middle, perplexity; with
                                                                       data, its answers to your own questions

The first is in `minilib.cli.clip`, the others in `minilib.evals.language_model` and `minilib.cli.own_questions`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from minilib.cli import clip as commands
from minilib.cli import run_folder
from minilib.cli.eval_settings import EvalSettings


def evaluate(settings: EvalSettings | None = None, **given) -> None:
    """Measure what `settings` say, or fields of them by name (`EvalSettings`)."""
    settings = settings or EvalSettings(**given)
    from minilib.models.loading import holds_language_model

    run, model = settings.run, settings.model
    command = None if model is not None else run_folder.command_of(run)
    if model is None and command != "logo" and (run / "model.json").exists():
        names = ("split", "image_column", "caption_column", "image_folder", "allow_outside", "output")
        named = {name: getattr(settings, name) for name in names}
        commands.evaluate(settings.data, run, settings.pairs, settings.seed, **named)
        return
    if model is None and not holds_language_model(run):
        if command == "pairs":
            raise ValueError(f"run {run} holds pairs and no model: train on {run / run_folder.PAIRS} with logo first.")
        if command is not None:
            raise ValueError(f"run {run} is not finished: give the same {run_folder.go_on(run, command)}.")
        either = " or ".join(f"`python -m minilib {c} --output {run_folder.typed(run)}`" for c in ("clip", "logo"))
        raise ValueError(f"run {run} holds no trained model: run {either} first.")
    folder = settings.output or (run if model is None else Path("runs/eval"))
    if settings.data is not None:
        from minilib.cli.own_questions import QuestionScores

        asked = QuestionScores(settings, folder)
        with run_folder.opened(folder):
            _write_scores(*_measured(settings, asked), settings, folder)
        return
    samples, lengths = settings.samples, settings.lengths
    if (samples is not None and samples < 1) or min(lengths or [64]) < 64:
        raise ValueError(f"samples is {samples} and lengths {lengths}: give 1 or more samples and 64 or more tokens.")
    found, window = _measured(settings, _ask_haystacks)
    _write(found, window, folder)


def _measured(settings: EvalSettings, ask: Callable) -> tuple[dict, int]:
    """What `ask(name, loaded, settings)` finds for each model by its name, and the window that they were trained on."""
    from minilib.models import loading as language

    device = commands.best_device()
    how = {"dtype": language.pick_dtype(settings.dtype, device), "attention": settings.attention}
    how["trust_remote_code"] = settings.trust_remote_code

    def asked(name: str, loaded, without_adapter: bool = False) -> dict:
        model = loaded.model.to(device)
        with model.disable_adapter() if without_adapter else nullcontext():
            return ask(name, loaded._replace(model=model), settings)

    if settings.model is not None:
        loaded = language.load_language_model(settings.model, **how)
        return {settings.model: asked("model", loaded)}, loaded.window
    aligned, found = language.load_aligned(settings.run, **how), {}
    if settings.base and hasattr(aligned.model, "disable_adapter"):
        found["base"] = asked("base", aligned, without_adapter=True)
    elif settings.base and (before := language.load_base(settings.run, **how)):
        found["base"] = asked("base", before)
    return found | {"aligned": asked("aligned", aligned)}, aligned.window


def _ask_haystacks(name: str, loaded, settings: EvalSettings) -> dict:
    from minilib.evals.language_model import default_samples, fitting_lengths, measure

    return measure(
        loaded.model, loaded.tokenizer, window=loaded.window,
        samples=settings.samples or default_samples(loaded.window, loaded.model.device.type == "cuda"),
        lengths=fitting_lengths(loaded.model, loaded.tokenizer, loaded.window, settings.lengths),
        seed=10_000 + settings.seed,  # training has the small seeds
    )  # fmt: skip


def _write_scores(found: dict, window: int, settings: EvalSettings, folder: Path) -> None:
    from minilib.cli.own_questions import report

    print("\n".join(report(found)))
    run_folder.write_json(folder / "evaluation.json", {"window": window, "data": settings.data, "models": found})
    print(f"{folder / 'evaluation.json'}, " + ", ".join(scores["answers"] for scores in found.values()))


def _write(found: dict, window: int, folder: Path) -> None:
    from minilib.evals.language_model import report
    from minilib.evals.longcontext import NeedleMap
    from minilib.teaching.plots import needle_maps, to_png

    print("\n".join(report(found)))
    run_folder.write_json(folder / "evaluation.json", {"window": window, "models": found})
    cells = {name: NeedleMap(**scores["needle_map"]) for name, scores in found.items()}
    (folder / "needle_map.png").write_bytes(to_png(needle_maps(cells, window)))
    print(f"{folder / 'evaluation.json'}, {folder / 'needle_map.png'}")
