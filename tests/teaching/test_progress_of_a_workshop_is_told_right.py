"""`workshop progress` gives ten made learners the marks they have earned, whatever their notebooks try to do.

One of them hangs and leaves a process behind, one deletes files, one opens a socket, two forge passes, one ends its own
process, one prints gigabytes and one is no notebook. They are run once, as a teacher would run them; a part of them
again without the system's namespaces, where only the audit hook holds them.
"""

import csv
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from support import made_learners
from support.made_learners import RIGHT, TABLE, before, notebook

from minilib.cli import workshop
from minilib.teaching.workshop import progress, sandbox
from minilib.teaching.workshop.exercises import code_cells, exercise_names, function_of
from minilib.teaching.workshop.progress import Sheet, found, line, write_csv, write_html

SECONDS = 4.0  # of CPU time


@pytest.fixture(scope="module")
def server():
    """A port of this machine, and what has been sent to it."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                heard.append(connection)

        threading.Thread(target=listen, daemon=True).start()
        yield listening.getsockname()[1], heard


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    kept = tmp_path_factory.mktemp("outside") / "thesis.txt"
    kept.write_text("three years of work")
    return kept


@pytest.fixture(scope="module")
def marked(tmp_path_factory, server, outside):
    """What was printed, and the folder with the two files."""
    folder, output = tmp_path_factory.mktemp("learners"), tmp_path_factory.mktemp("output")
    made_learners.make(folder, outside=outside, port=server[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_KEY", "nobody's business")
        with pytest.raises(SystemExit, match="1"):  # strict, and not everything has passed
            workshop.progress(str(folder), str(output), seconds=SECONDS, strict=True)
    return output


@pytest.fixture(scope="module")
def rows(marked):
    return list(csv.DictReader((marked / "progress.csv").open()))


@pytest.mark.parametrize("learner", TABLE)
def test_a_learner_gets_the_marks_that_were_earned(rows, learner):
    mine = [row for row in rows if row["learner"] == learner]
    assert [row["exercise"] for row in mine] == exercise_names("01")
    assert [row["status"] for row in mine] == TABLE[learner], [row["line"] for row in mine]


def test_ten_learners_and_nobody_else_are_in_the_table(rows):
    assert {row["learner"] for row in rows} == set(TABLE)
    assert len(rows) == 4 * len(TABLE)


def test_what_was_outside_is_there_and_nothing_was_sent(marked, outside, server):
    assert outside.read_text() == "three years of work"
    assert server[1] == []


def test_no_process_is_left_behind(marked):
    left = [p for p in psutil.process_iter() if "time.sleep(600)" in " ".join(_command(p))]
    assert left == []


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_the_page_says_how_learners_were_held_and_why_a_mark_is_missing(marked):
    page = (marked / "progress.html").read_text()
    assert sandbox.protection().told in page
    assert "no answer within 4 seconds" in page
    assert "what the check rests on was replaced" in page
    assert "notes.ipynb" in page  # not looked at
    assert page.count('scope="row"') == 11  # ten learners, and how many passed


@pytest.fixture(scope="module")
def unheld(tmp_path_factory, server, outside):
    """The marks of one notebook that deletes, calls out and starts a process, where the system gives no namespaces."""
    path = tmp_path_factory.mktemp("unheld") / "eve_01.ipynb"
    deletes = made_learners.DELETES.format(path=str(outside), folder=str(outside.parent))
    answers = {
        "recall_at_1": before("recall_at_1", deletes),
        "log_b_bound": before("log_b_bound", made_learners.CALLS_OUT.format(port=server[0])),
        "logit_gradient": before("logit_gradient", "import os\nassert 'API_KEY' not in os.environ\nos.system('true')"),
    }
    path.write_text(notebook("01", RIGHT | answers))
    return sandbox.mark_notebook(
        path, exercise_names("01"), seconds=SECONDS, memory=4e9, held=sandbox.Protection(False, False)
    )


def test_without_namespaces_the_hook_holds_what_python_does(unheld, outside, server):
    assert unheld["recall_at_1"][0] == "passed"
    assert outside.read_text() == "three years of work"
    assert "PermissionError: socket.getaddrinfo is not allowed" in unheld["log_b_bound"][1]
    assert "PermissionError: os.system is not allowed" in unheld["logit_gradient"][1]
    assert server[1] == []


@pytest.fixture
def idle():
    """A process of its own, whose CPU time is not that of the tests before; it neither answers nor ends."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("name", "limit", "status"), [("MOST_WRITTEN", 10, "disk"), ("SHORTEST", 0, "time-out"), ("memory", 10, "memory")]
)
def test_a_notebook_that_takes_too_much_is_ended(name, limit, status, idle, tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x" * 11)
    monkeypatch.setattr(sandbox, "STARTING", 0)
    monkeypatch.setattr(sandbox, "PATIENCE", 0 if name == "SHORTEST" else 100)
    if name != "memory":
        monkeypatch.setattr(sandbox, name, limit)
    (record,) = sandbox._watched(idle, tmp_path, "secret", 30, limit if name == "memory" else 1e15)
    assert record["ending"][0] == status


def test_what_holds_the_notebooks_is_said():
    assert "sockets are refused inside of Python only" in sandbox.Protection(False, False).told
    assert "cut by a namespace" in sandbox.Protection(True, True).told
    assert sandbox.Protection(False, False).command("here", ["python"]) == ["python"]


# What is found, selected and written


def test_only_the_last_definition_and_what_it_uses_is_run():
    cells = [
        "raise SystemExit",
        "import math\nk = 2",
        "def f():\n    return 0",
        "def f():\n    return k * math.pi",
        "k = 3",
    ]
    assert function_of(cells, "f")() == pytest.approx(6.2832, abs=1e-3)
    assert function_of(cells, "g") is None


def test_a_cell_that_is_no_python_matters_only_where_it_holds_the_function():
    assert function_of(["x = = 1", "def f():\n    return 1"], "f")() == 1
    with pytest.raises(SyntaxError):
        function_of(["def f(:\n    return 1"], "f")


def test_lines_for_the_notebook_are_no_code(tmp_path):
    sources = ["%%bash\nrm x", ["!rm x\n", "if a:\n", "    %time b\n", "    c"], "d"]
    cells = [{"cell_type": "code", "source": source} for source in sources] + [{"cell_type": "markdown", "source": "e"}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert code_cells(tmp_path / "a.ipynb") == ["", "pass\nif a:\n    pass\n    c", "d"]


def test_a_remainder_at_the_start_of_a_line_and_a_timed_cell_are_code(tmp_path):
    """Formatters break a long line before its operator."""
    sources = ["def f(a, b):\n    return (\n        (a + 1)\n        % b\n    )", "%%time\ndef g():\n    return 1"]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": s} for s in sources]}))
    cells = code_cells(tmp_path / "a.ipynb")
    assert function_of(cells, "f")(4, 3) == 2
    assert function_of(cells, "g")() == 1


def test_what_follows_the_lesson_in_a_name_is_no_lesson(tmp_path):
    for name in ("ada_03_2024-05-12.ipynb", "bob_03 - copy 02.ipynb"):
        (tmp_path / name).write_text("{}")
    assert [(learner, lesson) for learner, lesson, _ in found(tmp_path)[0]] == [("ada", "03"), ("bob", "03")]


def test_a_folder_without_notebooks_is_told_how_to_look(tmp_path):
    with pytest.raises(ValueError, match="has no notebook of a learner: give a folder with NAME/NN_"):
        found(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        found(tmp_path / "gone")


def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_marked(tmp_path, monkeypatch):
    (tmp_path / "ada_03.ipynb").write_text("{}")
    (tmp_path / "out" / "progress.csv").mkdir(parents=True)
    monkeypatch.setattr(progress, "marked", lambda *args, **kwargs: pytest.fail("a notebook was marked"))
    with pytest.raises(OSError, match=r"progress\.csv"):
        progress.progress(tmp_path, tmp_path / "out", seconds=1, memory=1e9, workers=1, strict=False)


def interrupted(folder, monkeypatch, by, workers=1, before=lambda path: None):
    """Mark the folder until the notebook of `by` brings Ctrl-C; who is in the table then."""

    def mark(path, exercises, **_):
        before(path)
        if path.name.startswith(by):
            raise KeyboardInterrupt
        return dict.fromkeys(exercises, ("passed", "well done"))

    monkeypatch.setattr(sandbox, "mark_notebook", mark)
    with pytest.raises(KeyboardInterrupt):
        progress.progress(folder, folder, seconds=1, memory=1e9, workers=workers, strict=False)
    return {row["learner"] for row in csv.DictReader((folder / "progress.csv").open())}


def test_ctrl_c_keeps_the_marks_so_far(tmp_path, monkeypatch):
    for name in ("ada_01.ipynb", "bob_01.ipynb"):
        (tmp_path / name).write_text("{}")
    assert interrupted(tmp_path, monkeypatch, by="bob") == {"ada"}
    assert "ada" in (tmp_path / "progress.html").read_text()


def test_ctrl_c_keeps_the_marks_of_those_who_were_quicker(tmp_path, monkeypatch):
    for name in ("ada", "bob", "cy", "dee"):
        (tmp_path / f"{name}_03.ipynb").write_text("{}")
    slow = threading.Event()
    wait = {"before": lambda path: path.name.startswith("ada") and slow.wait(20)}
    assert interrupted(tmp_path, monkeypatch, by="dee", workers=2, **wait) == {"bob", "cy"}
    slow.set()


def test_names_of_all_alphabets_are_written_where_the_system_prefers_a_smaller_one(tmp_path, monkeypatch):
    """As on Windows, where a file without a named encoding takes 256 letters."""
    plain = Path.open

    def narrow(path, mode="r", buffering=-1, encoding=None, errors=None, newline=None):
        small = "b" not in mode and encoding in (None, "locale")
        return plain(path, mode, buffering, "cp1252" if small else encoding, errors, newline)

    monkeypatch.setattr(Path, "open", narrow)
    sheets = [Sheet("Łukasz 王", "03", "Łukasz 王_03.ipynb", {"merge": ("passed", "σ")})]
    write_html(sheets, [], "held", tmp_path / "page.html")
    write_csv(sheets, tmp_path / "table.csv")
    for name in ("page.html", "table.csv"):
        assert "Łukasz 王" in (tmp_path / name).read_text(encoding="utf-8")


def test_names_are_read_from_folders_and_files(tmp_path):
    for name in (
        "Ada L/a/03_x.ipynb",
        "bob_b_04.ipynb",
        "cy-05 again.ipynb",
        "99_x.ipynb",
        "dee/44_x.ipynb",
        "e_99.ipynb",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    notebooks, left = found(tmp_path)
    assert [(learner, lesson) for learner, lesson, _ in notebooks] == [("Ada L", "03"), ("bob_b", "04"), ("cy", "05")]
    assert left == ["99_x.ipynb", "dee/44_x.ipynb", "e_99.ipynb"]


def test_a_name_is_text_on_the_page_in_the_table_and_on_the_terminal(tmp_path):
    sheets = [Sheet("<b>=1+1", "03", "=cmd.ipynb", {"merge": ("not yet", "Not yet: \x1b[2J<script>")})]
    write_html(sheets, [], "held", tmp_path / "page.html")
    write_csv(sheets, tmp_path / "table.csv")
    assert "<script>" not in (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;" in (tmp_path / "page.html").read_text()
    assert "'=cmd.ipynb" in (tmp_path / "table.csv").read_text()
    assert "\x1b" not in (tmp_path / "table.csv").read_text() + line(sheets[0])
