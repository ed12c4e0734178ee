"""A full disk, a read-only folder, a signal, a damaged file, another process: one sentence, and nothing of before lost.

Signals are sent to this process from a callback after a step, as they come to a run in its main thread; two runs get
theirs from outside, in processes of their own. Disks are small tmpfs mounts where that is allowed; a limit on the size
of files, which needs no rights, stands for a full disk everywhere.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support.small_disk import remount, tmpfs

import minilib.__main__ as main_module
from minilib.cli import command_line, faults, run_folder
from minilib.cli import logo as logo_command
from minilib.models.loading import load_language_model
from minilib.trainers import ContrastiveTrainer, checkpoint

CLIP = ["clip", "--pairs", "32", "--batch-size=16", "--steps", "6", "--save-every=2", "--dim", "8", "--seed", "3"]
LOGO = ["logo", "--steps", "6", "--save-every=2", "--batch-size=2", "--lr=0.02", "--warmup=1", "--target", "0"]
LOGO += ["--num-rejected", "1"]
ROWS = [
    {"prompt": f"{name} keeps {thing}. What does {name} keep?", "chosen": f" {thing}", "rejected": " coal"}
    for name in ("Lisbon", "Cairo", "Quito")
    for thing in ("amber", "salt", "gold", "silk")
]


def minilib(*arguments):
    main_module.main([str(argument) for argument in arguments])


def ended(capfd, *arguments):
    """Exit status and the lines of ours on standard error."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        minilib(*arguments)
    err = capfd.readouterr().err
    assert "Traceback" not in err
    return end.value.code, [line for line in err.replace("\r", "\n").splitlines() if line.startswith("minilib: ")]


@pytest.fixture(scope="module")
def logo(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return [*LOGO, "--data", str(path)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, logo):
    """Unbroken runs of both commands."""
    folder = tmp_path_factory.mktemp("whole")
    minilib(*CLIP, "--output", folder / "clip")
    minilib(*logo, "--output", folder / "logo")
    return folder


def clip_weights(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def same_end(folder, unbroken):
    """Whether two finished runs have the same weights, to the bit."""
    if (unbroken / "checkpoint.pt").exists():
        found, wanted = clip_weights(folder), clip_weights(unbroken)
        return all(torch.equal(found[name], wanted[name]) for name in wanted)
    name = "adapter_model.safetensors"
    return (folder / name).read_bytes() == (unbroken / name).read_bytes()


def leftovers(folder):
    return [path.name for path in folder.rglob("*") if "unfinished" in path.name or "probe" in path.name]


# Signals


def send(monkeypatch, step, number, times=1):
    """This process gets a signal after a step of either command."""

    def fire():
        for _ in range(times):
            os.kill(os.getpid(), number)

    clip_step, on_step_end = ContrastiveTrainer.step, logo_command._Bar.on_step_end

    def stepped(self, k):
        record = clip_step(self, k)
        if k + 1 == step:
            fire()
        return record

    def ended_step(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        if state.global_step == step:
            fire()

    monkeypatch.setattr(ContrastiveTrainer, "step", stepped)
    monkeypatch.setattr(logo_command._Bar, "on_step_end", ended_step)


@pytest.mark.parametrize("step", [1, 3], ids=["before the first checkpoint", "between checkpoints"])
@pytest.mark.parametrize(
    ("number", "status", "name"),
    [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")],
)
@pytest.mark.parametrize("command", ["clip", "logo"])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_bits(
    command, number, status, name, step, whole, logo, tmp_path, monkeypatch, capfd
):
    line = [*(CLIP if command == "clip" else logo), "--output", tmp_path / "run"]
    with monkeypatch.context() as patch:
        send(patch, step, number)
        code, told = ended(capfd, *line)
    assert code == status
    again = f"python -m minilib {command}"
    assert told == [
        f"minilib: stopped by {name}: step {step} of 6 is saved, give the same `{again}` once more, or `{again} "
        f"--config {tmp_path / 'run' / 'config.yaml'}`."
    ]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if command == "clip":
        assert len(torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["records"]) == step
    else:
        assert (tmp_path / "run" / f"checkpoint-{step}" / "digests.json").exists()
    minilib(command, "--config", tmp_path / "run" / "config.yaml")
    assert same_end(tmp_path / "run", whole / command)


@pytest.mark.parametrize("command", ["clip", "logo"])
def test_a_second_ctrl_c_stops_at_once(command, logo, tmp_path, monkeypatch, capfd):
    send(monkeypatch, 1, signal.SIGINT, times=2)
    line = [*(CLIP if command == "clip" else logo), "--output", tmp_path / "run"]
    code, told = ended(capfd, *line)
    assert code == 130
    assert told == ["minilib: stopped by Ctrl-C: the same command starts again, from what is saved."]
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_signals_are_left_alone_in_another_thread_and_where_somebody_handles_them(tmp_path):
    seen = []

    def inside():
        with faults.told():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    mine = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        handler = signal.getsignal(signal.SIGTERM)
        with faults.told():
            assert signal.getsignal(signal.SIGTERM) is handler
            assert signal.getsignal(signal.SIGINT) is faults.SIGNALS
    finally:
        signal.signal(signal.SIGTERM, mine)
    assert seen == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_whose_output_is_closed_says_nothing_and_ends_well(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    minilib(*CLIP, "--output", tmp_path / "run")
    assert (tmp_path / "run" / "records.json").exists()


def test_the_settings_of_a_run_are_read_alike_by_every_system(tmp_path, monkeypatch):
    """jsonargparse reads --config in the system's encoding, which on Windows is a small one."""
    monkeypatch.chdir(tmp_path)
    minilib(*CLIP, "--output", "runs/Zürich 王")
    written = (tmp_path / "runs" / "Zürich 王" / "config.yaml").read_bytes()
    assert written.isascii()
    minilib("clip", "--config", "runs/Zürich 王/config.yaml")  # finished already: it found its own folder
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["Zürich 王"]


def test_settings_that_the_system_would_misread_are_refused(tmp_path, monkeypatch, capfd):
    (tmp_path / "mine.yaml").write_text("output: runs/Zürich\n", encoding="utf-8")
    monkeypatch.setattr(command_line.locale, "getencoding", lambda: "cp1252")
    code, (told,) = ended(capfd, "clip", "--config", tmp_path / "mine.yaml")
    assert code == 2
    assert "holds letters beyond ASCII, and this system reads it as cp1252: set PYTHONUTF8=1." in told


def test_a_tilde_is_the_home_folder_in_a_flag_and_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    minilib(*CLIP, "--output=~/flag")
    (tmp_path / "mine.yaml").write_text("output: ~/file\n")
    minilib(*CLIP, "--config", tmp_path / "mine.yaml")
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["file", "flag"]
    assert not (tmp_path / "~").exists()


def test_a_share_of_the_data_may_be_a_number_in_a_file_and_a_long_warm_up_is_said(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("validation: 0.25\nwarmup: 40\n")
    minilib(*CLIP, "--config", tmp_path / "mine.yaml", "--output", tmp_path / "run")
    said = capsys.readouterr().out
    assert "pairs, scored with every checkpoint" in said
    assert "warmup is 40 of 6 steps" in said
    minilib(*CLIP, "--config", tmp_path / "run" / "config.yaml")  # goes on with the same settings


def test_ctrl_c_in_a_library_call_stays_a_keyboard_interrupt(monkeypatch):
    from support.toys import ToyPairs, ToyTowers

    send(monkeypatch, 1, signal.SIGINT)
    trainer = ContrastiveTrainer(ToyTowers(), ToyPairs(24), batch_size=8, steps=2, progress=False)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()


def signalled(line, number, seen, **options):
    """Run a command in a process of its own and send it a signal once `seen()` holds."""
    command = [sys.executable, "-m", "minilib", *map(str, line)]
    # Tests that were started in the background hand on that Ctrl-C is ignored.
    options = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)} | options
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    while not seen() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    return process.returncode, [line for line in err.replace("\r", "\n").splitlines() if line.startswith("minilib: ")]


@pytest.mark.slow
def test_a_signal_while_questions_are_answered_keeps_the_answers(tmp_path):
    line = ["logo", "--rows", 400, "--steps", 1, "--output", tmp_path]
    state = tmp_path / "pairs.jsonl.state"
    seen = lambda: state.exists() and json.loads(state.read_text())["rows"] > 0  # noqa: E731
    code, told = signalled(line, signal.SIGTERM, seen)
    assert code == 143
    assert told == ["minilib: stopped by SIGTERM: the same command starts again, from what is saved."]
    assert json.loads(state.read_text())["rows"] > 0


def test_a_signal_during_the_imports_is_one_sentence(tmp_path):
    for seconds in (0.7, 1.4, 2.8):
        started = time.monotonic()
        ended = signalled(["doctor"], signal.SIGINT, lambda: time.monotonic() - started > seconds)  # noqa: B023
        if ended != (0, []):  # else the first lines of torch's own library have swallowed it
            break
    assert ended in [
        (130, ["minilib: stopped by Ctrl-C before it began."]),
        (130, ["minilib: stopped by Ctrl-C: the same command starts again, from what is saved."]),
        (-signal.SIGINT, []),  # before the first line of ours
    ]


@pytest.mark.slow
def test_two_ranks_save_and_go_on_when_one_of_them_is_told_to_stop(tmp_path):
    line = ["clip", "--pairs", 64, "--batch_size", 32, "--steps", 400, "--dim", 8, "--save_every", 1000]
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *ranks, "-m", "minilib", *map(str, line), "--output", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen = []
    for text in iter(lambda: process.stderr.read(64), ""):
        seen.append(text)
        if "3/400" in "".join(seen[-4:]):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    assert "stopped by SIGTERM: step" in "".join(seen) + rest
    records = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["records"]
    assert 3 <= len(records) < 400


# Disks


@pytest.mark.parametrize("command", ["clip", "logo"])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(command, whole, logo, tmp_path, capfd):
    size = sum(path.stat().st_size for path in (whole / command).rglob("*") if path.is_file())
    with tmpfs(tmp_path / "disk", f"{int(size * 0.9)}") as disk:
        if disk is None:
            pytest.skip("mounting a small disk needs rights that this process lacks")
        run = disk / "run"
        line = [*(CLIP if command == "clip" else logo), "--output", run]
        code, told = ended(capfd, *line)
        assert code == 2
        assert len(told) == 1
        assert "no space left on device: free some space or choose another output" in told[0]
        assert not leftovers(disk)
        if command == "clip":
            assert clip_weights(run)
        remount(disk, "size=200m")
        minilib(*line)
        assert same_end(run, whole / command)


@pytest.mark.parametrize("command", ["clip", "logo"])
def test_a_read_only_disk_is_one_sentence(command, logo, tmp_path, capfd):
    line = CLIP if command == "clip" else logo
    with tmpfs(tmp_path / "disk", "1m") as disk:
        if disk is None:
            if os.geteuid() == 0:
                pytest.skip("root may write everywhere here, and mounting is not allowed")
            (tmp_path / "disk").chmod(0o500)
        else:
            remount(disk, "ro")
        code, (told,) = ended(capfd, *line, "--output", tmp_path / "disk" / "run")
    assert code == 2
    assert "run: read-only file system: choose a place" in told or "permission denied: choose a place" in told


@contextmanager
def small_files():
    """No file may grow beyond 100,000 bytes in here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_may_not_grow_is_one_sentence_and_leaves_no_half(tmp_path, capfd):
    with small_files():
        code, (told,) = ended(capfd, *CLIP, "--output", tmp_path / "run")
    assert code == 2
    assert "checkpoint.pt: file too large: free some space" in told
    assert not leftovers(tmp_path)
    assert not list((tmp_path / "run").glob("checkpoint*"))


def test_a_merge_that_finds_no_room_leaves_no_half_and_goes_on_when_there_is_some(whole, logo, tmp_path, capfd):
    shutil.copytree(whole / "logo", tmp_path / "run")
    line = [*logo, "--output", tmp_path / "run", "--merge", "true"]
    with small_files():
        code, (told,) = ended(capfd, *line)
    assert code == 2
    assert "file too large: free some space" in told
    assert not leftovers(tmp_path)
    assert not list((tmp_path / "run").glob("merged/*"))
    minilib(*line)
    assert load_language_model(str(tmp_path / "run" / "merged"))


def test_a_reader_who_goes_is_no_traceback():
    command = f"{sys.executable} -m minilib doctor | true; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert found.returncode == 141
    assert found.stderr == "minilib: nobody reads the output any more: what was saved stays.\n"


def test_a_full_standard_output_is_one_sentence():
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "minilib", "doctor"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert found.returncode == 2
    assert found.stderr.startswith("minilib: the output: no space left on device")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory: take smaller batches"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes."),
         "not enough memory for 4.0 GB at once"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "not enough memory"),
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: permission denied: choose a place"),
        (OSError(30, "Read-only file system", "/a/b"), "/a/b: read-only file system: choose a place"),
        (ModuleNotFoundError("No module named 'spacy'", name="spacy"), "the package spacy is not installed: pip"),
        (ValueError("first line\nsecond line"), "minilib: first line second line\n"),
        (KeyError("left"), "KeyError, 'left': not foreseen, MINILIB_TRACEBACK=1"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError, maximum"),
    ],
)  # fmt: skip
def test_whatever_comes_up_is_one_line(error, words, monkeypatch, capsys):
    def fails():
        raise error

    monkeypatch.setattr(main_module, "doctor", fails)
    with pytest.raises(SystemExit) as end:
        minilib("doctor")
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert words in err
    assert err.startswith("minilib: ")
    assert err.count("\n") == 1
    monkeypatch.setenv("MINILIB_TRACEBACK", "1")
    with pytest.raises(type(error)):
        minilib("doctor")


# Checkpoints that something has happened to


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGES = {"cut": cut, "flipped": flip, "missing": Path.unlink}


def unfinish(run):
    """A finished run as it was before its end."""
    for name in ("records.json", "adapter_model.safetensors", "adapter_config.json", "model.json"):
        (run / name).unlink(missing_ok=True)


@pytest.mark.parametrize("damage", DAMAGES)
def test_clip_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(damage, whole, tmp_path, capfd):
    run = tmp_path / "clip"
    shutil.copytree(whole / "clip", run)
    unfinish(run)
    (run / "config.yaml").unlink()
    DAMAGES[damage](run / "checkpoint.pt")
    minilib(*CLIP, "--output", run)
    told = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("minilib: ")]
    assert len(told) == 1
    assert "checkpoint.pt" in told[0]
    assert told[0].endswith("the run goes on from checkpoint.previous.pt.")
    assert same_end(run, whole / "clip")
    DAMAGES[damage](run / "checkpoint.pt")
    DAMAGES["cut"](checkpoint.previous(run / "checkpoint.pt"))
    code, (told,) = ended(capfd, *CLIP, "--output", run)
    assert code == 2
    assert "cannot be read" in told


CHECKPOINT_FILES = (
    "adapter_config.json", "adapter_model.safetensors", "digests.json", "optimizer.pt", "rng_state.pth", "scheduler.pt",
    "tokenizer.json", "trainer_state.json", "training_args.bin",
)  # fmt: skip


@pytest.fixture(scope="module")
def stopped(whole, tmp_path_factory):
    """The aligned run with checkpoints of step 2 and 4, before its end."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    shutil.copytree(whole / "logo", run)
    unfinish(run)
    return run


def test_the_files_of_a_checkpoint_are_those_that_are_damaged_here(stopped):
    found = {path.name for path in (stopped / "checkpoint-4").iterdir()}
    assert set(CHECKPOINT_FILES) <= found


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_an_aligned_checkpoint_is_seen(name, damage, stopped, tmp_path):
    from minilib.trainers import last_checkpoint, remove_unfinished_checkpoints

    shutil.copytree(stopped, tmp_path / "run")
    DAMAGES[damage](tmp_path / "run" / "checkpoint-4" / name)
    if (name, damage) == ("digests.json", "missing"):  # all that training needs is there, as in a plain checkpoint
        assert last_checkpoint(tmp_path / "run").endswith("checkpoint-4")
        return
    assert last_checkpoint(tmp_path / "run").endswith("checkpoint-2")
    (told,) = remove_unfinished_checkpoints(tmp_path / "run")
    assert "checkpoint-4 is not whole (" in told
    assert told.endswith("the run goes on from checkpoint-2.")


@pytest.mark.parametrize("damage", DAMAGES)
def test_logo_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(
    damage, stopped, whole, logo, tmp_path, capfd
):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    line = [*logo, "--output", run]
    DAMAGES[damage](run / "checkpoint-4" / "optimizer.pt")
    minilib(*line)
    told = [text for text in capfd.readouterr().err.replace("\r", "\n").splitlines() if text.startswith("minilib: ")]
    assert told == [
        f"minilib: {run / 'checkpoint-4'} is not whole (optimizer.pt is missing or damaged): the run goes on from "
        "checkpoint-2."
    ]
    assert same_end(run, whole / "logo")


def test_without_one_whole_checkpoint_logo_refuses(stopped, logo, tmp_path, capfd):
    shutil.copytree(stopped, tmp_path / "run")
    for step in (2, 4):
        flip(tmp_path / "run" / f"checkpoint-{step}" / "adapter_model.safetensors")
    code, (told,) = ended(capfd, *logo, "--output", tmp_path / "run")
    assert code == 2
    assert "no checkpoint in" in told
    assert told.endswith("delete them to train anew.")
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 2  # nothing is deleted for the user


def test_records_that_are_damaged_are_told(whole, logo, tmp_path, capfd):
    shutil.copytree(whole / "logo", tmp_path / "run")
    cut(tmp_path / "run" / "records.json")
    code, (told,) = ended(capfd, *logo, "--output", tmp_path / "run")
    assert code == 2
    assert "records.json is damaged: delete it" in told


# One folder, one run


def test_a_folder_belongs_to_one_process_and_a_killed_one_leaves_no_lock(tmp_path, capfd):
    script = (
        "import sys, time; from pathlib import Path; from minilib.cli import run_folder\n"
        "with run_folder.opened(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    code, (told,) = ended(capfd, *CLIP, "--output", tmp_path / "run")
    assert code == 2
    assert f"is in use by another run (process {process.pid}): wait for its end, or choose another output." in told
    process.kill()
    process.wait()
    minilib(*CLIP, "--output", tmp_path / "run")
    assert clip_weights(tmp_path / "run")


@pytest.mark.parametrize(("command", "other"), [("clip", "logo"), ("logo", "clip")])
def test_a_folder_belongs_to_one_kind_of_run(command, other, whole, logo, capfd):
    run = whole / other
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, (told,) = ended(capfd, *(CLIP if command == "clip" else logo), "--output", run)
    assert code == 2
    assert f"is of a `{other}` run and this is `{command}`: choose another output." in told
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


OTHER = ("steps 7", "dim 9", "lr 0.1", "loss siglip", "warmup 3", "pairs 33", "batch_size 8", "micro_batch_size 4")


@pytest.mark.parametrize("flag", [*(f"--{flag}" for flag in OTHER), "--frozen text", "--seed 4", "--data digits"])
def test_every_setting_of_clip_is_compared(flag, whole, capfd):
    code, (told,) = ended(capfd, *CLIP, "--output", whole / "clip", *flag.split())
    assert code == 2
    name = flag.split()[0].removeprefix("--")
    assert f"was begun with {name}=" in told


def test_clip_does_not_go_on_with_other_pictures_or_captions_of_equal_number(tmp_path, capfd):
    from PIL import Image

    def write(colours, captions):
        for k, colour in enumerate(colours):
            Image.new("RGB", (32, 32), colour).save(tmp_path / f"{k}.png")
        rows = [{"image": f"{k}.png", "caption": caption} for k, caption in enumerate(captions)]
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    colours, captions = ["red", "green", "blue", "white"], ["a red", "a green", "a blue", "a white"]
    line = f"clip --data {tmp_path / 'data.jsonl'} --batch_size 4 --steps 2 --dim 8 --output {tmp_path / 'run'}".split()
    write(colours, captions)
    minilib(*line)
    minilib(*line)
    for other in ((["red", "green", "black", "white"], captions), (colours, ["a green", "a red", "a blue", "a white"])):
        write(*other)
        code, (told,) = ended(capfd, *line)
        assert code == 2
        assert "data_sha256" in told
    write(colours, captions)
    minilib(*line)


def test_a_run_may_be_given_again_by_its_own_config(tmp_path, capfd):
    minilib(
        "clip", "--output", tmp_path, "--pairs", 32, "--batch-size", 16, "--steps", 1, "--frozen", "image", "--dim", 8
    )
    first = clip_weights(tmp_path)
    minilib("clip", "--config", tmp_path / "config.yaml", "--output", tmp_path / "again")
    again = clip_weights(tmp_path / "again")
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_ranks_are_told_to_start_their_launcher_again(tmp_path, monkeypatch):
    assert run_folder.go_on(tmp_path, "clip") == "`python -m minilib clip` once more"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_folder.go_on(tmp_path, "clip") == "command, its launcher included, once more"
