"""Reads a package's sources and says who imports whom, how long functions' signatures are, and what a line is.

Every function takes sources as text, `{"minilib.lse": "import torch ...", ...}`, so that a test can also give it
made-up ones and see it object. The name of a folder's `__init__.py` is that of the folder.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


def sources() -> dict[str, str]:
    """The text of every module of minilib by its dotted name."""
    found = {}
    for path in sorted((ROOT / "minilib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def folder(module: str) -> str:
    """The part of a module's name that says where it lives: "kernels" of minilib.kernels.vocab_tiled, "" of minilib."""
    return [*module.split("."), ""][1]


@cache  # each file is asked about by many tests
def imported(source: str, *, for_types: bool = True) -> list[tuple[str, str]]:
    """(module, name) for every import, (folder, module) where a whole one is imported; those inside functions too.

    for_types: whether those under `if TYPE_CHECKING:` count.
    """
    found, open_ = [], [ast.parse(source)]
    while open_:
        node = open_.pop()
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.rpartition(".")[::2]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING") and not for_types:
            open_ += node.orelse
        elif not isinstance(node, ast.expr):  # no import is inside of an expression
            open_ += ast.iter_child_nodes(node)
    return found


def arrows(modules: dict[str, str], *, for_types: bool = True) -> dict[str, set[str]]:
    """For every module those of `modules` that importing it runs.

    A name that is a module counts as that module. Another folder's `__init__.py` runs before its modules do, so it
    counts as well.
    """
    graph = {}
    for module, source in modules.items():
        named = (f"{there}.{name}" for there, name in imported(source, for_types=for_types))
        wanted = {name if name in modules else name.rpartition(".")[0] for name in named}
        folders = {target.rpartition(".")[0] for target in wanted}
        folders -= {module.rpartition(".")[0], "minilib"}
        graph[module] = {target for target in wanted | folders if target in modules and target != module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of nodes that reach one another, each sorted; a node that points at itself is none."""
    reached = {start: _reachable(graph, start) for start in graph}
    found = {frozenset({a, *(b for b in reached[a] if a in reached.get(b, ()))}) for a in graph}
    return sorted(sorted(group) for group in found if len(group) > 1)


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen, open_ = set(), [start]
    while open_:
        for target in graph.get(open_.pop(), ()):
            if target not in seen:
                seen.add(target)
                open_.append(target)
    return seen


def private_imports(modules: dict[str, str]) -> list[str]:
    """Modules whose name begins with an underscore, and underscore-names that are imported from another folder."""
    offences = [module for module in modules if module.rsplit(".")[-1].startswith("_") and "__main__" not in module]
    for module, source in modules.items():
        for there, name in imported(source):
            private = name.startswith("_") and not name.startswith("__")
            if private and there.split(".")[0] == "minilib" and folder(there) != folder(module):
                offences.append(f"{module} imports {name} from {there}")
    return offences


def long_signatures(source: str, most: int) -> list[str]:
    """ "name (count)" of the public functions and methods with more than `most` parameters, `self` not counted.

    A kernel of Triton is not counted: only its launcher calls it, with pointers, strides and tile sizes.
    """
    return [f"{name} ({count})" for name, count in _signatures(ast.parse(source)) if count > most]


def init_parameters(source: str, cls: str) -> int:
    """How many parameters the constructor of a class has, `self` not counted."""
    return dict(_signatures(ast.parse(source)))[f"{cls}.__init__"]


def _signatures(node: ast.AST, outer: str = "") -> Iterator[tuple[str, int]]:
    """(dotted name, parameters) of every public function, constructors included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from _signatures(child, f"{child.name}.")
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            public = not child.name.startswith("_") or child.name == "__init__"
            marks = {ast.unparse(mark) for mark in child.decorator_list}
            if public and not any(mark.startswith("triton.") for mark in marks):
                known = child.args
                count = len([*known.posonlyargs, *known.args, *known.kwonlyargs]) - bool(outer)
                count += bool(outer and "staticmethod" in marks)
                yield outer + child.name, count + bool(known.vararg) + bool(known.kwarg)
        elif isinstance(child, (ast.If, ast.Try, ast.With)):
            yield from _signatures(child, outer)


def code_and_comment_lines(source: str) -> tuple[int, int]:
    """Lines of code, and lines with a comment, at the end of code or alone; blank lines and docstrings are neither."""
    code, comments, docstrings = set(), set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.update(range(node.lineno, node.end_lineno + 1))
    silent = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if not token.string.startswith(("# fmt:", "# noqa", "# type:")):
                comments.add(token.start[0])
        elif token.type not in silent:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings), len(comments)
