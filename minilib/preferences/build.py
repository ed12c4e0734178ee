"""Preference data for long contexts: one prompt, one chosen answer, M rejected ones, all by the model to be aligned.

    score      s_i = scorer(chunk i, question, row)             the context is cut into chunks of equal size
    answer     y_w = pi(N critical chunks, question)
               y_l = pi(N irrelevant chunks, question)  or  pi(a mixture of both, question)
    assemble   the prompt of all 1 + M answers: the critical chunks among irrelevant ones, N together

where
    pi        the model to be aligned: any function from a list of prompts to a list of answers
    N, M      chunks that are read at a time, and rejected answers: 16 and 2 in LOGO
    critical  a chunk that scores above a threshold; `chunking.py` has the paper's rule and the released code's

Departures from the paper, which takes answers as they come: a rejected answer that is empty, nearly the chosen one,
right, or given before is dropped, counted, and asked for anew from other irrelevant chunks; a prompt without contrast,
with fewer than M of them or too long for the model is skipped and counted. Taught in
notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minilib.evals.answers import contains_answer
from minilib.preferences import validation as inputs
from minilib.preferences.assembly import Pairs
from minilib.preferences.chunking import RULES
from minilib.preferences.importance import rare_words
from minilib.preferences.resumable_jsonl import LineLog


def plain_prompt(chunks: list[str], question: str) -> str:
    """The chunks as they stood in the document, and the question below."""
    return "".join(chunks).strip() + "\n\n" + question


@dataclass
class PairsConfig:
    """The numbers behind `build_pairs`; what is None is taken from the rule.

    rule: "paper" or "released". chunk_size: the most tokens in a chunk, 512 ("released": 1,024).
    threshold: a chunk above it is critical, 6 ("released": kept chunks reach it, 3). num_chunks: N, 16 ("released": 6).
    num_rejected: M; the released rule knows at most 2.
    clean: whether bad rejected answers are dropped; empty ones always are.
    require_right: skip prompts whose chosen answer is wrong; otherwise these are only counted.
    similarity: share of common words from which on a rejected answer is a near-duplicate of the chosen one.
    tries: how often rejected answers are asked for, the first time included, before a prompt is given up.
    seed: of everything that is drawn. batch_size: rows that are worked on at a time.
    separator: what stands between a prompt and its answers, which come without blanks around; None: a blank, unless the
    prompt ends in white space or in a script that has none.
    max_tokens: the most of a prompt and an answer behind it, such as the model's window; a longer pair is skipped.
    """

    rule: str = "paper"
    chunk_size: int | None = None
    threshold: float | None = None
    num_chunks: int | None = None
    num_rejected: int = 2
    clean: bool = True
    require_right: bool = False
    similarity: float = 0.9
    tries: int = 3
    seed: int = 0
    batch_size: int = 8
    separator: str | None = None
    max_tokens: int | None = None

    def __post_init__(self):
        inputs.check_rule(self.rule)
        for name, value in RULES[self.rule].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        inputs.check_numbers(self)


def build_pairs(
    examples: Iterable[dict],
    answer_fn: Callable[[list[str]], list[str]],
    config: PairsConfig | None = None,
    *,
    scorer: Callable[[str, str, dict], float] = rare_words,
    tokenizer: Callable | None = None,
    prompt_fn: Callable[[list[str], str], str] = plain_prompt,
    is_right: Callable[[str, dict], bool] | None = contains_answer,
    path: str | Path | None = None,
    progress: bool = True,
    **settings,
) -> Pairs:
    """Preference pairs from questions about long contexts, made as they are iterated over.

    Args:
        examples: rows with context, question and answer: a list, an iterator, a `datasets` table or stream.
        answer_fn: the model to be aligned; takes a list of prompts, returns as many answers. It gets up to M prompts
            for each row of a batch at once.
        config: rule, sizes and seed; by default the paper's. settings: fields of it by name, `num_rejected=3`.
        scorer: importance of a chunk, called with (chunk, question, row); see importance.py.
        tokenizer: counts tokens; one of transformers or tokenizers, or a function from text to a list of tokens; by
            default words are counted.
        prompt_fn: makes a prompt of (chunks, question), for answering as for training.
        is_right: whether an answer is right, called with (answer, row); None leaves it open and needs no row's answer.
        path: JSON Lines to write to and, if they exist, to go on with.
        progress: show a tqdm bar.

    Returns:
        An iterable of dicts with prompt, chosen and rejected (a list of M answers), and next to them separator, row,
        question, answer, chunks and scores of the prompt, kinds of the rejected answers. Its `report` counts what
        happened.

    Raises:
        ValueError, TypeError: one sentence, for bad arguments at once, for bad rows or answers when they come.
    """
    inputs.check_callables(answer_fn=answer_fn, scorer=scorer, prompt_fn=prompt_fn, is_right=is_right)
    inputs.check_tokenizer(tokenizer)
    config = replace(config, **settings) if config else PairsConfig(**settings)
    inputs.check_judge(config.require_right, is_right)
    names = {"scorer": scorer, "prompt_fn": prompt_fn, "is_right": is_right, "tokenizer": tokenizer}
    names = {name: inputs.name_of(given) for name, given in names.items()}
    log = LineLog(path, asdict(config) | names) if path else None
    return Pairs(examples, answer_fn, scorer, tokenizer, prompt_fn, is_right, config, log, progress)
