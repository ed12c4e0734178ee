"""The settings of one `eval`: of two towers, of an aligned run, or of any language model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvalSettings:
    """Measure what a run has trained, or any language model, print it and write it to evaluation.json.

    Two towers: recall at 1, 5 and 10, both ways. A language model: right answers by depth and length of a text, recall
    of two details, lost in the middle, perplexity within the window, and needle_map.png; or, with data, its answers to
    your own questions, one a line in answers-NAME.jsonl, and their mean scores.

    Args:
        run: the output folder of `clip` or `logo`.
        model: a language model instead of a run: "tiny", "smollm2", a folder of transformers, or a name on the hub.
        data: for towers as in `clip`, by default that of the run (what is made is made anew, with another seed); for a
            language model the path of questions with context, question and answer, by default made texts.
        split: which part of the data, by default "train" or the only one; for towers "test" or "validation".
        context_column: of questions, where it has none of the known names.
        question_column: as for the context.
        answer_column: as for the context.
        answer_tokens: the most tokens of an answer to a question of yours, by default 128, or half a small window.
        cut_middle: whether the middle is left out of texts that are longer than the window, as LongBench does it.
        pairs: towers only; how many scenes, digit strips or glyphs to make.
        image_column: towers only; by default that of the training, or found by its name.
        caption_column: towers only; by default that of the training, or found by its name.
        image_folder: towers only; what paths of images are relative to, by default the data folder, or that of the
            training where the data are.
        allow_outside: towers only; whether paths and links may lead out of the data folder.
        lengths: tokens of the texts, such as [96,224]; by default half a window, one, two and four, up to 32,768, and
            up to 1,024 where the window is larger and there is no GPU.
        samples: questions for each length and place, by default 20, and 2 where the window is so large; few
            questions also mean fewer places and texts of prose.
        base: whether the model from before the alignment is measured next to the aligned one.
        seed: of the made pairs or texts; of scenes 1 or more, 0 is that of the training.
        output: folder of what is written, by default the run's (for a model runs/eval).
        dtype: of a language model: "auto" (bf16 on a GPU), "float32", "bfloat16" or "float16".
        attention: of a language model: "auto" (sdpa), "sdpa" or "eager".
        trust_remote_code: of a language model: whether Python files that come with it may run.
    """

    run: Path = Path("runs/clip")
    model: str | None = None
    data: str | None = None
    split: str | None = None
    context_column: str | None = None
    question_column: str | None = None
    answer_column: str | None = None
    answer_tokens: int | None = None
    cut_middle: bool = False
    pairs: int = 1_000
    image_column: str | None = None
    caption_column: str | None = None
    image_folder: Path | None = None
    allow_outside: bool = False
    lengths: list[int] | None = None
    samples: int | None = None
    base: bool = True
    seed: int = 1
    output: Path | None = None
    dtype: str = "auto"
    attention: str = "auto"
    trust_remote_code: bool = False


def answer_tokens_for(window: int) -> int:
    """The tokens that an answer may have where nobody says."""
    return max(1, min(128, window // 2))
