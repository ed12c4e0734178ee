"""The settings of one `logo` run: what was asked for, with every gap filled, and nothing that cannot be trained.

    setting                        "tiny"          "smollm2"   other models       where the others' comes from
    lora_rank                      16              32          32                 the released scripts
    lora_modules                   q_proj k_proj   all of attention               the released code: q, k, v and o
    learning_rate                  1e-3            1e-4        1e-5               one of the authors' experiment scripts
    batch_size                     8               1           1                  the paper's, on each GPU
    gradient_accumulation_steps    1               4           8                  the paper's
    num_chunks, N                  8               4           16                 the paper
    rows                           400             32          400                ours
    chunk_size                     min(512, 7/8 W / N)  256   as tiny            512 in the paper, less where W is small
    answer_tokens                  min(128, W / 16)                               ours
    target_length                  4 W             W           4 W                the paper: 8 times its real 8K tokens

where
    W              the model's window; an eighth of it is kept for the question and the answer
    smollm2        reads so little that ten steps take minutes on two cores; beyond W it babbles

Full fine-tuning (`lora_rank` 0) has no default learning rate: that of an adapter would wreck the weights.
`pairs_settings` and `eval_settings` have those of the other two commands, which take the names of columns and the
fingerprint of data from here.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minilib.data.folders import runs_in
from minilib.longcontext.positions import MODES
from minilib.longcontext.rope import METHODS
from minilib.models.loading import LONG_NAMES, pick_attention, pick_dtype
from minilib.trainers.lora import ATTENTION
from minilib.trainers.objectives import make_objective

TINY = {"lora_rank": 16, "lora_modules": list(ATTENTION[:2]), "learning_rate": 1e-3, "num_chunks": 8}
TINY |= {"batch_size": 8, "gradient_accumulation_steps": 1}
OTHERS = {"lora_rank": 32, "learning_rate": 1e-5, "num_chunks": 16}
OTHERS |= {"batch_size": 1, "gradient_accumulation_steps": 8}
SMOLLM2 = OTHERS | {"learning_rate": 1e-4, "gradient_accumulation_steps": 4, "num_chunks": 4, "chunk_size": 256}
SMOLLM2 |= {"target_length": 8_192, "rows": 32}
DEFAULTS = {"tiny": TINY, "smollm2": SMOLLM2}
THRESHOLDS = {"exact": 0, "rare_words": 6, "entities": 6}
COUNTS = ("steps", "batch_size", "gradient_accumulation_steps", "save_every", "rows")
COUNTS += ("num_rejected", "answer_tokens", "chunk_size", "length")
NUMBERS = ("beta", "gamma", "sft_weight", "lora_alpha", "learning_rate", "threshold", "temperature")
HAYSTACK = "haystack"
# What the answers of a run come from; all other settings may change as long as nothing has been trained.
ANSWERING = ("model", "window", "data", "data_sha256", "seed", "rows", "length", "num_rejected", "rope", "stretched")
ANSWERING += ("split", "context_column", "question_column", "answer_column")
ANSWERING += ("scorer", "threshold", "chunk_size", "num_chunks", "answer_tokens", "temperature")
ALIASES = {  # shorter flags, which a YAML file may have as well
    "loss_type": "loss",
    "target_length": "target",
    "position_mode": "positions",
    "gradient_accumulation_steps": "accumulate",
    "learning_rate": "lr",
}


@dataclass(frozen=True)
class LogoSettings:
    """Align a language model with LOGO's loss or a neighbour's; the same command goes on after an interrupt.

    Started by torchrun or accelerate, rank 0 makes the pairs, writes and prints.

    Args:
        model: "tiny", "smollm2" (see fetch), a folder of transformers, or a name on the hub.
        data: "haystack" (made, offline), or the path of a file or folder: either pairs as TRL has them, texts or chats,
            with chunks where a target is asked for, or questions with context, question and answer, which the model
            then answers itself, from the right chunks and from wrong ones.
        split: which part of the data, by default "train" or the only one.
        context_column: of questions, where it has none of the known names.
        question_column: as for the context.
        answer_column: as for the context.
        output: folder of pairs, checkpoints, the adapter or model, its tokenizer, settings.json and records.json.
        loss_type: "logo", "simpo", "cpo", "orpo", "dpo" or "sft".
        beta: scale of the reward, by default the loss's own (logo: 10).
        gamma: margin that is asked for, by default the loss's own (logo: 3).
        sft_weight: weight of the SFT term, by default the loss's own (logo: 0.1).
        num_rejected: M, rejected answers of a prompt, by default 2, or 1 where your pairs have one.
        target_length: positions that prompts are spread over, by default four windows of the model (smollm2: one); 0
            leaves them plain, as does the default for pairs without chunks.
        position_mode: "mixed", "continuous", "sparse", "pose" or "random".
        vary_target: whether each prompt gets a target of its own in each step, from its real length up to the target.
        share_prompt: whether a prompt is computed once for all its answers.
        rope: "none", or stretch the rotary angles to the target: "interpolation", "ntk", "dynamic_ntk" or "yarn".
        lora_rank: rank of the adapters, by default 32 (tiny: 16); 0 trains all weights.
        lora_alpha: scale of the adapters, divided by their rank.
        lora_modules: what is adapted, by default all matrices of attention (tiny: q_proj and k_proj).
        steps: optimizer steps.
        batch_size: prompts that a rank computes at a time, by default 1 (tiny: 8).
        gradient_accumulation_steps: such batches for each step, by default 8 (tiny: 1, smollm2: 4).
        learning_rate: its peak, by default 1e-5 (tiny: 1e-3, smollm2: 1e-4); to be given when all weights are trained.
        warmup: steps of linear warm-up.
        seed: adapters, data order, positions and made haystacks.
        save_every: steps between checkpoints.
        dtype: "auto" (bf16 on a GPU), "float32", "bfloat16" or "float16".
        attention: "auto" (sdpa), "sdpa", "eager" or "flex_attention" (on a GPU).
        gradient_checkpointing: compute activations twice to hold fewer of them.
        rows: how many haystacks to ask about, by default 400 (smollm2: 32).
        length: tokens of a made haystack, by default some four times what is read at a time.
        scorer: what makes a chunk matter: "rare_words" or "entities" (spaCy); haystacks know it exactly.
        threshold: score above which a chunk matters, by default 6.
        chunk_size: tokens of a chunk, by default 512 (smollm2: 256), or less so that num_chunks fill the window.
        num_chunks: N, chunks that are read at a time, by default 16 (tiny: 8, smollm2: 4).
        answer_tokens: the most tokens of an answer to a question of yours, by default 128, or a 16th of a small window.
        temperature: of the answers; 0 takes the likeliest.
        merge: whether the adapter is also merged, in the end or into a finished run, and written to output/merged as a
            plain folder of transformers in fp32.
        trust_remote_code: whether Python files that come with the model may run.
    """

    model: str = "tiny"
    data: str = HAYSTACK
    split: str | None = None
    context_column: str | None = None
    question_column: str | None = None
    answer_column: str | None = None
    output: Path = Path("runs/logo")
    loss_type: str = "logo"
    beta: float | None = None
    gamma: float | None = None
    sft_weight: float | None = None
    num_rejected: int | None = None
    target_length: int | None = None
    position_mode: str = "mixed"
    vary_target: bool = False
    share_prompt: bool = True
    rope: str = "none"
    lora_rank: int | None = None
    lora_alpha: float = 16.0
    lora_modules: list[str] | None = None
    steps: int = 200
    batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    learning_rate: float | None = None
    warmup: int = 10
    seed: int = 0
    save_every: int = 50
    dtype: str = "auto"
    attention: str = "auto"
    gradient_checkpointing: bool = False
    rows: int | None = None
    length: int | None = None
    scorer: str | None = None
    threshold: float | None = None
    chunk_size: int | None = None
    num_chunks: int | None = None
    answer_tokens: int | None = None
    temperature: float = 0.7
    merge: bool = False
    trust_remote_code: bool = False


def fill(given: LogoSettings, window: int) -> LogoSettings:
    """The settings with their defaults for a model of this window; ValueError for what cannot be trained."""
    _check_names(given)
    if given.lora_rank == 0 and given.learning_rate is None:
        raise ValueError(
            "learning_rate has no default without LoRA (lora_rank 0): give one, the released scripts have 5e-7."
        )
    given = replace(given, dtype=LONG_NAMES.get(given.dtype, given.dtype))  # a run goes on under either name
    defaults = {"rows": 400} | DEFAULTS.get(given.model, OTHERS)
    filled = replace(given, **{name: value for name, value in defaults.items() if getattr(given, name) is None})
    scorer = given.scorer or ("exact" if given.data == HAYSTACK else "rare_words")
    fitting = min(512, window * 7 // 8 // filled.num_chunks)
    chunk_size = fitting if filled.chunk_size is None else filled.chunk_size
    found = {
        "answer_tokens": max(1, min(128, window // 16)),
        "num_rejected": 2,
        "target_length": 4 * window,
        "chunk_size": chunk_size,
        "length": 30 * chunk_size * filled.num_chunks // 7,  # over four times what is read, as tiny_lm's 960 tokens
        "scorer": scorer,
        "threshold": THRESHOLDS[scorer],
    }
    filled = replace(filled, **{name: value for name, value in found.items() if getattr(filled, name) is None})
    _check_numbers(filled, window)
    return filled


def to_compare(settings: LogoSettings, window: int) -> dict:
    """What makes a run the run it is: all but where it lies and how often it saves, with its data and its ranks."""
    left_out = ("output", "save_every", "merge", "trust_remote_code")  # leave to run code is given anew each time
    kept = {name: value for name, value in asdict(settings).items() if name not in left_out}
    found = {"window": window, "data_sha256": fingerprint_of(settings.data, settings.output)}
    found["stretched"] = settings.target_length if settings.rope != "none" else None  # as the answering model was
    return kept | found | {"ranks": int(os.environ.get("WORLD_SIZE", 1))}


def _check_names(given: LogoSettings) -> None:
    make_objective(given.loss_type, beta=given.beta, gamma=given.gamma, sft_weight=given.sft_weight)
    pick_dtype(given.dtype, "cpu")
    pick_attention(given.attention)
    for name, known in (("position_mode", MODES), ("rope", METHODS), ("scorer", (None, *THRESHOLDS))):
        if getattr(given, name) not in known:
            choices = ", ".join(repr(choice) for choice in known if choice)
            raise ValueError(f"{name} {getattr(given, name)!r} is unknown: choose one of {choices}.")
    if given.data == HAYSTACK:
        for name, value, fixed in (("scorer", given.scorer, "exact"), ("threshold", given.threshold, 0)):
            if value not in (None, fixed):
                raise ValueError(f"{name} is {value!r} and data 'haystack', where facts are known: leave it out.")
    elif given.scorer == "exact":
        raise ValueError("scorer 'exact' needs the facts of haystacks: choose 'rare_words' or 'entities'.")
    elif not given.data.strip() or not Path(given.data).exists():
        raise ValueError(f"data {given.data!r} is no file or folder: give 'haystack', or a path.")
    if given.lora_modules is not None and not (given.lora_modules and all(map(str.strip, given.lora_modules))):
        raise ValueError(f"lora_modules is {given.lora_modules}: name modules of the model, or leave it out.")


def _check_numbers(settings: LogoSettings, window: int) -> None:
    for name in COUNTS:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} is {getattr(settings, name)}: give a positive whole number.")
    for name in NUMBERS:
        if (value := getattr(settings, name)) is not None and not math.isfinite(value):
            raise ValueError(f"{name} is {value}: give a finite number.")
    for name in ("lora_rank", "warmup", "temperature", "target_length", "seed"):
        if getattr(settings, name) < 0:
            raise ValueError(f"{name} is {getattr(settings, name)}: give 0 or more.")
    if settings.seed >= 2**32:
        raise ValueError(f"seed is {settings.seed}: give a whole number below 2**32.")
    if settings.merge and not settings.lora_rank:
        raise ValueError("merge is true and lora_rank 0, which leaves no adapter to merge: leave merge out.")
    if not settings.lora_alpha > 0:
        raise ValueError(f"lora_alpha is {settings.lora_alpha}: give a positive number.")
    if settings.answer_tokens >= window:
        raise ValueError(
            f"answer_tokens is {settings.answer_tokens:,} and the model's window {window:,} tokens: give less, an "
            "answer shares the window with its prompt."
        )
    if settings.chunk_size * settings.num_chunks > window:
        raise ValueError(
            f"num_chunks is {settings.num_chunks} and chunk_size {settings.chunk_size}, more than the model's window "
            f"of {window:,} tokens holds: give fewer or smaller chunks."
        )
    if not settings.learning_rate > 0:
        raise ValueError(f"learning_rate is {settings.learning_rate}: give a positive learning rate.")
    if settings.rope != "none" and settings.target_length <= window:
        raise ValueError(
            f"rope is {settings.rope!r} and target_length {settings.target_length}: angles are stretched to a target "
            f"beyond the window of {window} tokens."
        )


def fingerprint_of(data: str, output: Path | None = None) -> str | None:
    """Of the contents of a file, or of all files of a folder and their names, but not of what is written meanwhile."""
    if data == HAYSTACK:
        return None
    if Path(data).is_file():
        with open(data, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    runs = {path.resolve() for path in (*runs_in(Path(data)), *filter(None, [output]))} - {Path(data).resolve()}
    for path in sorted(path for path in Path(data).rglob("*") if path.is_file()):
        hidden = any(part.startswith(".") for part in path.relative_to(data).parts)
        if hidden or path.match("cache-*.arrow") or not runs.isdisjoint(path.resolve().parents):
            continue
        with open(path, "rb") as file:
            digest.update(f"{path.relative_to(data)} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def columns_of(settings) -> dict[str, str | None]:
    """The names of the columns of questions, as `load_questions` takes them."""
    return {name: getattr(settings, name) for name in ("context_column", "question_column", "answer_column")}
