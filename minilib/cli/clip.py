"""python -m minilib clip and eval: train two towers on your own pairs, and measure what they retrieve.

    small towers   model.json and checkpoint.pt
    transformers   the folder is one of `save_pretrained`: CLIPModel.from_pretrained("runs/clip") loads it
    both           log.jsonl as steps come, TensorBoard's events where it is installed, records.json at the end

`torchrun --nproc-per-node 4 -m minilib clip` takes the same flags and trains the same model on four ranks, over gloo
between CPUs. It takes NCCL where there are GPUs, which has not been run yet.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch

from minilib.cli import clip_data, faults, launch, run_folder
from minilib.cli.clip_settings import ELSEWHERE, MADE, WORDED, ClipSettings, fill, is_pretrained
from minilib.common import Notice, write_text
from minilib.evals import evaluate_retrieval
from minilib.losses.validation import check_numbers
from minilib.models import TwoTowers
from minilib.models.loading import best_device
from minilib.models.towers import words_of
from minilib.trainers import ContrastiveTrainer, checkpoint

LOG = "log.jsonl"
MOST_WORDS = 256  # of a caption that small towers read; all of it, where it is shorter


def clip(settings: ClipSettings | None = None, **given) -> None:
    """Train as `settings` say, or fields of them by name (`ClipSettings`); the same call goes on after an interrupt."""
    asked = settings or ClipSettings(**given)
    settings = fill(asked)
    output = settings.output
    with run_folder.opened(output), launch.launched(settings.timeout) as rank:
        compared = {name: _plain(value) for name, value in asdict(settings).items() if name not in ELSEWHERE}
        run_folder.begin(output, compared, "clip", asdict(asked))
        with _only_first_rank_speaks(rank):
            trainer, lines = make_trainer(settings, rank)
            lines.append(launch.who_trains(trainer.ranks, f"the ring over {launch.comm_backend()}"))
            if rank == 0:
                print("\n".join(lines), end="\n" * bool(lines))
        with faults.training():
            records = trainer.train()
        if rank == 0:
            _write(settings, trainer.model, records)
    if rank == 0:
        print(_summary(records, settings))


def make_trainer(settings: ClipSettings, rank: int) -> tuple[ContrastiveTrainer, list[str]]:
    """The trainer of these settings, and lines that say what is trained on what."""
    torch.manual_seed(settings.seed)
    model, lines = _encoders(settings) if is_pretrained(settings) else (None, [])
    dataset, held, more = clip_data.training_data(settings)
    captions = [] if settings.data in WORDED and model is None else list(clip_data.some_captions(dataset))
    if model is None:
        torch.manual_seed(settings.seed)
        model = _small_towers(settings, captions)
    else:
        from minilib.models.encoders import check_reading

        check_reading(model, _name(settings), captions)
    model = model.to(best_device())
    lines = [*lines, *more, *_cut(model, captions)]
    if settings.warmup > settings.steps and settings.warmup != ClipSettings.warmup:
        lines.append(f"warmup is {settings.warmup} of {settings.steps} steps: lr never comes near {settings.lr:g}")
    callbacks = [RunLog(settings.output), stop_when_asked]
    if held is not None:
        callbacks.insert(0, Validation(held, settings))
    loss = settings.loss or ("siglip" if is_pretrained(settings) and model.logit_bias is not None else "clip")
    names = ("batch_size", "micro_batch_size", "steps", "backend", "lr", "warmup", "frozen", "seed", "save_every")
    trainer = ContrastiveTrainer(
        model, dataset, loss=loss, output_dir=settings.output, callbacks=callbacks,
        **{name: getattr(settings, name) for name in names},
    )  # fmt: skip
    return trainer, lines


def _encoders(settings: ClipSettings) -> tuple:
    """Encoders of transformers, tried out, with what is trained of them."""
    from minilib.models import encoders

    trust = {"trust_remote_code": settings.trust_remote_code}
    if settings.model is not None:
        model = encoders.load_towers(settings.model, **trust)
    else:
        model = encoders.join_towers(settings.image_model, settings.text_model, dim=settings.dim, **trust)
    encoders.try_out(model, _name(settings))
    lines = [encoders.choose_trained(model, settings.mode, settings.frozen, settings.lora_rank)]
    if settings.augment:
        model.augment, line = encoders.make_augment(encoders.image_side(model))
        lines.append(line)
    if settings.dtype == "bfloat16":
        model.dtype = torch.bfloat16
    return model, lines


def _name(settings: ClipSettings) -> str:
    return settings.model or f"{settings.image_model} with {settings.text_model}"


def _small_towers(settings: ClipSettings, captions: list[str]) -> TwoTowers:
    """Towers that know every word of the captions; those of scenes and digits they know by themselves."""
    if settings.data in WORDED:
        return TwoTowers(dim=settings.dim, image_size=settings.image_size)
    words, longest = set(), 0
    for caption in captions:
        pieces = words_of(caption)
        words.update(pieces)
        longest = max(longest, len(pieces))
    most = min(max(longest, 32), MOST_WORDS)
    return TwoTowers(sorted(words), dim=settings.dim, image_size=settings.image_size, max_words=most)


def _cut(model, captions: list[str]) -> list[str]:
    """A line about captions that lose their end, since equal beginnings are equal to the text tower."""
    if isinstance(model, TwoTowers):
        cut, unit = sum(len(words_of(caption)) > model.max_words for caption in captions), f"{model.max_words} words"
    else:
        parts = (captions[start : start + 1_000] for start in range(0, len(captions), 1_000))
        cut = sum(map(model.count_cut, parts))
        unit = f"{model.max_tokens} tokens"
    return [f"{cut:,} of {len(captions):,} captions are longer than the {unit} that are read: cut there"] if cut else []


class Validation:
    """After a step with a checkpoint: recall on pairs that are not trained on, into the record."""

    def __init__(self, pairs, settings: ClipSettings):
        self.pairs, self.settings = pairs, settings

    def __call__(self, trainer: ContrastiveTrainer, record: dict) -> None:
        step = record["step"] + 1
        if step % self.settings.save_every == 0 or step == self.settings.steps:
            size = self.settings.micro_batch_size
            record["validation"] = evaluate_retrieval(trainer.model, self.pairs, micro_batch_size=size, progress=False)


class RunLog:
    """Writes each record as it comes, on rank 0: a line of log.jsonl, and TensorBoard's scalars where it is there."""

    def __init__(self, folder: Path):
        self.folder, self.board, self.begun = folder, None, False

    def __call__(self, trainer: ContrastiveTrainer, record: dict) -> None:
        if trainer.rank != 0:
            return
        if not self.begun:  # of a resumed run, the steps since its checkpoint are gone
            write_text(self.folder / LOG, "".join(json.dumps(old) + "\n" for old in trainer.records[:-1]))
            self.board, self.begun = _tensorboard(self.folder, record["step"]), True
        with open(self.folder / LOG, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.board is not None:
            for name, value in _scalars(record):
                self.board.add_scalar(name, value, record["step"])
            self.board.flush()


def stop_when_asked(trainer: ContrastiveTrainer, record: dict) -> None:
    """After a step: where a signal has come to any rank, save and end the command."""
    if launch.any_rank(trainer.group, faults.asked() is not None, trainer.model.logit_scale.device):
        trainer.save()
        step, steps = record["step"] + 1, trainer.config.steps
        faults.stop(f"step {step} of {steps} is saved, give the same {run_folder.go_on(trainer.path.parent, 'clip')}")


def evaluate(
    data: str | None = None,
    run: Path = Path("runs/clip"),
    pairs: int = 1_000,
    seed: int = 1,
    *,
    split: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    image_folder: Path | None = None,
    allow_outside: bool = False,
    output: Path | None = None,
) -> None:
    """Print recall at 1, 5 and 10 of a trained model, both ways, and write it to evaluation.json.

    Args:
        data: as in `clip`, by default that of the run; made pairs come from another seed than those of the training.
        run: the output folder of `clip`.
        pairs: how many scenes, digit strips or glyphs to make.
        seed: of the made pairs; of scenes 1 or more, 0 is that of the training.
        split: of your own data, by default "test" or "validation" where there is one.
        image_column: by default that of the training, or found by its name.
        caption_column: by default that of the training, or found by its name.
        image_folder: what paths of images are relative to, by default as `load_pairs` has it, or as in the training
            where the data are those.
        allow_outside: whether paths and links may lead out of the data folder.
        output: the folder of evaluation.json, by default the run's.
    """
    check_numbers({"pairs": pairs, "seed": seed}, counts=("pairs",), least={"seed": 0})
    if not (run / "model.json").exists():
        command = f"python -m minilib clip --output {run_folder.typed(run)}"
        raise ValueError(f"run {run} holds no trained model: run `{command}` first.")
    model, size, known = _trained(run)
    trained = run_folder.settings_of(run)
    data = data or trained.get("data", "scenes")
    if data == "scenes" and seed == 0:
        raise ValueError("seed is 0, that of the scenes of the training: give 1 or more.")
    if data in MADE:
        found = clip_data.made(data, pairs, seed=seed, size=size or 32, split="test")
    else:
        split, line = clip_data.to_score(data, split, allow_outside, trained)
        print(line)
        given = {"image_column": image_column, "caption_column": caption_column}
        columns = {name: value for name, value in {**known, **given}.items() if value is not None or name not in known}
        if image_column or caption_column:
            columns.pop("label_column", None)
        if image_folder is not None or data != trained.get("data"):  # other data lie elsewhere
            columns["image_folder"] = image_folder
        found = clip_data.load_pairs(data, image_size=size, split=split, allow_outside=allow_outside, **columns)
    recall = evaluate_retrieval(model, found)
    for way, values in recall.items():
        print(f"{way.replace('_', ' '):13s}", "  ".join(f"recall@{k} {value:.1%}" for k, value in values.items()))
    run_folder.write_json((output or run) / "evaluation.json", recall)


def _trained(run: Path) -> tuple:
    """The model of a run, the side of its pictures (None: of any size), and the columns that it was trained on."""
    damaged = f"{run / 'model.json'} is damaged"
    try:
        shape = dict(run_folder.read_object(run / "model.json", damaged))
        known = dict(shape.pop("columns", {}))
        pretrained = shape.pop("pretrained", False)
        model = None if pretrained else TwoTowers(shape.pop("vocabulary"), **shape)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{damaged}: delete it, and give the same {run_folder.go_on(run, 'clip')}.") from error
    if pretrained:
        from minilib.models.encoders import load_towers

        return load_towers(str(run)).to(best_device()), None, known
    checkpoint.load_weights(run / "checkpoint.pt", model)
    return model.to(best_device()), model.image_size, known


def _write(settings: ClipSettings, model, records: list[dict]) -> None:
    """The trained model, as the evaluation and others load it; records.json comes last."""
    columns = clip_data.remembered(settings)
    if is_pretrained(settings):
        from minilib.models.encoders import save_towers

        with run_folder.filled(settings.output, True) as place:
            save_towers(model, place)
        shape = {"pretrained": True, "columns": columns}
    else:
        shape = {"vocabulary": model.vocabulary, "dim": settings.dim, "image_size": model.image_size}
        shape |= {"max_words": model.max_words, "columns": columns}
    run_folder.write_json(settings.output / "model.json", shape)
    run_folder.write_json(settings.output / "records.json", records)


@contextmanager
def _only_first_rank_speaks(rank: int) -> Iterator[None]:
    """What all ranks find out is said once."""
    with warnings.catch_warnings():
        if rank != 0:
            warnings.simplefilter("ignore", Notice)
        yield


def _tensorboard(folder: Path, step: int):
    if not find_spec("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)


def _scalars(record: dict):
    """Names and numbers of a record, those of the validation with their own names."""
    for name, value in record.items():
        if isinstance(value, dict):
            for way, recall in value.items():
                yield from ((f"{name}/{way}/recall@{k}", number) for k, number in recall.items())
        else:
            yield f"train/{name}", value


def _plain(value):
    return str(value) if isinstance(value, Path) else value


def _summary(records: list[dict], settings: ClipSettings) -> str:
    losses = f"loss {records[0]['loss']:.3f} -> {records[-1]['loss']:.3f}"
    text = f"{losses} in {len(records)} steps of {settings.batch_size:,} pairs"
    if "validation" in records[-1]:
        ways = records[-1]["validation"].items()
        text += ", " + ", ".join(f"{way.replace('_', ' ')} recall@1 {recall[1]:.1%}" for way, recall in ways)
    return text
