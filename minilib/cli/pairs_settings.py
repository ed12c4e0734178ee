"""The settings of one `pairs` run, all of which `logo` has as well: `settings.fill` fills the gaps of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minilib.cli.settings import HAYSTACK


@dataclass(frozen=True)
class PairsSettings:
    """Make preference pairs with a model and keep them; the same command goes on after an interrupt.

    The first half of `logo`: afterwards `logo --model MODEL --data OUTPUT/pairs.jsonl` trains the model on them.

    Args:
        model: "tiny", "smollm2" (see fetch), a folder of transformers, or a name on the hub.
        data: "haystack" (made, offline), or the path of questions with context, question and answer.
        split: which part of the data, by default "train" or the only one.
        context_column: of questions, where it has none of the known names.
        question_column: as for the context.
        answer_column: as for the context.
        output: folder of pairs.jsonl, pairs_report.json and settings.json.
        num_rejected: M, rejected answers of a prompt.
        rows: how many haystacks to ask about, by default 400 (smollm2: 32).
        length: tokens of a made haystack, by default some four times what is read at a time.
        scorer: what makes a chunk matter: "rare_words" or "entities" (spaCy); haystacks know it exactly.
        threshold: score above which a chunk matters, by default 6.
        chunk_size: tokens of a chunk, by default 512 (smollm2: 256), or less so that num_chunks fill the window.
        num_chunks: N, chunks that are read at a time, by default 16 (tiny: 8, smollm2: 4).
        answer_tokens: the most tokens of an answer to a question of yours, by default 128, or a 16th of a small window.
        temperature: of the answers; 0 takes the likeliest.
        seed: of what is drawn, and of made haystacks.
        dtype: "auto" (bf16 on a GPU), "float32", "bfloat16" or "float16".
        attention: "auto" (sdpa), "sdpa" or "eager".
        trust_remote_code: whether Python files that come with a model may run.
    """

    model: str = "tiny"
    data: str = HAYSTACK
    split: str | None = None
    context_column: str | None = None
    question_column: str | None = None
    answer_column: str | None = None
    output: Path = Path("runs/pairs")
    num_rejected: int = 2
    rows: int | None = None
    length: int | None = None
    scorer: str | None = None
    threshold: float | None = None
    chunk_size: int | None = None
    num_chunks: int | None = None
    answer_tokens: int | None = None
    temperature: float = 0.7
    seed: int = 0
    dtype: str = "auto"
    attention: str = "auto"
    trust_remote_code: bool = False
