"""One torch thread for every test: two threads fight on two cores, and sums keep their order; Triton interpreted."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# Without a GPU the kernels run in Triton's interpreter, which must be told before Triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# A script that starts the tests in the background lets them ignore Ctrl-C, and nohup a hang-up: some tests send these.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
# Timings of a shared machine must not fail a property, and the same examples must be drawn everywhere.
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("steady")

# The files that take longest, longest first (`pytest --durations=0`). With `--dist loadfile` a file runs on one worker,
# and xdist would start files with many tests first: a long file of few tests would come last and leave a core idle.
LONGEST = (
    "tests/bench/test_the_alignment_experiment_is_honest.py",
    "tests/teaching/test_the_tour_ends_with_a_report.py",
    "tests/trainers/test_accelerate_configurations_equal_one_process.py",
    "tests/cli/test_commands.py",
    "tests/models/test_the_tiny_model_is_honest.py",
    "tests/trainers/test_logo_training_resumes.py",
    "tests/kernels/test_kernels_compile_for_a_gpu.py",
    "tests/trainers/test_logo_training_on_two_ranks_equals_one.py",
    "tests/models/test_real_models_are_fetched_once.py",
    "tests/faults/test_killed_runs_resume_bit_equal.py",
    "tests/test_importing_is_quick.py",
    "tests/cli/test_the_world_interrupts_a_run.py",
    "tests/distributed/test_a_lost_rank_stops_the_others.py",
    "tests/teaching/test_progress_of_a_workshop_is_told_right.py",
    "tests/cli/test_no_code_of_a_model_runs.py",
    "tests/cli/test_logo_commands.py",
    "tests/test_pieces_fit_other_software.py",
    "tests/bench/test_bench_is_honest.py",
)


def pytest_configure(config):
    """Files are handed out in the order of the list above, not by their number of tests (xdist may be absent)."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The longest files first; the others keep their order, and so do the tests of a file."""
    place = {file: at for at, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.split("::")[0], len(place)))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
