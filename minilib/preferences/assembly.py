"""The work behind `build_pairs`, batch by batch: draft, answer from the right chunks and from the wrong ones, finish.

    rows -> drafts          chunked, scored, planned; a row without contrast is skipped
    drafts -> chosen        one call of the model for all drafts of the batch
    drafts -> rejected      one call for the M answers of all drafts; then one for each round of replacements
    drafts -> pairs         those with M rejected answers; a batch is committed as a whole, then handed out

Taught in notebooks/11_make_chosen_and_rejected_answers.ipynb.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from tqdm.auto import tqdm

from minilib.data.running_text import token_counter
from minilib.evals.answers import ends_unbroken
from minilib.preferences import validation as inputs
from minilib.preferences.chunking import Plan, chunk_text, count_words, paper_rule, released_rule
from minilib.preferences.filtering import ABANDONED, QualityReport, Verdict, judge
from minilib.preferences.resumable_jsonl import fingerprint

TOO_LONG = "longer than the model reads"


@dataclass
class _Draft:
    """A row on its way to a pair."""

    number: int
    row: dict
    chunks: list[str]
    scores: list[float]
    plan: Plan
    chosen: str = ""
    rejected: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)


class Pairs:
    """What `build_pairs` returns: iterate over the pairs, or `run()` to write them all; then read `report`.

    `report` counts whole batches, and those of an earlier run that is gone on with. With a path, iteration begins with
    the pairs that are already there.
    """

    def __init__(self, examples, answer_fn, scorer, tokenizer, prompt_fn, is_right, config, log, progress):
        self.examples, self.answer_fn, self.scorer = examples, answer_fn, scorer
        self.count = count_words if tokenizer is None else token_counter(tokenizer)
        self.prompt_fn, self.is_right, self.config = prompt_fn, is_right, config
        self.log, self.progress = log, progress
        self.report = self._fresh_report()
        self._read = False

    def run(self) -> QualityReport:
        """Build every pair, keep none in memory, return the report."""
        for _ in self:
            pass
        return self.report

    def __iter__(self) -> Iterator[dict]:
        inputs.check_rereading(self.examples, self._read)
        self._read = True
        self.report = self._fresh_report()
        if self.log:
            yield from map(json.loads, self.log.lines())
        rows = inputs.rows_from(self.examples, self.report.rows, self.log.last if self.log else None, self.is_right)
        total = len(self.examples) if hasattr(self.examples, "__len__") else None
        with tqdm(total=total, initial=self.report.rows, desc="pairs", unit="row", disable=not self.progress) as bar:
            while batch := list(islice(rows, self.config.batch_size)):
                report = deepcopy(self.report)  # so that an interrupted batch leaves no half counts
                lines = [json.dumps(pair) for pair in self._build(batch, report)]
                if self.log:
                    self.log.commit(lines, report.rows, fingerprint(batch[-1][1]), report.to_dict())
                self.report = report
                bar.update(len(batch))
                yield from map(json.loads, lines)

    def _fresh_report(self) -> QualityReport:
        if self.log and self.log.counts:
            return QualityReport.from_dict(self.log.counts)
        return QualityReport(judged=self.is_right is not None)

    def _build(self, batch: list[tuple[int, dict]], report: QualityReport) -> list[dict]:
        """The pairs of one batch of (number, row), which depend on nothing else."""
        drafts = [draft for number, row in batch if (draft := self._draft(number, row, report))]
        drafts = self._answer_chosen(drafts, report)
        self._answer_rejected(drafts, report)
        report.rows += len(batch)
        return [self._finish(draft, report) for draft in drafts if self._is_usable(draft, report)]

    def _draft(self, number: int, row: dict, report: QualityReport) -> _Draft | None:
        """Chunk and score one row and plan who reads what; None, and one more skipped row, where that cannot be."""
        config, rng = self.config, Random(f"{self.config.seed}/{number}")  # its own, so that a row depends on no other
        chunks = chunk_text(row["context"], config.chunk_size, self.count)
        scores = [inputs.checked_score(self.scorer(chunk, row["question"], row), number) for chunk in chunks]
        choose = {"paper": paper_rule, "released": released_rule}[config.rule]
        plan = choose(scores, config.threshold, config.num_chunks, config.num_rejected, rng)
        if isinstance(plan, str):
            report.skip(plan)
            return None
        draft = _Draft(number, row, chunks, scores, plan)
        if self._is_too_long(draft):  # the chosen answer needs a part of it
            report.skip(TOO_LONG)
            return None
        report.left_out += plan.left_out
        return draft

    def _answer_chosen(self, drafts: list[_Draft], report: QualityReport) -> list[_Draft]:
        """Answer from the critical chunks; returns the drafts that go on."""
        going_on = []
        for draft, answer in zip(drafts, self._ask([(draft, draft.plan.chosen) for draft in drafts])):
            right = self._right(answer, draft)
            report.answered.add_chosen(right)
            if not answer.strip():
                report.skip("empty chosen answer")
            elif self.config.require_right and not right:
                report.skip("wrong chosen answer")
            else:
                draft.chosen = answer
                going_on.append(draft)
        return going_on

    def _answer_rejected(self, drafts: list[_Draft], report: QualityReport) -> None:
        """Answer from the wrong chunks, and anew in place of what is dropped, until every draft has M or gives up."""
        config, wanted = self.config, self.config.num_rejected
        for _ in range(config.tries):
            asked = [(d, *draw) for d in drafts for draw in islice(d.plan.rejected, wanted - len(d.rejected))]
            answers = self._ask([(draft, chunks) for draft, _, chunks in asked])
            for (draft, kind, _), answer in zip(asked, answers):
                right = self.is_right is not None and self._right(answer, draft)
                verdict = judge(answer, draft.chosen, draft.rejected, right, config.similarity, not config.clean)
                report.answered.add_rejected(verdict)
                if verdict.fault:
                    report.drop(verdict.fault)
                    continue
                draft.rejected.append(answer)
                draft.kinds.append(kind)
                draft.verdicts.append(verdict)

    def _right(self, answer: str, draft: _Draft) -> bool:
        return self.is_right is None or bool(self.is_right(answer, draft.row))

    def _ask(self, asked: list[tuple[_Draft, list[int]]]) -> list[str]:
        prompts = [self._prompt(draft, chunks) for draft, chunks in asked]
        return inputs.checked_answers(self.answer_fn(prompts), len(prompts)) if prompts else []

    def _is_usable(self, draft: _Draft, report: QualityReport) -> bool:
        """Whether the draft has M rejected answers and can be read whole; if not, it is skipped and counted."""
        fault = None
        if len(draft.rejected) < self.config.num_rejected:
            fault = "too few rejected answers"
        elif self._is_too_long(draft):
            fault = TOO_LONG
        if fault is not None:
            report.skip(fault)
            report.drop(ABANDONED, len(draft.rejected))
        return fault is None

    def _is_too_long(self, draft: _Draft) -> bool:
        """Whether prompt and longest answer so far, with a token at either end, are more than the model reads."""
        if self.config.max_tokens is None:
            return False
        prompt = self.count(self._prompt(draft, draft.plan.prompt))
        return prompt + max(map(self.count, [draft.chosen, *draft.rejected])) + 2 > self.config.max_tokens

    def _prompt(self, draft: _Draft, chunks: list[int]) -> str:
        return self.prompt_fn([draft.chunks[i] for i in chunks], draft.row["question"])

    def _finish(self, draft: _Draft, report: QualityReport) -> dict:
        """The pair, and its place in the report."""
        report.pairs += 1
        report.kept.add_chosen(self._right(draft.chosen, draft))
        for verdict in draft.verdicts:
            report.kept.add_rejected(verdict)
        prompt, chunks = self._prompt(draft, draft.plan.prompt), draft.plan.prompt
        return {
            "row": draft.number, "prompt": prompt, "separator": self._separator(prompt), "chosen": draft.chosen,
            "rejected": draft.rejected, "kinds": draft.kinds, "question": draft.row["question"],
            "answer": draft.row.get("answer"), "chunks": [draft.chunks[i] for i in chunks],
            "scores": [draft.scores[i] for i in chunks],
        }  # fmt: skip

    def _separator(self, prompt: str) -> str:
        if self.config.separator is not None:
            return self.config.separator
        return "" if prompt[-1:].isspace() or ends_unbroken(prompt) else " "
