"""Figures that the README, the pages and the lessons quote are those of the records in book/results.

`quoted_numbers.yaml` has each sentence with the place of its values in a record. The digits in the text are made from
the record and looked for on the page; whatever figure of the README is in no such sentence is reported, so that none
can be added without its record. The tables of the result pages are made from their records once more.
"""

import json
import re
from pathlib import Path
from string import Formatter

import nbformat
import pytest
import yaml

from minilib.bench import report
from minilib.bench.ablation import pages
from minilib.bench.real_alignment import pages as real_pages
from minilib.bench.scorers import pages as scorer_pages

ROOT = Path(__file__).parents[1]
QUOTED = yaml.safe_load((ROOT / "tests" / "quoted_numbers.yaml").read_text())
MEASURED = r"(?<![\d.,/])(?<!Python )(?:\d+\.\d\d\b|\d+(?:\.\d+)? ?%)"  # 0.85, 1.79, 85 %: what a run gives
TABLES = {"logps_cpu": report.logps, "step_cpu": report.step, "alignment": pages.page, "scorers": scorer_pages.page}
TABLES |= dict.fromkeys(("smollm2/real_alignment", "smollm2/longer/real_alignment"), real_pages.page)


class Values(Formatter):
    """`str.format` over a record: every key in brackets is a key, with the forms that prose needs."""

    def get_field(self, field_name, args, kwargs):
        found = kwargs
        for key in re.findall(r"[^\[\]]+", field_name):
            found = found[int(key)] if isinstance(found, list) else found[key]
        return found, field_name

    def format_field(self, value, spec):
        digits = int(number[1]) if (number := re.match(r"\.(\d)", spec)) else 0
        if spec.endswith("percent"):
            return f"{100 * value:.{digits}f} %"
        if spec.endswith("points"):
            return f"{100 * value:.{digits}f}"
        if spec.endswith("rise"):  # of a ratio, in hundredths
            return f"{100 * (value - 1):.{digits}f}"
        if spec.endswith("loss"):  # of a gain below 0
            return f"{-value:.{digits}f}"
        if spec == "spread":
            return "{mean:.2f} ({min:.2f} to {max:.2f})".format(**value)
        return format(value, spec)


def record(name):
    return json.loads((ROOT / "book" / "results" / f"{name}.json").read_text())


def one_line(text):
    return " ".join(text.split())


def text_of(page):
    path = ROOT / page
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return one_line("\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    return one_line(path.read_text())


def sentences():
    return [(quoted["page"], quoted["record"], sentence) for quoted in QUOTED for sentence in quoted["says"]]


def without(text, quoted):
    for sentence in quoted:
        text = text.replace(one_line(sentence), "")
    return text


@pytest.mark.parametrize(("page", "name", "template"), sentences())
def test_a_quoted_figure_is_that_of_its_record(page, name, template):
    assert one_line(Values().format(template, **record(name))) in text_of(page)


def test_every_measured_figure_of_the_readme_has_a_record():
    told = [Values().format(template, **record(name)) for page, name, template in sentences() if page == "README.md"]
    left = re.findall(MEASURED, without(text_of("README.md"), told).split("## Sources")[0])
    assert left == [], "add the sentence and its record to tests/quoted_numbers.yaml"


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_a_result_page_are_made_from_its_record(name):
    text = (ROOT / "book" / "results" / f"{name}.md").read_text()
    rows = [line for line in TABLES[name](record(name)).splitlines() if line.startswith("|")]
    assert len(rows) > 4
    assert [row for row in rows if row not in text] == []


def test_a_figure_that_differs_in_its_last_digit_is_found():
    document = {"arms": {"LOGO, M = 8": {"beyond": {"mean": 0.8449, "min": 0.8, "max": 0.9}}}, "runs": [{"s": 2}]}
    tell = Values().format
    assert tell("{arms[LOGO, M = 8][beyond][mean]:.2f}", **document) == "0.84"
    assert tell("{arms[LOGO, M = 8][beyond][mean]:percent}", **document) == "84 %"
    assert tell("{arms[LOGO, M = 8][beyond][mean]:.1points}", **document) == "84.5"
    assert tell("{arms[LOGO, M = 8][beyond]:spread}", **document) == "0.84 (0.80 to 0.90)"
    assert tell("{runs[0][s]}", **document) == "2"
    assert re.findall(MEASURED, without("it has 0.85 here, 2 seeds", ["it has 0.84 here"])) == ["0.85"]
    with pytest.raises(KeyError):
        tell("{arms[SFT][beyond][mean]:.2f}", **document)
