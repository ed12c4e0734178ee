"""The rules that every lesson keeps, used by test_notebooks_keep_their_promises.py.

A rule takes a notebook and its file name and returns its offences, each as a short text: none when the rule is kept.
"""

import base64
import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import nbformat

from minilib.teaching import refresh

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LARGEST_FILE, LARGEST_PNG = 600_000, 80_000
MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|tmp|work|Users|mnt|opt|usr)/|[A-Z]:\\\\|site-packages|dist-packages")
TAG = re.compile(r"</?([A-Za-z][\w-]*)(\s[^<>]*)?/?>")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
LATER = re.compile(r"\b(to come|coming|not written yet|not yet written)\b", re.IGNORECASE)
RULES = {}
# Lessons that do not keep a rule yet; a list only ever gets shorter.
NOT_YET: dict[str, set[str]] = {}
TAGS = {"nbval-ignore-output", "nbval-skip", "skip-execution", "raises-exception", "slide"}


def rule(function):
    """Register a rule under its name, which is a sentence."""
    RULES[function.__name__] = function
    return function


def code(lesson):
    return [cell for cell in lesson.cells if cell.cell_type == "code"]


def prose(lesson):
    return [cell.source for cell in lesson.cells if cell.cell_type == "markdown"]


def plain(text):
    """Markdown without its code, its maths and its fences, where angle brackets and hashes mean other things."""
    for pattern in (r"```.*?```", r"\$\$.*?\$\$", r"`[^`\n]*`", r"\$[^$\n]*\$"):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    return text


def headings(lesson):
    found = re.findall(r"^(#{1,6}) (.+)$", plain("\n\n".join(prose(lesson))), flags=re.MULTILINE)
    return [(len(hashes), title) for hashes, title in found]


def images(cell):
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


def words(cell):
    """What the outputs of a cell say."""
    return "\n".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in cell.outputs)


def tags(cell):
    return set(cell.metadata.get("tags", []))


def exercises(lesson):
    """The cells of each exercise, from its heading to the end of its folds."""
    starts = [n for n, c in enumerate(lesson.cells) if re.search(r"^### Exercise \d+\. ", c.source, re.MULTILINE)]
    ends = [*starts[1:], len(lesson.cells)]
    return [lesson.cells[start : min(end, start + 5)] for start, end in zip(starts, ends)]


def before_the_code(lesson):
    number = next((n for n, cell in enumerate(lesson.cells) if cell.cell_type == "code"), len(lesson.cells))
    return "\n\n".join(cell.source for cell in lesson.cells[:number])


# The rules: skeleton


@rule
def the_title_is_its_number_and_a_verb_phrase(lesson, name):
    number = name[:2]
    lines = [line for line in lesson.cells[0].source.splitlines() if line.strip()]
    titled = re.match(rf"# {number}\. [A-Z]\w+ ", lines[0] + " ")
    return [] if titled and len(lines) > 1 else [f"first cell is not '# {number}. Verb phrase' and an outcome"]


@rule
def the_overview_says_minutes_level_needs_and_aims(lesson, name):
    overview = before_the_code(lesson)
    wanted = {
        "reading minutes": r"Reading \| \d+ minutes",
        "exercise minutes": r"Exercises \| \d+ minutes",
        "level": r"Level \| [1-4]\b",
        "prerequisites": r"\| needed \|",
        "three to five abilities": r"\*\*You will be able to\*\*\n\n(- .+\n){2,4}- .+\n\n",
        "what is left out": r"\*\*Not covered here:\*\* \w+",
    }
    return [
        f"the overview lacks {what}" for what, pattern in wanted.items() if not re.search(pattern, overview + "\n\n")
    ]


@rule
def the_minutes_are_those_of_the_rule(lesson, name):
    reading, exercises = refresh.minutes(lesson)
    told = re.findall(r"\| (Reading|Exercises) \| (\d+) minutes", before_the_code(lesson))
    wanted = [("Reading", str(reading)), ("Exercises", str(exercises))]
    return [] if told == wanted else [f"the overview says {told}, the rule gives {wanted}: run make refresh"]


@rule
def the_setup_is_short_and_ends_with_the_seed(lesson, name):
    lines = [line for line in code(lesson)[0].source.splitlines() if line.strip()]
    installs = re.search(r"^\s*[!%]", code(lesson)[0].source, re.MULTILINE)
    fine = len(lines) <= 6 and re.match(r"seed_everything\(\d*\)$", lines[-1]) and not installs
    return [] if fine else ["the setup cell is longer than six lines or does not end with the seed call"]


@rule
def a_picture_comes_by_the_second_code_cell(lesson, name):
    return [] if any(images(cell) for cell in code(lesson)[:2]) else ["no picture by the second code cell"]


@rule
def exercises_have_stub_check_hints_and_solution(lesson, name):
    found = exercises(lesson)
    offences = [] if 2 <= len(found) <= 5 else [f"{len(found)} exercises instead of two to five"]
    for cells in found:
        text, cells_of_code = "\n".join(c.source for c in cells), [c for c in cells if c.cell_type == "code"]
        title = re.search(r"### (Exercise \d+)", text).group(1)
        wanted = [r"> .*Level [1-4].*importance [1-3].*\d+ minutes", r"raise NotImplementedError", r'"""', r"checks\."]
        wanted += [f"<summary>{fold}</summary>" for fold in ("Hint 1", "Hint 2", "Expected result", "Solution and why")]
        offences += [f"{title} lacks {pattern}" for pattern in wanted if not re.search(pattern, text)]
        if not any(words(cell).startswith("Not attempted yet") for cell in cells_of_code):
            offences.append(f"{title} is stored as attempted, or its check is not stored")
    return offences


@rule
def at_most_500_words_stand_before_the_first_exercise(lesson, name):
    read = "\n\n".join(prose(lesson)).partition("\n### Exercise ")[0]
    count = refresh.words(read)
    return [f"{count} words before the first exercise"] if count > 500 else []


@rule
def an_open_task_has_a_rubric(lesson, name):
    tasks = re.findall(r"^### Open task\. .+?(?=^#{1,3} |\Z)", "\n\n".join(prose(lesson)), re.MULTILINE | re.DOTALL)
    if len(tasks) != 1:
        return [f"{len(tasks)} open tasks ('### Open task. ...') instead of one"]
    rows = re.findall(r"^\| \d \| .+ \|$", tasks[0], re.MULTILINE)
    offences = (
        [] if "| points |" in tasks[0] and len(rows) >= 3 else ["no rubric: a table of points, three rows or more"]
    )
    return offences + ([] if re.search(r"> .*\d+ minutes", tasks[0]) else ["the open task does not say its minutes"])


@rule
def the_quiz_asks_three_questions_with_folded_answers(lesson, name):
    quiz = re.search(r"^## Quiz$(.*?)^## ", "\n\n".join(prose(lesson)), re.MULTILINE | re.DOTALL)
    if not quiz:
        return ["no '## Quiz' before the summary"]
    asked, folded = len(re.findall(r"^\*\*\d\. ", quiz[1], re.MULTILINE)), quiz[1].count("<details>")
    return [] if asked == folded == 3 else [f"the quiz has {asked} questions and {folded} folded answers, not 3 and 3"]


@rule
def the_summary_has_four_lines_and_says_what_is_next(lesson, name):
    summary = "\n\n".join(prose(lesson)).partition("\n## Summary\n")[2]
    offences = [] if re.match(r"\n(- .+\n){4}\n", summary) else ["the summary is not a list of four lines"]
    wanted = ("**Cheat line.**", "**Next:**", "**References**")
    return offences + [f"no {part} after the summary" for part in wanted if part not in summary]


# The rules: stored outputs


@rule
def cells_are_counted_from_one_without_gaps(lesson, name):
    counts = [cell.execution_count for cell in code(lesson)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}"]


@rule
def what_is_shown_is_stored(lesson, name):
    shows = re.compile(r"^\s*(print|plots\.show|checks\.\w+)\(", re.MULTILINE)
    defining = re.compile(r"^(def|class) ", re.MULTILINE)
    silent = [c for c in code(lesson) if shows.search(c.source) and not defining.search(c.source) and not c.outputs]
    return [f"cell {cell.execution_count} shows something but stores nothing" for cell in silent]


@rule
def no_error_is_stored_unless_it_teaches(lesson, name):
    broken = [c for c in code(lesson) if any(o.output_type == "error" for o in c.outputs)]
    return [f"cell {c.execution_count} stores an error" for c in broken if "raises-exception" not in tags(c)]


@rule
def no_picture_is_larger_than_80_kilobytes(lesson, name):
    sizes = [len(base64.b64decode(o.data["image/png"])) for cell in code(lesson) for o in images(cell)]
    return [f"a picture of {size} bytes" for size in sizes if size > LARGEST_PNG]


@rule
def no_lesson_is_larger_than_600_kilobytes(lesson, name):
    size = len(nbformat.writes(lesson).encode())
    return [f"the notebook has {size} bytes"] if size > LARGEST_FILE else []


@rule
def every_picture_has_an_alt_text(lesson, name):
    offences = [f"image without alt text: {link}" for mark, alt, link in all_links(lesson) if mark and len(alt) < 20]
    for cell in code(lesson):
        alts = [o.get("metadata", {}).get("image/png", {}).get("alt", "") for o in images(cell)]
        for_the_book = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if any(len(alt) < 20 or alt not in for_the_book for alt in alts):
            offences.append(f"cell {cell.execution_count} has a picture without alt text")
    return offences


@rule
def no_output_needs_a_widget_or_a_vector_viewer(lesson, name):
    kinds = {kind for cell in code(lesson) for o in cell.outputs for kind in o.get("data", {})}
    offences = [f"outputs of kind {kind}" for kind in sorted(kinds) if "widget" in kind or "svg" in kind]
    return offences + (["widget state in the metadata"] if "widgets" in lesson.metadata else [])


# The rules: what runs where


@rule
def tags_are_known_and_skips_are_paired(lesson, name):
    cells = code(lesson)
    offences = [f"unknown tag {tag}" for cell in cells for tag in sorted(tags(cell) - TAGS)]
    unpaired = [c for c in cells if ("skip-execution" in tags(c)) != ("nbval-skip" in tags(c))]
    return offences + [f"cell {c.execution_count} skips in one tool only" for c in unpaired]


@rule
def there_is_a_slider_and_its_output_is_not_compared(lesson, name):
    sliders = [cell for cell in code(lesson) if re.search(r"^widgets\.", cell.source, re.MULTILINE)]
    offences = [f"cell {c.execution_count} compares a slider" for c in sliders if "nbval-ignore-output" not in tags(c)]
    return offences if sliders else ["no play cell with a slider"]


@rule
def no_path_of_one_machine_is_shown(lesson, name):
    texts = [cell.source for cell in lesson.cells] + [words(cell) for cell in code(lesson)]
    return [f"a path of one machine: {found[0]}" for found in map(MACHINE_PATH.search, texts) if found]


# The rules: plain Markdown


def all_links(lesson):
    return [link for text in prose(lesson) for link in LINK.findall(plain_but_links(text))]


def plain_but_links(text):
    return re.sub(r"```.*?```|\$[^$\n]*\$", "", text, flags=re.DOTALL)


@rule
def every_relative_link_leads_somewhere(lesson, name):
    local = [link for _, _, link in all_links(lesson) if not re.match(r"https?:|#|mailto:", link)]
    missing = [link for link in local if not ((NOTEBOOKS / name).parent / link.partition("#")[0]).exists()]
    return [f"link to nowhere: {link}" for link in missing]


@rule
def headings_come_in_sequence_under_one_title(lesson, name):
    levels = [level for level, _ in headings(lesson)]
    offences = [] if levels.count(1) == 1 and levels[0] == 1 else ["not exactly one title, or not first"]
    jumps = [after for before, after in pairwise(levels) if after > before + 1]
    return offences + ["a heading skips a level" for _ in jumps]


@rule
def no_raw_html_but_folds_and_breaks(lesson, name):
    found = {tag.lower() for text in prose(lesson) for tag, _ in TAG.findall(plain(text))}
    return [f"raw HTML <{tag}>" for tag in sorted(found - {"details", "summary", "br"})]


@rule
def folds_are_closed_and_show_their_text(lesson, name):
    offences = []
    for text in prose(lesson):
        if text.count("<details>") != text.count("</details>"):
            offences.append("a fold is not closed in its cell")
        if re.search(r"</summary>\n(?!\n)", text):
            offences.append("no empty line after a summary, so the fold shows its Markdown raw")
    return offences


@rule
def no_directive_of_one_reader_only(lesson, name):
    marks = re.compile(r"^:::|^```\{|^~~~\{|(?<!`)\{[a-z:]+\}`", re.MULTILINE)
    return [f"a directive: {found[0]}" for found in map(marks.search, prose(lesson)) if found]


@rule
def a_lesson_has_30_to_60_cells_of_at_most_25_lines(lesson, name):
    offences = [] if 30 <= len(lesson.cells) <= 60 else [f"{len(lesson.cells)} cells instead of 30 to 60"]
    long = [cell for cell in code(lesson) if len(cell.source.splitlines()) > 25]
    return offences + [f"cell {cell.execution_count} has more than 25 lines" for cell in long]


@rule
def no_cell_is_wider_than_88_columns(lesson, name):
    wide = [cell for cell in code(lesson) if max(map(len, cell.source.splitlines()), default=0) > 88]
    folds = re.findall(r"```python\n(.*?)```", "\n".join(prose(lesson)), flags=re.DOTALL)
    lines = [line for fold in folds for line in fold.splitlines() if len(line) > 88]
    return [f"cell {cell.execution_count} is too wide" for cell in wide] + [f"too wide: {line}" for line in lines]


@rule
def nothing_is_promised_for_later(lesson, name):
    texts = [*prose(lesson), *(cell.source for cell in code(lesson))]
    return [f"the words {found[0]!r}" for text in texts for found in LATER.finditer(text)]


@rule
def no_word_makes_the_reader_feel_slow(lesson, name):
    slighting = re.compile(r"\b(simply|just|obviously|trivially)\b", re.IGNORECASE)
    return [f"the word {found[0]!r}" for text in prose(lesson) for found in slighting.finditer(plain(text))]


@rule
def every_import_from_minilib_finds_its_name(lesson, name):
    pattern, offences = r"^\s*from (minilib[\w.]*) import (?:\(([^)]*)\)|([\w, ]+))", []
    cells = [cell.source for cell in code(lesson)]
    folds = [block for text in prose(lesson) for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)]
    for source in cells + folds:
        for module, several, names in re.findall(pattern, source, flags=re.MULTILINE):
            for imported in (part.split(" as ")[0].strip() for part in (several or names).split(",")):
                if imported and not found(module, imported):
                    offences.append(f"from {module} import {imported}")
    return offences


def found(module, name):
    """Whether `from module import name` works, a module below a package included."""
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.util.find_spec(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False
