"""Every target of the Makefile is listed by `make help`; `make lab` starts as root, on localhost, behind a token."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
