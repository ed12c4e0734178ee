"""Small trainings in peace: one thread of the CPU, and libraries that say nothing but errors.

On steps of a toy a second thread costs more than it gives, and transformers tells of every weight that it loads.

Proven in tests/test_the_tour_ends_with_a_report.py.
"""

import warnings
from contextlib import contextmanager

import torch


@contextmanager
def calm():
    """One thread, and libraries say nothing but errors; all as before afterwards."""
    from transformers.utils import logging

    threads, verbosity, bars = torch.get_num_threads(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that will be another
            yield
    finally:
        torch.set_num_threads(threads)
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
