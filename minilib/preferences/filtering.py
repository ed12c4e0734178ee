"""What is wrong with an answer, and a report of how often it was.

    near-duplicate    2 m / (|u| + |v|) >= similarity
    right             some accepted answer stands in the answer, word for word (`minilib.evals.answers`)

where
    u, v              words of a rejected and of the chosen answer, in lower case, without punctuation and articles
    m                 words that both have in the same order (the matching blocks of difflib)

LOGO filters nothing and names the missing judge as its limitation. Here bad answers are dropped by default, and
counted. Beware: at 0.9, two long answers that differ in one year are near-duplicates as well.
Taught in notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from typing import NamedTuple

from minilib.evals.answers import plain_words

EMPTY, SAME, NEAR, RIGHT = "empty", "same as the chosen answer", "near-duplicate of the chosen answer", "right"
REPEATED, ABANDONED = "repeats a rejected answer", "its prompt was skipped"


class Verdict(NamedTuple):
    """What is known of one rejected answer; `fault` is the first reason to drop it, None for a good one."""

    identical: bool
    near: bool  # identical ones included
    right: bool
    fault: str | None


@dataclass
class Tally:
    """Counts of answers; identical, near and right speak of the rejected ones, wrong of the chosen ones."""

    chosen: int = 0
    wrong: int = 0
    rejected: int = 0
    identical: int = 0
    near: int = 0
    right: int = 0

    def add_chosen(self, right: bool) -> None:
        self.chosen += 1
        self.wrong += not right

    def add_rejected(self, verdict: Verdict) -> None:
        self.rejected += 1
        self.identical += verdict.identical
        self.near += verdict.near
        self.right += verdict.right


@dataclass
class QualityReport:
    """Where every row and every answer went. `answered` counts all answers, `kept` those of the pairs handed out.

    rows = pairs + sum(skipped), answered.rejected = kept.rejected + sum(dropped). Without a judge of right and wrong
    (`judged` False) nothing is known of either. left_out: critical chunks beyond N.
    """

    rows: int = 0
    pairs: int = 0
    left_out: int = 0
    judged: bool = True
    skipped: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    answered: Tally = field(default_factory=Tally)
    kept: Tally = field(default_factory=Tally)

    @classmethod
    def from_dict(cls, saved: dict) -> "QualityReport":
        return cls(**{**saved, "answered": Tally(**saved["answered"]), "kept": Tally(**saved["kept"])})

    def to_dict(self) -> dict:
        return asdict(self)

    def skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def drop(self, reason: str, count: int = 1) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def shares(self, stage: str = "kept") -> dict[str, float | None]:
        """Shares for "answered" or "kept": of identical and near-identical pairs, right negatives, wrong positives.

        A pair is a chosen answer with one of its rejected ones. None where nothing was counted or nothing is known.
        """
        tally = {"answered": self.answered, "kept": self.kept}[stage]

        def share(part: int, whole: int, known: bool = True) -> float | None:
            return part / whole if whole and known else None

        return {
            "identical pairs": share(tally.identical, tally.rejected),
            "near-identical pairs": share(tally.near, tally.rejected),
            "right negatives": share(tally.right, tally.rejected, self.judged),
            "wrong positives": share(tally.wrong, tally.chosen, self.judged),
        }

    def __str__(self) -> str:
        lines = [("rows read", self.rows), ("pairs built", self.pairs)]
        lines += [(f"prompts skipped: {reason}", count) for reason, count in sorted(self.skipped.items())]
        lines += [(f"rejected answers dropped: {reason}", count) for reason, count in sorted(self.dropped.items())]
        lines += [("critical chunks beyond N, left out", self.left_out)]
        wide = max(len(name) for name, _ in lines)
        table = [f"{name:<{wide}}  {count:>8,}" for name, count in lines]
        table += ["", f"{'share of':<{wide}}  {'answered':>8}  {'kept':>8}"]
        answered, kept = self.shares("answered"), self.shares("kept")
        for name in answered:
            cells = ("unknown" if value is None else f"{value:.1%}" for value in (answered[name], kept[name]))
            table.append(f"{name:<{wide}}  " + "  ".join(f"{cell:>8}" for cell in cells))
        return "\n".join(table)


def judge(
    answer: str, chosen: str, others: list[str], right: bool, similarity: float, only_empty: bool = False
) -> Verdict:
    """What is known of a rejected `answer` next to the chosen one and the `others` already kept.

    With `only_empty` nothing but an empty answer is a fault: it has no log-probability, so nobody can train on it.
    """
    words, target = plain_words(answer), plain_words(chosen)
    identical = words == target
    near = identical or is_near(words, target, similarity)
    if not answer.strip():
        fault = EMPTY
    elif only_empty:
        fault = None
    elif near:
        fault = SAME if identical else NEAR
    elif right:
        fault = RIGHT
    else:
        fault = REPEATED if any(words == plain_words(other) for other in others) else None
    return Verdict(identical, near, right, fault)


def is_near(words: list[str], target: list[str], similarity: float) -> bool:
    return SequenceMatcher(None, words, target, autojunk=False).ratio() >= similarity
