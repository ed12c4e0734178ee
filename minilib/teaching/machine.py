"""Three lines on the machine that this runs on, for `doctor` and for the tour's report."""

import os
import platform

import psutil
import torch


def machine_lines() -> list[str]:
    """Cores and memory; Python, torch and its threads; the GPU."""
    memory = psutil.virtual_memory()
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none that torch can use"
    return [
        f"machine   {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{memory.total / 1e9:.0f} GB memory ({memory.available / 1e9:.0f} GB free)",
        f"python    {platform.python_version()}, torch {torch.__version__}, threads: {torch.get_num_threads()}",
        f"gpu       {gpu}",
    ]
