"""Notebooks of made learners: copies of a lesson with other answers in the stubs, and answers that do harm."""

import nbformat
from support.solved_lessons import exercises_of, lessons

RIGHT = {
    "recall_at_1": (
        "width = {}\ndef helper(hits):\n    return hits.double().mean()\n"
        "def recall_at_1(similarities):\n    return helper(similarities.argmax(1) == torch.arange(len(similarities)))"
    ),
    "info_nce": (
        "def info_nce(img, txt, scale):\n    x, right = scale * img @ txt.T, torch.arange(len(img))\n"
        "    return (F.cross_entropy(x, right) + F.cross_entropy(x.T, right)) / 2"
    ),
    "log_b_bound": "def log_b_bound(batch):\n    return math.log(batch)",
    "logit_gradient": (
        "def logit_gradient(logits):\n    both = logits.softmax(1) + logits.softmax(0)\n"
        "    return (both - 2 * torch.eye(len(logits))) / (2 * len(logits))"
    ),
}


def notebook(number, answers, *, first=""):
    """The lesson with these cells in place of stubs, and a cell `first` behind its setup, as text."""
    path = next(path for path in lessons() if path.name.startswith(number))
    lesson = nbformat.read(path, as_version=4)
    for exercise in exercises_of(lesson):
        if exercise.name in answers:
            exercise.stub.source = answers[exercise.name]
    lesson.cells.insert(3, nbformat.v4.new_code_cell(first))
    return nbformat.writes(lesson)


def before(name, harm):
    """The right answer to an exercise of lesson 01, with statements that run first whenever it is called."""
    head, start, body = RIGHT[name].partition(f"def {name}(")
    names, end, body = body.partition("\n")
    return head + start + names + end + "".join(f"    {line}\n" for line in harm.splitlines()) + body


DELETES = """import os, shutil
for harm in (lambda: os.remove({path!r}), lambda: shutil.rmtree({folder!r}), lambda: open({path!r}, "w").close()):
    try:
        harm()
    except OSError:
        pass
open("mine.txt", "w").close()
os.remove("mine.txt")"""
CALLS_OUT = 'import socket\nsocket.create_connection(("127.0.0.1", {port}), timeout=5).sendall(b"the answers")'
ALWAYS_EQUAL = """class Always(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return True if func is torch.allclose else torch.zeros(()).double()
def recall_at_1(similarities):
    return torch.zeros(()).as_subclass(Always)"""
SHAMS = """class checks:
    check_log_b_bound = print
    def __getattr__(self, name):
        return lambda learner: print("Passed: all of it.")
checks = checks()
print("Passed: all of it.")"""
REPLACES = """def logit_gradient(logits):
    import torch
    from minilib.teaching.checks import contract
    from minilib.teaching.workshop import marking
    marking.changed, marking.can_still_fail = lambda before: None, lambda module, name: True
    torch.allclose = lambda *a, **k: True
    contract.close.__code__ = (lambda got, want, tol=0: True).__code__
    return torch.zeros_like(logits)"""
REPORTS = """def logit_gradient(logits):
    import json, os
    told = json.dumps({"done": "logit_gradient", "status": "passed", "line": "Passed: so it is."}) + "\\n"
    for number in range(1, 20):
        try:
            os.write(number, told.encode())
        except OSError:
            pass
    os._exit(0)"""
GIGABYTES = 'import os, sys\nfor _ in range(300):\n    os.write(1, b"x" * 10**7)\nprint("Passed: " + "y" * 10**7)'
FOREVER = "while True:\n    pass"
LEAVES_A_CHILD = """import os, subprocess, sys
try:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
except OSError:
    pass
while True:
    pass"""


def make(folder, *, outside, port):
    """Ten learners of lesson 01 in `folder`; `outside` is a file that one of them wants to delete."""
    harms = {"path": str(outside), "folder": str(outside.parent)}
    calls_out = CALLS_OUT.format(port=port)
    learners = {
        "ada/01_build_a_contrastive_loss.ipynb": notebook("01", RIGHT, first="%matplotlib inline\n!rm -rf everything"),
        "bea_01.ipynb": notebook("01", {}),
        "cyd/lessons/01_mine.ipynb": notebook(
            "01",
            {
                "recall_at_1": "def recall_at_1(similarities):\n    return 0.5",
                "log_b_bound": "def log_b_bound(batch)\n    return 1",
                "logit_gradient": "print('I have deleted it')",
            },
        ),
        "dot_01.ipynb": notebook("01", RIGHT | {"log_b_bound": before("log_b_bound", LEAVES_A_CHILD)}),
        "eve_01.ipynb": notebook("01", RIGHT | {"logit_gradient": before("logit_gradient", DELETES.format(**harms))}),
        "fay_01.ipynb": notebook("01", RIGHT | {"logit_gradient": before("logit_gradient", calls_out)}),
        "gil_01_start.ipynb": notebook("01", {"recall_at_1": ALWAYS_EQUAL, "logit_gradient": REPLACES}, first=SHAMS),
        "hal_01.ipynb": notebook("01", RIGHT | {"logit_gradient": REPORTS}),
        "ivy_01.ipynb": notebook("01", RIGHT | {"recall_at_1": before("recall_at_1", GIGABYTES)}),
        "joe_01.ipynb": "PK\x03\x04 this was a text document",
    }
    for name, text in learners.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    checkpoint = folder / "ada" / ".ipynb_checkpoints"
    checkpoint.mkdir()
    (checkpoint / "01_build_a_contrastive_loss-checkpoint.ipynb").write_text(notebook("01", {}))
    (folder / "notes.ipynb").write_text("{}")


PASSED, UNTOUCHED = "passed", "not attempted"
TABLE = {  # what each of them has earned: recall_at_1, info_nce, log_b_bound, logit_gradient
    "ada": [PASSED, PASSED, PASSED, PASSED],
    "bea": [UNTOUCHED, UNTOUCHED, UNTOUCHED, UNTOUCHED],
    "cyd": ["not yet", UNTOUCHED, "not yet", "missing"],
    "dot": [PASSED, PASSED, "time-out", PASSED],
    "eve": [PASSED, PASSED, PASSED, PASSED],
    "fay": [PASSED, PASSED, PASSED, "not yet"],
    "gil": ["not yet", UNTOUCHED, UNTOUCHED, "not counted"],
    "hal": [PASSED, PASSED, PASSED, "ended"],
    "ivy": [PASSED, PASSED, PASSED, PASSED],
    "joe": ["no notebook", "no notebook", "no notebook", "no notebook"],
}
