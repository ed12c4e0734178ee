"""Every target of the Makefile is listed by `make help`; `make lab` starts as root, on localhost, behind a token.

.ci/tasks.py, containers and the conda environment do and hold what the Makefile does and holds.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def make(*arguments):
    # Alone, though these tests may be run by make themselves.
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout


def test_every_target_is_helped():
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    told = make("help")
    for target in set(targets.split()) - {"help", "clean"}:
        assert f"make {target} " in told


def test_faults_are_killed_a_hundred_times():
    assert "MINILIB_KILLS=100" in make("-n", "faults")


def test_the_audit_says_what_to_do_without_a_network():
    told = make("-n", "audit")
    assert "pip_audit" in told
    assert "pip freeze" in told


# Without make: .ci/tasks.py does the same


def task(*arguments):
    command = [sys.executable, ".ci/tasks.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)


def commands(text):
    """What a dry run runs, in words: what only speaks and what only marks a layer left out."""
    joined = text.replace("\\\n", " ").replace("if here", "here").replace("; then ", "\n")
    lines = [re.split(r" \|\| \{|; else|;  *else", line)[0] for line in joined.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if "here/" in line]
    said = {"@", "touch", "list", "test", "echo"}
    return [each for each in words if each and each[0] not in said]


TARGETS = ["setup", "tour", "test", "test-solutions", "lab", "book", "test-site", "bench", "refresh", "faults", "audit"]


@pytest.mark.parametrize("target", TARGETS)
def test_the_task_runner_runs_what_make_runs(target):
    by_make = commands(make("-n", "-B", target, "VENV=here", f"PYTHON={sys.executable}"))
    by_python = commands(task(target, "--venv", "here", "--dry-run", "--python", sys.executable).stdout)
    assert len(by_make) >= 3
    assert by_python == [words for words in by_make if "sys.version_info" not in " ".join(words)]


def test_every_target_of_the_makefile_is_a_task():
    (targets,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets.split()) == {*TARGETS, "help", "clean", "test-pythons"}
    assert "invalid choice: 'nothing'" in task("nothing").stderr


def test_other_pythons_get_environments_of_their_own_and_a_missing_one_a_sentence(tmp_path):
    assert ".ci/tasks.py test-pythons" in make("-n", "test-pythons")
    empty = {"PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, ".ci/tasks.py", "test-pythons", "--dry-run"]
    none = subprocess.run(command, cwd=ROOT, env=empty, capture_output=True, text=True)
    assert none.returncode == 1
    assert none.stdout.count("there is no Python 3.1") == 3
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if version not in ("3.11", "3.12", "3.13"):
        pytest.skip(f"test-pythons does not speak of Python {version}")
    (tmp_path / f"python{version}").symlink_to(sys.executable)
    told = subprocess.run(command, cwd=ROOT, env=empty, capture_output=True, text=True).stdout
    assert f"runs/venv-{version}/bin/python -m pytest -n 2 --dist loadfile --nbval" in told
    assert ("-m pytest -n 2 --dist loadfile\n" in told) == (version == "3.12")


# Containers and conda


def test_containers_have_the_torch_of_the_makefile_without_cuda():
    (torch,) = re.findall(r"^TORCH  \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    docker = (ROOT / ".devcontainer/Dockerfile").read_text()
    binder = (ROOT / ".binder/requirements.txt").read_text()
    assert f"ARG TORCH={torch}\n" in docker
    assert f"\n{torch}+cpu\n" in binder
    assert f'"{torch}"' in (ROOT / ".ci/tasks.py").read_text()
    assert all("https://download.pytorch.org/whl/cpu" in text for text in (docker, binder))
    assert '--editable ".[dev]"' in docker
    assert "-e .[dev]" in binder
    config = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / config["build"]["dockerfile"]).exists()
    versions = [re.search(r"3\.\d+", text)[0] for text in (docker, (ROOT / ".binder/runtime.txt").read_text())]
    assert versions == ["3.12", "3.12"]


def test_conda_gives_the_tests_what_make_gives_them():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"python{project['requires-python']},<3.14" in environment
    assert {"pip", "make"} <= {each for each in environment if isinstance(each, str)}
    (wanted,) = [each["pip"] for each in environment if isinstance(each, dict)]
    extras = set(re.search(r"^-e \.\[(.*)\]$", wanted[0])[1].split(","))
    lines = (ROOT / "Makefile").read_text()
    by_make = set(re.findall(r'--editable "\.\[(\w+)\]"', lines)) - {"book", "site"}  # pages, which no unit test needs
    assert extras == by_make <= set(project["optional-dependencies"])
    assert wanted[1:] == re.findall(r'--no-deps "(.*)"', lines)


@pytest.mark.slow
def test_the_container_is_built_where_a_daemon_runs():
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("no docker daemon runs here, so the container was compared with the Makefile and not built")
    command = [docker, "build", "--quiet", "-f", ".devcontainer/Dockerfile", "."]
    subprocess.run(command, cwd=ROOT, check=True, timeout=1800)


@pytest.mark.slow
def test_lab_starts_for_root_on_localhost_behind_a_token(tmp_path):
    command = make("-n", "lab", "VENV=here").strip().splitlines()[-1]
    assert ("--allow-root" in command) == (os.geteuid() == 0)
    command = shlex.split(command.replace("here/bin/python", shlex.quote(sys.executable)))
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    command += ["--no-browser", "--port=0", f"--notebook-dir={ROOT}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    told, until = "", time.monotonic() + 60
    for line in process.stderr:
        told += line
        if "token=" in line or time.monotonic() > until:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert re.search(r"http://(localhost|127\.0\.0\.1):\d+/lab\S*\?token=[0-9a-f]{16,}", told), told
    assert "0.0.0.0" not in told
    assert "Running as root is not recommended" not in told
