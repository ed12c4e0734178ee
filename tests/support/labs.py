"""What every lab must show: it covers what is its own, it stays small, and each seeded mistake breaks one check.

A lab names in its metadata what it covers and its mutations, `[old line, new line, check]`: one line of code is changed
to a typical mistake, and exactly the named check has to object. The cells run here in one namespace, without a kernel
and without drawing; that a lab as it stands runs clean and repeats what it stores is nbval's part (`make test`).

A test file names its labs in a subclass of `LabsKeepTheirPromises`; their exercises stand in subclasses of
`ExercisesCanFail`, with `notebook = "labs/02_....ipynb"`.
"""

import contextlib
import io
import re
import time
import traceback
from typing import NamedTuple

import nbformat
import torch
from support.lesson_rules import NOTEBOOKS, RULES, code, exercises, images, prose

from minilib.teaching import plots, refresh

LABS = NOTEBOOKS / "labs"
MOST_LINES, MOST_IN_A_CELL, WIDTH = 150, 25, 88
CHECK = re.compile(r"^def (check_\w+)\(\):$", re.MULTILINE)


class Lab(NamedTuple):
    """One row of the coverage: title, entries of the page Neighbours, systems built on top, systems with a paragraph.

    `of_32` names which of the exercises of entry 32 the lab builds, in words that stand in its text.
    """

    title: str
    entries: tuple
    added: tuple = ()
    paragraphs: tuple = ()
    of_32: tuple = ()


PLAN = {
    1: Lab("Pass attention around a ring, and find the bad link", (1, 30), ("TPI-LLM", "C4", "REFT")),
    2: Lab("Score fewer pairs", (9, 17, 21), ("Informer", "HyenaDNA", "HSTU")),
    3: Lab("Serve a long context", (13, 29, 32), ("HiRED", "DistServe", "Splitwise"), ("Simple Hack",), of_32=("D2O",)),
    4: Lab("Find where length breaks a model", (2, 3, 32), of_32=("self-supervised evaluation",)),
    5: Lab("Pack long and short together", (10, 12, 20, 22), ("Holmes",), ("MaskDiT",)),
    6: Lab(
        "Rank answers, then doubt the ranker",
        (4, 19, 23, 32),
        paragraphs=("Phantom", "LLMOPT", "tool retrieval", "Tulu"),
        of_32=("pairwise ranking", "Meta Ranking"),
    ),
    7: Lab(
        "Choose the negatives",
        (5, 6, 26, 32),
        ("composed image retrieval",),
        ("heavy-tailed similarity",),
        of_32=("Deep Boosting",),
    ),
    8: Lab(
        "Filter, repeat or recycle the data",
        (14, 25, 28, 32),
        paragraphs=("Textbooks", "Bengali filter", "Adapt-infinity"),
        of_32=("self-consuming",),
    ),
    9: Lab(
        "Take fewer, bigger, later steps",
        (8, 16, 18),
        ("large-step logistic", "MegaScale", "Frontier", "T3", "NanoFlow"),
        ("random-walk tokens", "GLM-130B"),
    ),
    10: Lab(
        "Index with words, bits and angles",
        (27, 31),
        ("embedding alignment",),
        ("RREH", "Neural LSH", "self-mining"),
    ),
    11: Lab(
        "Keep, recompute, swap or skip",
        (11, 32),
        ("Fuyou", "UniPT"),
        ("SHERL", "FlexLLM", "SN40L"),
        of_32=("zeroth order",),
    ),
    # The plan's lab 12, cut in two at the seam that it names: bits and shards, and which weights move.
    12: Lab(
        "Spend fewer than sixteen bytes per parameter",
        (15,),
        ("INT4 training", "NF4", "WeLore"),
        ("MoS",),
    ),
    13: Lab(
        "Choose which weights move",
        (24, 32),
        ("SpIEL", "block descent"),
        ("DSEE",),
        of_32=("FRUGAL", "Wanda"),
    ),
    # And lab 4: places and positions, and long outputs.
    14: Lab("Let the output grow", (7,)),
}
# The rules of lessons that hold for labs as well.
SHARED_RULES = (
    "the_minutes_are_those_of_the_rule",
    "a_picture_comes_by_the_second_code_cell",
    "nothing_is_promised_for_later",
    "cells_are_counted_from_one_without_gaps",
    "what_is_shown_is_stored",
    "no_error_is_stored_unless_it_teaches",
    "no_picture_is_larger_than_80_kilobytes",
    "no_lesson_is_larger_than_600_kilobytes",
    "every_picture_has_an_alt_text",
    "no_output_needs_a_widget_or_a_vector_viewer",
    "tags_are_known_and_skips_are_paired",
    "no_path_of_one_machine_is_shown",
    "every_relative_link_leads_somewhere",
    "headings_come_in_sequence_under_one_title",
    "no_raw_html_but_folds_and_breaks",
    "folds_are_closed_and_show_their_text",
    "no_directive_of_one_reader_only",
    "no_cell_is_wider_than_88_columns",
    "no_word_makes_the_reader_feel_slow",
    "every_import_from_minilib_finds_its_name",
)


def path_of(number):
    """The file of a lab, or None while there is none."""
    return next(LABS.glob(f"{number:02d}_*.ipynb"), None)


def read(number):
    return nbformat.read(path_of(number), as_version=4)


def facts(lab):
    return lab.metadata["minilib"]


def checks_of(lab):
    """name -> number of the code cell that defines and calls it."""
    return {name: n for n, cell in enumerate(code(lab)) for name in CHECK.findall(cell.source)}


def code_lines(lab):
    """Lines of code, without the stubs and checks of exercises, blank lines and lines that are only a comment."""
    cells = [c for c in code(lab) if "raise NotImplementedError" not in c.source and "checks.check_" not in c.source]
    lines = [line.strip() for cell in cells for line in cell.source.splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def mutated(lab, old, new):
    """The sources of the code cells with `old` replaced, and the number of the changed cell."""
    sources = [cell.source for cell in code(lab)]
    (changed,) = [n for n, source in enumerate(sources) if old in source]
    sources[changed] = sources[changed].replace(old, new)
    return sources, changed


def run(sources):
    """Execute cells in one namespace; None, or `(number of the cell that failed, its exception)`."""
    scope, threads = {"__name__": "__main__"}, torch.get_num_threads()
    plots.show, shown = lambda figure: None, plots.show
    try:
        for number, source in enumerate(sources):
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, f"lab cell {number + 1}", "exec"), scope)
    except Exception as error:
        return number, error
    finally:
        plots.show = shown
        torch.set_num_threads(threads)
    return None


def failing_check(error):
    """The check inside which an AssertionError was raised, or what else it is."""
    raised = traceback.extract_tb(error.__traceback__)
    frames = [frame.name for frame in raised if frame.filename.startswith("lab cell")]
    inside = [name for name in frames if name.startswith("check_")]
    return inside[0] if isinstance(error, AssertionError) and len(inside) == 1 else f"{type(error).__name__}: {error}"


class LabsKeepTheirPromises:
    """Tests of some labs, those of them that exist.

    Attributes:
        labs: their numbers.
    """

    labs: tuple

    def pytest_generate_tests(self, metafunc):
        there = [number for number in self.labs if path_of(number)]
        if "mutation" in metafunc.fixturenames:
            cases = [(number, *mutation) for number in there for mutation in facts(read(number))["mutations"]]
            ids = [f"{number}-{check}-{new[:40]}" for number, _, new, check in cases]
            metafunc.parametrize("mutation", cases, ids=ids)
        if "number" in metafunc.fixturenames:
            metafunc.parametrize("number", there)
        if "rule" in metafunc.fixturenames:
            metafunc.parametrize("rule", SHARED_RULES)

    def test_a_lab_keeps_the_rules_of_lessons(self, number, rule):
        assert RULES[rule](read(number), f"labs/{path_of(number).name}") == []

    def test_the_title_is_that_of_the_plan(self, number):
        assert read(number).cells[0].source.startswith(f"# Lab {number}. {PLAN[number].title}\n\n")

    def test_what_it_covers_is_what_the_plan_gives_it(self, number):
        lab, planned = read(number), PLAN[number]
        told = facts(lab)
        assert told["lab"] == number
        assert sorted(told["entries"]) == sorted(planned.entries)
        assert sorted(told["added"]) == sorted(planned.added)
        assert sorted(told["paragraphs"]) == sorted(planned.paragraphs)
        text = "\n\n".join(prose(lab)).lower()
        named = (*planned.added, *planned.paragraphs, *planned.of_32)
        assert [name for name in named if name.lower() not in text] == []

    def test_the_code_is_small(self, number):
        lab = read(number)
        assert code_lines(lab) <= MOST_LINES
        assert max(len(cell.source.splitlines()) for cell in code(lab)) <= MOST_IN_A_CELL

    def test_there_are_three_checks_and_three_mutations_or_more(self, number):
        lab = read(number)
        checks, cells = checks_of(lab), code(lab)
        assert len(checks) >= 3
        for name, n in checks.items():
            assert re.search(rf"^{name}\(\)$", cells[n].source, re.MULTILINE), f"{name} is not called in its cell"
        mutations = facts(lab)["mutations"]
        assert len(mutations) >= 3
        assert {check for _, _, check in mutations} <= set(checks)
        whole = "\n".join(cell.source for cell in cells)
        assert [old for old, _, _ in mutations if whole.count(old) != 1] == []
        assert all(old != new for old, new, _ in mutations)

    def test_it_has_a_picture_a_summary_sources_and_exercises(self, number):
        lab = read(number)
        text = "\n\n".join(prose(lab))
        assert any(images(cell) for cell in code(lab))
        assert "**Summary.**" in text
        assert "**Sources**" in text
        found = exercises(lab)
        assert found
        for cells in found:
            asked = "\n".join(cell.source for cell in cells)
            wanted = (r"> \*\*Level [1-4]\*\* · importance [1-3] · \d+ minutes", "raise NotImplementedError", '"""')
            wanted += ("<summary>Hint", "<summary>Solution and why</summary>", r"```python\n")
            assert [part for part in wanted if not re.search(part, asked)] == []

    def test_the_minutes_are_a_quarter_of_an_hour_or_so(self, number):
        assert refresh.minutes(read(number))[0] <= 25

    def test_up_to_the_last_mutated_check_the_cells_run_clean(self, number):
        lab = read(number)
        checks = checks_of(lab)
        last = max(checks[check] for _, _, check in facts(lab)["mutations"])
        started = time.perf_counter()
        failed = run([cell.source for cell in code(lab)][: last + 1])
        print(f"lab {number}: {last + 1} cells in {time.perf_counter() - started:.1f} s, {code_lines(lab)} lines")
        assert failed is None, f"cell {failed[0] + 1}: {failing_check(failed[1])}"

    def test_a_mutation_fails_in_the_check_that_it_names(self, mutation):
        number, old, new, check = mutation
        lab = read(number)
        sources, _ = mutated(lab, old, new)
        failed = run(sources[: checks_of(lab)[check] + 1])
        assert failed is not None, "no check objects"
        assert failing_check(failed[1]) == check
