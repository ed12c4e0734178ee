"""python -m minilib logo: align a language model on preference pairs, from made haystacks or from your own documents.

`torchrun --nproc-per-node 4 -m minilib logo` and `accelerate launch -m minilib logo` take the same flags; transformers'
Trainer then shares the work between the ranks. The steps themselves are in `minilib.alignment`.

Taught in notebooks/13_train_logo_end_to_end.ipynb.
"""

import os
from pathlib import Path
from statistics import fmean

from minilib.cli import run_folder, settings


def logo(
    model: str = "tiny",
    data: str = "haystack",
    output: Path = Path("runs/logo"),
    loss: str = "logo",
    beta: float | None = None,
    gamma: float | None = None,
    sft_weight: float | None = None,
    num_rejected: int = 2,
    target: int | None = None,
    positions: str = "mixed",
    vary_target: bool = False,
    share_prompt: bool = True,
    rope: str = "none",
    lora_rank: int | None = None,
    lora_alpha: float = 16.0,
    lora_modules: list[str] | None = None,
    steps: int = 200,
    batch_size: int | None = None,
    accumulate: int | None = None,
    lr: float | None = None,
    warmup: int = 10,
    seed: int = 0,
    save_every: int = 50,
    dtype: str = "auto",
    attention: str = "auto",
    gradient_checkpointing: bool = False,
    rows: int = 400,
    length: int | None = None,
    scorer: str | None = None,
    threshold: float | None = None,
    chunk_size: int | None = None,
    num_chunks: int | None = None,
    answer_tokens: int = 128,
    temperature: float = 0.7,
) -> None:
    """Align a language model with LOGO's loss or a neighbour's; the same command goes on after an interrupt.

    Started by torchrun or accelerate, rank 0 makes the pairs, writes and prints.

    Args:
        model: "tiny", a folder of transformers, or a name on the hub.
        data: "haystack" (made, offline), or the path of a JSON Lines, Parquet or Arrow file: either pairs with prompt,
            chosen, rejected and chunks, or questions with context, question and answer, which the model then answers
            itself, from the right chunks and from wrong ones.
        output: folder of pairs, checkpoints, the adapter or model, its tokenizer, settings.json and records.json.
        loss: "logo", "simpo", "cpo", "orpo", "dpo" or "sft".
        beta: scale of the reward, by default the loss's own (logo: 10).
        gamma: margin that is asked for, by default the loss's own (logo: 3).
        sft_weight: weight of the SFT term, by default the loss's own (logo: 0.1).
        num_rejected: M, rejected answers of a prompt.
        target: positions that prompts are spread over, by default four windows of the model; 0 leaves them plain.
        positions: "mixed", "continuous", "sparse", "pose" or "random".
        vary_target: whether each prompt gets a target of its own in each step, from its real length up to the target.
        share_prompt: whether a prompt is computed once for all its answers.
        rope: "none", or stretch the rotary angles to the target: "interpolation", "ntk", "dynamic_ntk" or "yarn".
        lora_rank: rank of the adapters, by default 32 (tiny: 16); 0 trains all weights.
        lora_alpha: scale of the adapters, divided by their rank.
        lora_modules: what is adapted, by default q_proj, k_proj, v_proj and o_proj (tiny: q_proj and k_proj).
        steps: optimizer steps.
        batch_size: prompts that a rank computes at a time, by default 1 (tiny: 8).
        accumulate: such batches for each step, by default 8 (tiny: 1).
        lr: peak learning rate, by default 1e-5 (tiny: 1e-3); to be given when all weights are trained.
        warmup: steps of linear warm-up.
        seed: adapters, data order, positions and made haystacks.
        save_every: steps between checkpoints.
        dtype: "auto" (bf16 on a card), "float32", "bfloat16" or "float16".
        attention: "auto" (sdpa), "sdpa", "eager" or "flex_attention" (on a card).
        gradient_checkpointing: compute activations twice to hold fewer of them.
        rows: how many haystacks to ask about.
        length: tokens of a made haystack, by default some four times what is read at a time.
        scorer: what makes a chunk matter: "rare_words" or "entities" (spaCy); haystacks know it exactly.
        threshold: score above which a chunk matters, by default 6.
        chunk_size: tokens of a chunk, by default 512, or less so that num_chunks fill the window.
        num_chunks: N, chunks that are read at a time, by default 16 (tiny: 8).
        answer_tokens: the most tokens of an answer to a question of yours.
        temperature: of the answers; 0 takes the likeliest.
    """
    given = dict(locals())  # the settings are what settings.json keeps and what all steps read
    from minilib.cli import pairs as data_rows
    from minilib.models.loading import window_of

    found = settings.fill(given, window_of(model))
    kind, table = data_rows.read_data(data)
    data_rows.scorer_of(found["scorer"])  # a missing spaCy is told before anything is loaded
    run_folder.begin(output, settings.to_compare(found))
    rank = int(os.environ.get("RANK", 0))
    records = run_folder.finished(output)
    already = records is not None
    if not already:
        records = _align(found, kind, table, rank)
    if rank == 0:
        print(_summary(records, found, already))


def _align(found: dict, kind: str, table, rank: int) -> list[dict]:
    """The pairs, the training, and its records."""
    from minilib.cli import logo_training as training
    from minilib.cli import pairs as data_rows

    loaded = training.load_policy(found)
    if kind != "pairs":
        training.try_layout(loaded, found)
        table = data_rows.answered_pairs(kind, table, found, loaded, rank)
    table = data_rows.numbered(table, found)
    if rank == 0:
        longest = data_rows.check_rows(table, loaded.tokenizer, found)
        reach = f"spread over {found['target']:,} positions" if found["target"] else "at plain positions"
        print(f"{len(table):,} pairs with prompts of up to {longest:,} tokens, {reach}")
    return training.run(training.make_trainer(found, loaded, table), found["output"])


def _summary(records: list[dict], found: dict, already: bool) -> str:
    """What was learned, from the means of the first and of the last tenth of the steps, and where it lies."""
    tenth = max(1, len(records) // 10)
    shown = {"loss": ".3f", "margin": ".2f", "accuracy": ".0%"}
    moves = []
    for name, form in shown.items():
        if name in records[0]:
            first, last = (fmean(record[name] for record in part) for part in (records[:tenth], records[-tenth:]))
            moves.append(f"{name} {first:{form}} -> {last:{form}}")
    what = "adapter" if found["lora_rank"] else "model"
    lines = [
        f"{', '.join(moves)} in {len(records)} steps, {records[-1]['tokens']:,} tokens",
        f"{found['output']} holds the {what}: python -m minilib eval --run {found['output']}",
    ]
    return "\n".join(["already finished, nothing to do", *lines] if already else lines)
