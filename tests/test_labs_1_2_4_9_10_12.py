"""Labs 1, 2, 4, 9, 10 and 12: what they cover, their checks under mutation, and their exercises on seeded mistakes.

The mistakes of an exercise are the solution with one slip in it; each gets a hint of its own. Also the whole plan: all
32 entries of the fact sheet, 24 systems added to it and 20 paragraphs, spread over twelve labs.
"""

import pytest
from support.labs import LABS, PLAN, LabsKeepTheirPromises, facts, failing_check, path_of, read, run


class TestLabs(LabsKeepTheirPromises):
    """The tests of every lab, for these."""

    labs = (1, 2, 4, 9, 10, 12)


def test_the_plan_covers_every_entry_and_every_system_once():
    entries = [entry for lab in PLAN.values() for entry in lab.entries]
    assert set(entries) == set(range(1, 33))
    assert all(entries.count(entry) == 1 for entry in range(1, 32))
    assert len({name for lab in PLAN.values() for name in lab.added}) == 24
    assert len({name for lab in PLAN.values() for name in lab.paragraphs}) == 20
    assert sum(len(lab.of_32) for lab in PLAN.values()) == 9


def test_all_twelve_labs_are_there():
    missing = [number for number in PLAN if not path_of(number)]
    if missing:
        pytest.skip(f"labs {', '.join(map(str, missing))} are not written")
    assert sorted(path.name[:2] for path in LABS.glob("*.ipynb")) == [f"{number:02d}" for number in PLAN]
    assert sum(len(facts(read(number))["mutations"]) for number in PLAN) >= 36


def test_a_failing_cell_is_named_by_its_check():
    cell = "def check_sum():\n    assert sum([1, 1]) == {}\ncheck_sum()"
    assert run(["x = 1", cell.format(2)]) is None
    number, error = run(["x = 1", cell.format(3), "never = 1"])
    assert (number, failing_check(error)) == (1, "check_sum")
    assert failing_check(run(["assert False"])[1]).startswith("AssertionError")
    assert failing_check(run([cell.format("gone")])[1]).startswith("NameError")
