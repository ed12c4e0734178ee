"""python -m minilib logo: align a language model on preference pairs, from made haystacks or from your own documents.

    optimizer   AdamW, no weight decay, cosine from `learning_rate` after `warmup` steps         (transformers)
    batch       batch_size x gradient_accumulation_steps x ranks prompts for each step, each with its 1 + M answers
    precision   weights in `dtype` under LoRA, else fp32 with autocast to `dtype`

A model is tried in full before it answers the first question (`try_model`). Next to an adapter on stretched angles lies
base_config/, the config under which peft loads it to the same logits.

torchrun and accelerate (book/scale.md has the commands) take the same flags; transformers' Trainer shares the work
between the ranks. The two newest checkpoints are kept. `LogoTrainer` does the work and names its departures.
Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import distributed as dist
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, set_seed

from minilib.cli import faults, launch, run_folder
from minilib.cli import pairs as data_rows
from minilib.cli.settings import ANSWERING, LogoSettings, columns_of, fill, to_compare
from minilib.common import Notice
from minilib.distributed import ranks
from minilib.longcontext import pack_answers, stack_packed
from minilib.models.adapters import adapted, attention_modules
from minilib.models.loading import Loaded, NotFiniteError, load_language_model, pick_dtype, window_of, write_merged
from minilib.trainers.logo import LogoConfig, LogoTrainer, check_model
from minilib.trainers.lora import lora_config, with_adapters
from minilib.trainers.trainer_utils import DivergedError, last_checkpoint, remove_unfinished_checkpoints

if TYPE_CHECKING:
    from peft import LoraConfig

BASE_CONFIG, MERGED = "base_config", "merged"
SHOWN = {"loss": ("loss", ".3f"), "margin": ("rewards/margins", ".2f"), "accuracy": ("rewards/accuracies", ".0%")}
# peft and we still say gradient checkpointing, which transformers has begun to call otherwise.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing. is deprecated", category=FutureWarning)


def logo(settings: LogoSettings) -> None:
    """One run of the command; an interrupted one goes on, a finished one says so."""
    launch.check_launcher()
    given = settings
    window = window_of(settings.model, trust_remote_code=settings.trust_remote_code)
    settings = fill(settings, window)
    kind, table = data_rows.read_data(settings.data, settings.split, columns_of(settings))
    settings = data_rows.fit_to_data(given, settings, kind, table)
    data_rows.scorer_of(settings.scorer)  # a missing spaCy is told before anything is loaded
    rank = int(os.environ.get("RANK", 0))
    with run_folder.opened(settings.output):
        run_folder.begin(settings.output, to_compare(settings, window), "logo", asdict(given), ANSWERING)
        records = run_folder.finished(settings.output)
        already = records is not None
        if not already:
            records = _align(settings, kind, table, rank)
        if rank == 0:
            print(_summary(records, settings, already))
        if rank == 0 and settings.merge:
            with run_folder.filled(settings.output / MERGED, first_rank=True) as place:
                write_merged(settings.output, place, trust_remote_code=settings.trust_remote_code)
            print(f"{settings.output / MERGED} holds the model with its adapter merged, for transformers alone")


def _align(settings: LogoSettings, kind: str, table, rank: int) -> list[dict]:
    """The pairs, the training, and its records."""
    loaded = load_policy(settings)
    fresh = last_checkpoint(settings.output) is None
    check_model(loaded.model, _config(settings))
    if kind != "pairs":
        if fresh and (told := try_model(loaded, settings, settings.chunk_size * settings.num_chunks)) and rank == 0:
            print(told)
        table = data_rows.answered_pairs(kind, table, settings, loaded, rank)
    table = data_rows.numbered(table, settings)
    if rank == 0:
        longest = data_rows.check_rows(table, loaded.tokenizer, settings, loaded.window)
        if kind == "pairs" and fresh and (told := try_model(loaded, settings, longest)):
            print(told)
        target = settings.target_length
        reach = f"spread over {target:,} positions" if target else "at plain positions"
        print(f"{len(table):,} pairs with prompts of up to {longest:,} tokens, {reach}")
    if rank == 0 and settings.rope != "none" and settings.lora_rank:
        loaded.model.config.save_pretrained(settings.output / BASE_CONFIG)
    trainer = make_trainer(settings, loaded, table)
    if rank == 0:
        engine = trainer.accelerator.distributed_type.value.replace("MULTI_", "DDP, each on its ")
        print(launch.who_trains(trainer.accelerator.num_processes, engine))
    return run(trainer, settings.output)


def own_device() -> str:
    """Where this rank computes: its own GPU, else the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def load_policy(settings: LogoSettings) -> Loaded:
    """The model that is aligned, on this rank's device; ValueError for what this device cannot train."""
    for name, value in (("dtype", "float16"), ("attention", "flex_attention")):
        if getattr(settings, name) == value and own_device() == "cpu":
            raise ValueError(f"{name} is {value!r} and there is no GPU: choose 'auto', training needs one for that.")
    dtype = pick_dtype(settings.dtype, own_device()) if settings.lora_rank else torch.float32
    how = {"rope": settings.rope, "target": settings.target_length, "trust_remote_code": settings.trust_remote_code}
    try:
        loaded = load_language_model(settings.model, dtype=dtype, attention=settings.attention, **how)
    except NotFiniteError as error:  # ends as a training that has diverged does, before it answers anything
        fault, rate = str(error).rpartition(":")[0], settings.learning_rate
        raise DivergedError.at(fault, 1, settings.steps, (rate, rate), None) from error
    return loaded._replace(model=loaded.model.to(own_device()))


def try_model(loaded: Loaded, settings: LogoSettings, length: int) -> str:
    """One step on a prompt of `length` tokens, undone to the bit: what cannot be trained is told before any answer.

    Returns one line about the adapters, "" without any.
    """
    model, args = loaded.model, _config(settings)
    trained, config = {p: p.requires_grad for p in model.parameters()}, adapters(settings, model)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), restored(model, trained):
        tried = model if config is None else with_adapters(model, config)
        told = "" if config is None else adapted(tried)
        try:
            _one_step(tried.train(), args, settings, length)
        except Exception as error:  # whatever a model's code or a full device may raise
            if isinstance(error, ValueError):
                raise
            cause = (str(error).strip() or "no reason given").splitlines()[0].rstrip(".")
            raise ValueError(
                f"model {settings.model!r} could not take one step on a prompt of {length} tokens "
                f"({type(error).__name__}: {cause}): choose smaller settings or another model."
            ) from error
        finally:
            if config is not None:
                tried.unload()
    return told


def _one_step(model, args: LogoConfig, settings: LogoSettings, length: int) -> None:
    """Forward, backward and a step of AdamW at rate 0, which moves nothing and takes the memory of a real one."""
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    entries = model.get_input_embeddings().weight.shape[0]
    if settings.target_length:
        length = min(length, settings.target_length - 2)
    ids = torch.arange(max(3, length)) % entries
    positions = torch.arange(len(ids))
    if settings.target_length > len(ids) + 2:  # the last token at the end of the target
        positions[-1] = settings.target_length - 3
    pack = pack_answers(ids, [ids[:2], *[ids[1:3]] * settings.num_rejected], positions)
    half = args.bf16 or args.fp16
    dtype = torch.bfloat16 if args.bf16 else torch.float16
    with torch.autocast(model.device.type, dtype=dtype if half else None, enabled=half):
        loss = args.objective()(model, stack_packed([pack]))[0]
    loss.backward()
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0).step()


@contextmanager
def restored(model, trained: dict) -> Iterator[None]:
    """Afterwards the model has no gradients, trains what it trained before, and is in evaluation mode."""
    try:
        yield
    finally:
        for parameter, wanted in trained.items():
            parameter.grad = None
            parameter.requires_grad_(wanted)
        vars(model).pop("peft_config", None)
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            model.gradient_checkpointing_disable()
        model.eval()


def adapters(settings: LogoSettings, model) -> LoraConfig | None:
    """The settings of the adapters; modules that were not named are those of the model's attention."""
    if not settings.lora_rank:
        return None
    modules = settings.lora_modules or attention_modules(model)
    return lora_config(rank=settings.lora_rank, alpha=settings.lora_alpha, modules=modules)


def make_trainer(settings: LogoSettings, loaded: Loaded, rows) -> LogoTrainer:
    """The trainer of these settings; the ranks that a launcher has started meet here."""
    args = _config(settings)
    launch.shard_on_cpus(args)
    set_seed(settings.seed)  # the adapters' first weights
    trainer = LogoTrainer(
        loaded.model, args, rows, processing_class=loaded.tokenizer,
        peft_config=adapters(settings, loaded.model),
    )  # fmt: skip
    for printing in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printing)
    trainer.add_callback(_Bar)
    trainer.add_callback(_StopWhenAsked)
    return trainer


def run(trainer: LogoTrainer, output: Path) -> list[dict]:
    """Train from the last whole checkpoint to the end, write model, tokenizer and records, return the records."""
    with trainer.args.main_process_first(local=False):  # one rank clears away what a killed run left half written
        if trainer.is_world_process_zero():
            for told in remove_unfinished_checkpoints(output):
                warnings.warn(told, Notice, stacklevel=2)
        checkpoint = last_checkpoint(output)
    with faults.training():
        trainer.train(resume_from_checkpoint=checkpoint)
    step, steps = trainer.state.global_step, trainer.state.max_steps
    if step < steps:
        faults.stop(f"step {step} of {steps} is saved, give the same {run_folder.go_on(output, 'logo')}")
    with run_folder.filled(output, trainer.is_world_process_zero()) as staging:
        trainer.save_model(str(staging))
    records = [entry for entry in trainer.state.log_history if "loss" in entry]
    if trainer.is_world_process_zero():
        run_folder.write_json(output / run_folder.RECORDS, records)
    if dist.is_available() and dist.is_initialized():
        _leave()
    return records


def _leave() -> None:
    """The ranks meet once more, then part."""
    last = dist.barrier(async_op=True)
    last.wait()
    # Held until the group is gone: gloo's thread needs the GIL to drop a message that nobody holds, and torch, which
    # ends that thread with the group, waits for it with the GIL taken.
    dist.destroy_process_group()


def _config(settings: LogoSettings) -> LogoConfig:
    dtype = pick_dtype(settings.dtype, own_device())
    same = ("loss_type", "beta", "gamma", "sft_weight", "num_rejected", "position_mode", "vary_target", "share_prompt")
    same += ("gradient_accumulation_steps", "learning_rate", "seed")
    return LogoConfig(
        output_dir=str(settings.output),
        target_length=settings.target_length or None,
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        warmup_steps=settings.warmup,
        lr_scheduler_type="cosine",
        weight_decay=0.0,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        save_steps=settings.save_every,
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        use_cpu=own_device() == "cpu",
        **({"gradient_checkpointing": True} if settings.gradient_checkpointing else {}),  # warns of its new name
        **{name: getattr(settings, name) for name in same},
    )


class _Bar(TrainerCallback):
    """One bar with the newest numbers, on the first rank, and no checkpoint at the end.

    transformers' own bar prints every record in full.
    """

    def on_train_begin(self, args, state, control, **_):
        hidden = not state.is_world_process_zero
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="logo", unit="step", disable=hidden)

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.global_step - self.bar.n)
        # A run that goes on from its last step would take one more; the end is written to the folder itself.
        control.should_save &= state.global_step < state.max_steps

    def on_log(self, args, state, control, logs=None, **_):
        logs = logs or {}
        self.bar.set_postfix({title: f"{logs[name]:.2f}" for title, (name, _) in SHOWN.items() if name in logs})

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


class _StopWhenAsked(TrainerCallback):
    """After a step: where a signal has come to any rank, save a checkpoint and end the training."""

    def on_step_end(self, args, state, control, **_):
        wanted = launch.any_rank(ranks.default_group(), faults.asked() is not None, args.device)
        if wanted and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True


def _summary(records: list[dict], settings: LogoSettings, already: bool) -> str:
    """What was learned, from the means of the first and of the last tenth of the steps, and where it lies."""
    tenth = max(1, len(records) // 10)
    moves = []
    for title, (name, form) in SHOWN.items():
        if name in records[0]:
            first, last = (fmean(record[name] for record in part) for part in (records[:tenth], records[-tenth:]))
            moves.append(f"{title} {first:{form}} -> {last:{form}}")
    what = "adapter" if settings.lora_rank else "model"
    lines = [
        f"{', '.join(moves)} in {len(records)} steps, {records[-1]['tokens']:,} tokens",
        f"{settings.output} holds the {what}: python -m minilib eval --run {run_folder.typed(settings.output)}",
    ]
    if settings.lora_rank and settings.rope != "none":
        lines.append(
            "its angles are stretched: give the base of the adapter config=AutoConfig.from_pretrained("
            f"{str(settings.output / BASE_CONFIG)!r}), or this command once more with --merge true"
        )
    return "\n".join(["already finished, nothing to do", *lines] if already else lines)
