"""Check of lab 14, let the output grow: a route is scored line by line.

The judge builds each answer from its reference, so that the number of right lines is known before anything is parsed.
"""

from collections.abc import Callable

from minilib.teaching.checks.contract import compare, run

ROUTE = [f"{a} -> {b}" for a, b in zip("ABCDEFGHIJKLMNOPQRST", "BCDEFGHIJKLMNOPQRSTU")]  # twenty steps


def check_score_route(learner: Callable[[str, list[str]], tuple]) -> None:
    """Exercise: `score_route(text, route)`, extracted, strict and partial of an answer between tags."""
    swapped = [*ROUTE[:10], "K -> Z", "Z -> L", *ROUTE[12:]]
    cases = {
        "for the reference itself": lambda fn: _score(fn, ROUTE, 20),
        "for a wrong first line": lambda fn: _score(fn, ["A -> Z", *ROUTE[1:]], 0),
        "for a wrong eleventh line of twenty": lambda fn: _score(fn, swapped, 10),
        "for an answer that stops after ten lines": lambda fn: _score(fn, ROUTE[:10], 10),
        "for an answer that goes on after the goal": lambda fn: _score(fn, [*ROUTE, "U -> V"], 20),
        "for empty lines and spaces around lines": lambda fn: _score(fn, ["", *(f"  {x} " for x in ROUTE), ""], 20),
        "for an answer without a closing tag": lambda fn: _score(fn, ROUTE, 20, closed=False),
        "for an answer without an opening tag": lambda fn: _score(fn, ROUTE, 20, opened=False),
        "for a route of seven steps, five of them right": lambda fn: _score(fn, [*ROUTE[:5], "F -> H"], 5, ROUTE[:7]),
    }
    run(learner, cases, "an error is not paid for, and neither is what follows it")


def _score(
    fn: Callable, lines: list[str], right: int, route: list[str] = ROUTE, *, opened: bool = True, closed: bool = True
) -> str | None:
    head = ["Here it is.", "<route>"] if opened else []
    text, steps = "\n".join([*head, *lines, *["</route>"] * closed]), len(route)
    strict = float([line.strip() for line in lines if line.strip()] == route)
    want = (1.0, strict, right / steps) if opened and closed else (0.0, 0.0, 0.0)
    anywhere = sum(a == b for a, b in zip(lines, route)) / steps
    suspects = {
        "the first wrong line is counted: count a line after it was compared": (want[0], want[1], (right + 1) / steps),
        "lines after the first error are counted: stop there": (want[0], want[1], anywhere),
        "the share is taken of the lines that were written: divide by those of the reference": (
            want[0],
            want[1],
            right / max(len(lines), 1),
        ),
        "the lines agree as far as they go, but strict wants all of them and no more": (want[0], 1.0, want[2]),
        "nothing can be extracted without both tags: all three are 0": (0.0, strict, right / steps),
        "without one of the tags the answer counts as not extracted": (1.0, strict, right / steps),
        "the share is taken of twenty lines: divide by the number of lines of this route": (
            want[0],
            want[1],
            want[2] * steps / 20,
        ),
    }
    suspects = {hint: answer for hint, answer in suspects.items() if answer != want}
    return compare(fn(text, list(route)), want, suspects)
