"""One torch thread for every test: two threads fight on two cores, and sums keep their order; Triton interpreted."""

import os

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
# Timings of a shared machine must not fail a property, and the same examples must be drawn everywhere.
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
