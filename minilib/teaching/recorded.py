"""Where a lesson's package does not exist, show the recorded outputs of its cells instead of running them.

Triton has no wheels for macOS and Windows. The setup cell of lesson 05 therefore ends with one call of `unless`:
where the package is there, it does nothing; where it is missing, every later cell is looked up in the stored notebook,
and its outputs are displayed as they were when the notebook was last executed. A cell that the reader has changed has
no record, and says so. The hook is IPython's public list `input_transformers_cleanup`.

Used in notebooks/05_fuse_it_in_triton.ipynb.
"""

import importlib.util
import sys
from pathlib import Path

_RECORDED: dict[str, list] = {}  # outputs by the source of their cell


def unless(package: str, notebook: str) -> None:
    """Replay `notebook`, a path seen from the working directory, from the next cell on, if `package` is missing.

    FileNotFoundError when the notebook is not there; the notice goes to the error stream, which tests do not compare.
    """
    if importlib.util.find_spec(package):
        return
    import nbformat
    from IPython import get_ipython

    cells = nbformat.read(Path(notebook), as_version=4).cells
    _RECORDED.update({cell.source.strip(): cell.outputs for cell in cells if cell.cell_type == "code"})
    hooks = get_ipython().input_transformers_cleanup
    if _instead not in hooks:
        hooks.append(_instead)
    print(
        f"{package} is not installed here: the cells below show their recorded outputs and run nothing.",
        file=sys.stderr,
    )


def show(source: str) -> None:
    """Display the recorded outputs of the cell with this source, or say that there are none."""
    from IPython.display import display

    if source not in _RECORDED:
        print("This cell was changed, so it has no recorded output: run it where the package is installed.")
    for output in _RECORDED.get(source, []):
        if output.output_type == "stream":
            print(output.text, end="")
        elif output.output_type in ("display_data", "execute_result"):
            display(dict(output.data), raw=True, metadata=dict(output.metadata))


def _instead(lines: list[str]) -> list[str]:
    source = "".join(lines).strip()
    return [f"from minilib.teaching import recorded as _recorded; _recorded.show({source!r})\n"]
