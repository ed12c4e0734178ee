"""The library leans on nothing around it, arrows point down, nothing goes in circles, and all of it stays small.

Imports are read from the sources, those inside functions too. Those under `if TYPE_CHECKING:` count for the fence,
since they say what a module must know of; for circles they do not, since they never run.

Each rule is a function in support/imports.py, and the second half of this file shows that it objects.
"""

import pytest
from support.imports import (
    ROOT,
    arrows,
    circles,
    code_and_comment_lines,
    folder,
    imported,
    init_parameters,
    long_signatures,
    private_imports,
    sources,
)

from minilib.teaching import evening_path
from minilib.teaching.evening_path import FILES, MODULES

SOURCES = sources()
LAYERS = ("kernels", "distributed", "losses", "longcontext", "trainers")  # from the lowest upwards
BASE = ("lse", "common")  # below all of them
LIBRARY = (*BASE, *LAYERS)
MATERIAL = ("data", "models", "evals", "preferences")
AROUND = ("cli", "teaching", "bench")


def climbs(modules, inside, outside):
    """Imports of folders `outside` in modules of the folders `inside`."""
    taken = [
        (module, f"{there}.{name}")
        for module, source in modules.items()
        for there, name in imported(source)
        if folder(module) in inside
    ]
    return [f"{a} imports {b}" for a, b in taken if b.startswith("minilib.") and folder(b) in outside]


def front_door(modules, inside):
    """Names that folders `inside` take from `minilib` itself, which hands on what lies anywhere, and are no modules."""
    return [
        f"{module} imports {name} from minilib"
        for module, source in modules.items()
        for there, name in imported(source)
        if folder(module) in inside and there == "minilib" and f"minilib.{name}" not in SOURCES
    ]


def lines(modules):
    return sum(len(source.splitlines()) for source in modules.values())


LIBRARY_SOURCES = {module: source for module, source in SOURCES.items() if folder(module) in LIBRARY}


def test_every_folder_belongs_to_a_ring():
    assert {folder(module) for module in SOURCES} == {"", "__main__", *LIBRARY, *MATERIAL, *AROUND}


def test_the_library_imports_neither_material_nor_what_is_around():
    assert climbs(SOURCES, LIBRARY, (*MATERIAL, *AROUND)) == []


def test_the_material_imports_nothing_from_around():
    assert climbs(SOURCES, MATERIAL, AROUND) == []


@pytest.mark.parametrize("low", range(len(LAYERS)), ids=LAYERS)
def test_within_the_library_arrows_point_down(low):
    assert climbs(SOURCES, [LAYERS[low]], LAYERS[low + 1 :]) == []


def test_the_running_pair_and_the_common_helpers_lie_below_all():
    assert climbs(SOURCES, BASE, LAYERS) == []


def test_library_and_material_do_not_come_in_through_the_front_door():
    assert front_door(SOURCES, (*LIBRARY, *MATERIAL)) == []


def test_no_modules_import_each_other():
    assert circles(arrows(SOURCES, for_types=False)) == []


def test_no_folders_import_each_other():
    graph = {}
    for module, targets in arrows(SOURCES, for_types=False).items():
        graph.setdefault(folder(module), set()).update(map(folder, targets))
    assert circles(graph) == []


def test_nothing_private_leaves_its_folder():
    assert private_imports(SOURCES) == []


def test_the_library_has_at_most_42_files_and_5800_lines():
    inits = {f"minilib.{name}" for name in LAYERS}
    files = {module: source for module, source in LIBRARY_SOURCES.items() if module not in inits}
    assert len(files) <= 42
    assert lines(files) <= 5_800


def test_the_evening_path_is_ten_files_of_the_library_and_at_most_1850_lines():
    assert len(set(FILES)) == len(MODULES) == 10
    assert set(MODULES) <= set(LIBRARY_SOURCES)
    assert lines({module: SOURCES[module] for module in MODULES}) <= 1_850


def test_the_readme_counts_the_evening_path_as_it_is():
    readme = (ROOT / "README.md").read_text()
    assert evening_path.updated(readme) == readme, "run python -m minilib.teaching.evening_path"


def test_the_whole_package_has_at_most_32000_lines():
    assert lines(SOURCES) <= 32_000


def test_no_public_function_has_more_than_15_parameters():
    assert {module: found for module, source in SOURCES.items() if (found := long_signatures(source, 15))} == {}


def test_the_logo_trainer_takes_at_most_10_arguments():
    assert init_parameters(SOURCES["minilib.trainers.logo"], "LogoTrainer") <= 10


def test_kernels_ring_and_losses_have_a_comment_for_every_dozen_lines_of_code():
    counted = [code_and_comment_lines(SOURCES[m]) for m in SOURCES if folder(m) in ("kernels", "distributed", "losses")]
    code, comments = (sum(column) for column in zip(*counted))
    assert comments >= 0.08 * code


def test_the_evening_path_is_written_between_its_marks_and_nowhere_else(tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{evening_path.BEGIN}\nstale\n{evening_path.END}\nafter\n")
    evening_path.main(readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert capsys.readouterr().out.strip() in text
    with pytest.raises(ValueError, match="has no"):
        evening_path.updated("nothing")


# The rules can fail: made-up sources break each of them.


@pytest.mark.parametrize(
    "source",
    [
        "import minilib.cli.clip",
        "from minilib import bench",
        "from minilib.data.rows import positive_int",
        "def f():\n    from minilib.models import TwoTowers",
        "if TYPE_CHECKING:\n    from minilib.evals import recall_at_k",
        "try:\n    import minilib.preferences\nexcept ImportError:\n    pass",
    ],
)
def test_a_climb_out_of_the_library_is_seen(source):
    assert len(climbs({"minilib.losses.x": source}, LIBRARY, (*MATERIAL, *AROUND))) == 1
    assert climbs({"minilib.cli.x": source}, LIBRARY, (*MATERIAL, *AROUND)) == []


def test_a_climb_within_the_library_is_seen():
    modules = {"minilib.kernels.x": "from minilib.distributed import ranks", "minilib.losses.y": "import minilib.lse"}
    assert climbs(modules, ["kernels"], LAYERS[1:]) == ["minilib.kernels.x imports minilib.distributed.ranks"]
    assert climbs(modules, ["losses"], LAYERS[3:]) == []


def test_what_comes_in_through_the_front_door_is_seen():
    source = "from minilib import build_pairs, lse"
    modules = {"minilib.losses.x": source, "minilib.cli.y": source}
    assert front_door(modules, LIBRARY) == ["minilib.losses.x imports build_pairs from minilib"]


def test_a_circle_is_seen_even_through_a_function_and_a_folder():
    lazy = {"minilib.a.x": "import minilib.b.y", "minilib.b.y": "def f():\n    from minilib.a import x"}
    assert circles(arrows(lazy)) == [["minilib.a.x", "minilib.b.y"]]
    three = {"minilib.a": "import minilib.b", "minilib.b": "import minilib.c", "minilib.c": "import minilib.a"}
    assert circles(arrows(three)) == [["minilib.a", "minilib.b", "minilib.c"]]
    # b/__init__.py runs when b.y is imported, and needs a.x, which is not there yet.
    hidden = {"minilib.a.x": "from minilib.b.y import f", "minilib.b": "import minilib.a.x", "minilib.b.y": ""}
    assert circles(arrows(hidden)) == [["minilib.a.x", "minilib.b"]]


def test_what_is_only_for_type_checkers_makes_no_circle():
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from minilib.a import x\nelse:\n    x = None"
    modules = {"minilib.a.x": "import minilib.b.y", "minilib.b.y": types}
    assert circles(arrows(modules, for_types=False)) == []
    assert circles(arrows(modules)) == [["minilib.a.x", "minilib.b.y"]]


def test_private_names_and_modules_are_seen():
    assert private_imports({"minilib.losses._x": ""}) == ["minilib.losses._x"]
    source = "from minilib.data.files import _open"
    taken = {"minilib.cli.x": source, "minilib.data.y": source}
    assert private_imports(taken) == ["minilib.cli.x imports _open from minilib.data.files"]
    assert private_imports({"minilib.__main__": "from __future__ import annotations"}) == []


def test_long_signatures_are_seen():
    assert long_signatures("def f(a, b, *, c, **d): ...", 3) == ["f (4)"]
    assert long_signatures("class A:\n    def __init__(self, a, b): ...\n    def g(self, a): ...", 1) == [
        "A.__init__ (2)"
    ]
    assert long_signatures("def _f(a, b): ...\n@triton.jit\ndef g(a, b): ...", 1) == []
    assert init_parameters("class A:\n    def __init__(self, a, b, *, c): ...", "A") == 3


def test_lines_of_code_and_of_comments_are_told_apart():
    source = '"""What it is.\n\n# no comment\n"""\n\n# why\nx = 1  # (b, d)\ny = (\n    "# none",\n)  # fmt: skip\n'
    assert code_and_comment_lines(source) == (4, 2)
