"""Lesson 05: its checks can fail, its folded solutions pass, its trace is the kernel's, and it can be read anywhere.

The kernels under test are those that a reader sees: the stubs and the folded solutions are taken from the notebook, and
a typical mistake is a small edit of a solution. So neither can drift from what the lesson shows. Triton wants the
source of a kernel in a file, so each variant becomes one.
"""

import importlib.util
import itertools
import re
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from support.lesson_rules import exercises

from minilib.teaching import checks, recorded
from minilib.teaching.repro import random_features

pytest.importorskip("triton", reason="lesson 05 needs triton, which this machine does not have")
import triton.language as tl

from minilib.kernels import triton_launch as launch
from minilib.kernels import triton_tiles
from minilib.teaching import lanes, triton_steps

pytestmark = pytest.mark.skipif(not launch.INTERPRETED, reason="lesson 05 runs in Triton's interpreter, on a CPU")

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "05_fuse_it_in_triton.ipynb"
PREAMBLE = """
import torch
import triton
import triton.language as tl
from minilib.kernels import triton_launch as launch
from minilib.kernels.triton_tiles import logits_tile
NO_PARTNER = tl.constexpr(launch.NO_PARTNER)
"""
NAMES = ["block_sums", "scale_matrix", "tile_logits", "both_sums", "gradient_chunk"]

MISTAKES = [
    ("block_sums", {"mask=at < n, other=0.0": ""}, "NaN came in"),
    ("block_sums", {"tl.program_id(0) * BLOCK + tl.arange": "tl.arange"}, "summed the first block"),
    ("block_sums", {"tl.program_id(0) * BLOCK": "tl.program_id(0)"}, "start at p * block"),
    ("block_sums", {"triton.cdiv(len(x), block)": "len(x) // block"}, "the last block is missing"),
    ("scale_matrix", {"factor * values, mask=inside": "factor * values"}, "give the store a mask"),
    ("scale_matrix", {", mask=inside, other=0.0": "", "values, mask=inside": "values"}, "give the store a mask"),
    ("scale_matrix", {"* x_stride": "* cols"}, "rows of x start"),
    ("scale_matrix", {"* out_stride": "* cols"}, "rows of out start"),
    ("scale_matrix", {"x.stride(0), out.stride(0)": "x.stride(0), x.stride(0)"}, "stride of its own"),
    ("scale_matrix", {"factor * values": "values"}, "factor is missing"),
    ("scale_matrix", {"row = tl.program_id(0)": "row = tl.program_id(1)"}, "never written"),
    ("tile_logits", {" & (k < dim)[None, :]": "", "(k < dim)[:, None] & ": ""}, "NaN from outside"),
    ("tile_logits", {"tl.dot(a, b, x)": "tl.dot(a, b)"}, "add each product"),
    ("tile_logits", {"scale * x, mask": "x, mask"}, "the scale is missing"),
    ("tile_logits", {"tl.dot(a, b, x)": "scale * tl.dot(a, b, x)", "scale * x, mask": "x, mask"}, "at every step"),
    ("tile_logits", {"range(0, dim, TILE)": "range(0, TILE, TILE)"}, "only the first step"),
    ("tile_logits", {"k = start + tl": "k = tl"}, "the same 16 features"),
    ("tile_logits", {"scale * x, mask=inside": "scale * x"}, "give the store a mask"),
    ("both_sums", {"tl.exp2(x)": "tl.exp(x)"}, "base 2"),
    ("both_sums", {"scale, shift, i, j": "scale, 0.0, i, j"}, "the shift is missing"),
    ("both_sums", {"before + tl.sum(e, 0)": "tl.sum(e, 0)"}, "load what is there and add"),
    ("both_sums", {"total += tl": "total = tl"}, "add in registers"),
    ("both_sums", {"total, mask=row < rows": "total"}, "behind a table"),
    ("both_sums", {", mask=col < cols, other=0.0": "", "e, 0), mask=col < cols": "e, 0)"}, "behind a table"),
    ("both_sums", {"tl.num_programs(0) * TILE": "TILE"}, "row blocks are visited more than once"),
    ("both_sums", {"tl.num_programs(1) * TILE": "TILE"}, "column blocks are visited more than once"),
    ("both_sums", {"tl.num_programs(0) *": "", "tl.num_programs(1) *": ""}, "blocks of both kinds"),
    ("both_sums", {"gm * TILE, rows, tl.num_programs(0) *": "0, rows, ",
                   "gn * TILE, cols, tl.num_programs(1) *": "0, cols, "}, "every program visits all tiles"),
    ("both_sums", {"before + tl.sum(e, 0)": "before"}, "the column sums are still zero"),
    ("both_sums", {"total += tl.sum(e, 1)": "pass"}, "the row sums are still zero"),
    ("gradient_chunk", {"tl.exp2(x)": "tl.exp(x)"}, "base 2"),
    ("gradient_chunk", {"scale, shift, i, j": "scale, 0.0, i, j"}, "the shift is missing"),
    ("gradient_chunk", {"of_row[:, None] + of_col[None, :]": "of_row[:, None] * of_col[None, :]"}, "are multiplied"),
    ("gradient_chunk", {" + of_col[None, :]": ""}, "add c_j"),
    ("gradient_chunk", {"of_row[:, None] + ": ""}, "add a_i"),
    ("gradient_chunk", {"g, mask=inside": "g"}, "give the store a mask"),
]  # fmt: skip


def lesson():
    return nbformat.read(NOTEBOOK, as_version=4)


def stub_and_solution(name):
    """What the notebook shows for an exercise: the cell with the stub, and the code in its folded solution."""
    for cells in exercises(lesson()):
        stub = next(cell.source for cell in cells if "raise NotImplementedError" in cell.source)
        if f"def {name}(" in stub:
            folded = "\n".join(cell.source for cell in cells).partition("<summary>Solution and why</summary>")[2]
            return stub, re.search(r"```python\n(.*?)```", folded, re.DOTALL)[1]
    raise AssertionError(f"no exercise asks for {name}")


@pytest.fixture
def build(tmp_path):
    """source, name -> the function of that name, from a file of its own, since Triton reads the source of kernels."""
    numbers = itertools.count()

    def built(source, name):
        path = tmp_path / f"kernel_{next(numbers)}.py"
        path.write_text(PREAMBLE + source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, name)

    return built


def edited(source, edits):
    for old, new in edits.items():
        assert source.count(old) == 1 or old in ("* x_stride", "* out_stride"), f"{old!r} is not there once"
        source = source.replace(old, new)
    return source


def line_of(capsys, name, learner):
    getattr(checks, f"check_{name}")(learner)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, printed
    return printed.strip()


def test_every_exercise_of_the_lesson_is_tried_here():
    own = {name for name in checks.__all__ if getattr(checks, name).__module__.endswith(".lesson05")}
    assert own == {f"check_{name}" for name in NAMES}
    assert len(exercises(lesson())) == len(NAMES)
    assert {name for name, _, _ in MISTAKES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_stub_of_the_notebook_is_not_attempted_yet(capsys, build, name):
    stub, _ = stub_and_solution(name)
    assert line_of(capsys, name, build(stub, name)).startswith("Not attempted yet: ")


@pytest.mark.parametrize("name", NAMES)
def test_the_folded_solution_passes(capsys, build, name):
    _, solution = stub_and_solution(name)
    assert line_of(capsys, name, build(solution, name)).startswith("Passed: ")


@pytest.mark.parametrize(("name", "edits", "words"), MISTAKES, ids=[f"{n}: {w}" for n, _, w in MISTAKES])
def test_a_typical_mistake_gets_a_hint_of_its_own(capsys, build, name, edits, words):
    learner = build(edited(stub_and_solution(name)[1], edits), name)
    line = line_of(capsys, name, learner)
    assert line.startswith("Not yet: "), line
    assert words in line, line
    assert not re.search(r"0x[0-9a-f]{6,}|/\w+/\w+", line)  # no addresses, no paths


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_function_returns_or_raises_the_check_prints_one_line(capsys, name):
    def broken(*args):
        raise ZeroDivisionError("division by zero")

    for learner in (broken, lambda *args: None, lambda *args: "text", lambda *args: torch.zeros(2, 3, 4)):
        assert line_of(capsys, name, learner).startswith("Not yet: ")


def library_both_sums(img, txt, scale, shift, row_table, col_table, tile):
    numbers, dim = (torch.tensor([scale]), torch.tensor([shift])), img.shape[1]
    triton_tiles.shifted_sums[len(col_table), len(row_table)](
        img, txt, *numbers, row_table, col_table, len(img), len(txt), dim, dim, dim, launch.NO_PARTNER,
        BM=tile, BN=tile, BK=tile, EVEN=True, PRECISION="ieee",
    )  # fmt: skip


def library_chunk(img, txt, scale, shift, a, c, out, tile):
    tensors = [torch.tensor([scale]), torch.tensor([shift]), a, c, out]
    launch.launch("softmax_grads", img, txt, tensors, launch.NO_PARTNER, out.stride(0), PAIRS=False)


def test_the_kernels_of_the_library_pass_the_exercises_that_they_solve(capsys):
    assert line_of(capsys, "both_sums", library_both_sums).startswith("Passed: ")
    assert line_of(capsys, "gradient_chunk", library_chunk).startswith("Passed: ")


@pytest.mark.parametrize(
    ("rows", "cols", "grid", "tile"), [(80, 112, (2, 3), 16), (12, 10, (2, 3), 4), (20, 7, (4, 1), 16)]
)
def test_the_trace_of_the_kernel_is_what_its_index_arithmetic_says(rows, cols, grid, tile):
    said = triton_steps.visits(rows, cols, grid, tile)
    meant = [
        ((gm, gn), slice(i, min(i + tile, rows)), slice(j, min(j + tile, cols)))
        for gm in range(grid[0])
        for gn in range(grid[1])
        for i in range(gm * tile, rows, grid[0] * tile)
        for j in range(gn * tile, cols, grid[1] * tile)
    ]
    assert said == meant


def test_the_trace_leaves_the_kernel_as_it_was():
    before = triton_tiles.logits_tile
    triton_steps.visits(16, 16, (1, 1), 16)
    assert triton_tiles.logits_tile is before


def test_the_tables_add_up_to_the_sums_and_each_line_holds_its_own_blocks():
    img, txt = (side[:n].contiguous() for side, n in zip(random_features(41, 32), (41, 30)))
    row_table, col_table = triton_steps.partial_tables(img, txt, 5.0, 1.0, (2, 3), 8)
    assert (row_table.shape, col_table.shape) == ((3, 41), (2, 30))
    exact = torch.exp(5.0 * img.double() @ txt.double().T - 1.0)
    for gn in range(3):
        own = exact[:, torch.arange(30) // 8 % 3 == gn].sum(1)
        torch.testing.assert_close(row_table[gn].double(), own, rtol=1e-5, atol=1e-6)
    for gm in range(2):
        own = exact[torch.arange(41) // 8 % 2 == gm].sum(0)
        torch.testing.assert_close(col_table[gm].double(), own, rtol=1e-5, atol=1e-6)


def watched(build, name, *arguments, **constants):
    """The kernel of a folded solution, run by Triton's interpreter and lane by lane, on the same numbers."""
    kernel = build(stub_and_solution(name)[1], f"{name.removesuffix('_matrix')}_kernel")
    memories = lanes.watch(kernel, *arguments, **constants)
    kernel[arguments[0]](*arguments[1:], **constants)
    return {memory.name: memory for memory in memories}


def test_the_picture_of_lanes_computes_what_the_interpreter_computes(build):
    x, sums = torch.arange(1.0, 11.0), torch.empty(3)
    memories = watched(build, "block_sums", (3,), x, sums, 10, BLOCK=4)
    assert memories["out"].values.tolist() == sums.tolist() == [10.0, 26.0, 19.0]
    assert sum(int((~access.on).sum()) for access in memories["x"].accesses) == 2
    wide, out = torch.randn(5, 8)[:, :7], torch.zeros(5, 9)[:, :7]
    memories = watched(build, "scale_matrix", (2, 2), wide, out, 2.0, 5, 7, 8, 9, TILE=4)
    drawn = torch.tensor(memories["out"].values.reshape(5, 9)[:, :7], dtype=torch.float32)
    torch.testing.assert_close(drawn, out)
    assert not any(len(memory.outside(access)) for memory in memories.values() for access in memory.accesses)


def test_lanes_that_reach_outside_are_named_and_read_nothing():
    def careless(x, n):
        return tl.load(x + tl.arange(0, 4) + n)

    (memory,) = lanes.watch(careless, (1,), torch.ones(6), 4)
    assert memory.outside(memory.accesses[0]).tolist() == [6, 7]


def test_what_the_picture_of_lanes_does_not_know_is_said():
    with pytest.raises(ValueError, match=r"tl.atomic_add is not known"):
        lanes.watch(lambda x: tl.atomic_add(x, 1.0), (1,), torch.ones(2))


def without_triton(cells):
    """The outputs of these cells in a fresh kernel in which triton cannot be imported."""
    hidden = new_code_cell("import sys\nsys.modules['triton'] = None")
    copy = nbformat.v4.new_notebook(cells=[hidden, *(new_code_cell(cell.source) for cell in cells)])
    NotebookClient(copy, timeout=300, resources={"metadata": {"path": NOTEBOOK.parent}}).execute()
    return [[o for o in cell.outputs if o.get("name") != "stderr"] for cell in copy.cells[1:]], copy


def said(outputs):
    text = "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)
    return text, [o.data["image/png"].strip() for o in outputs if "image/png" in o.get("data", {})]


def test_without_triton_every_cell_shows_its_recorded_output():
    cells = [cell for cell in lesson().cells if cell.cell_type == "code"]
    shown, copy = without_triton([*cells, new_code_cell("x = 1  # a cell of the reader's own")])
    assert [said(outputs) for outputs in shown[:-1]] == [said(cell.outputs) for cell in cells]
    assert "no recorded output" in said(shown[-1])[0]
    notice = "".join(o.text for o in copy.cells[1].outputs)
    assert notice.startswith("triton is not installed here")


def test_with_triton_nothing_is_replayed(capsys):
    recorded.unless("triton", "no such notebook")
    assert capsys.readouterr() == ("", "")
