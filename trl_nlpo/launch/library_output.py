"""What the libraries print by themselves, and how to be without it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Inside, transformers and datasets show no progress bars."""
    import datasets
    from transformers.utils import logging

    shows_bars, shows_bars_of_datasets = logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shows_bars:
            logging.enable_progress_bar()
        if shows_bars_of_datasets:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def without_library_output() -> Iterator[None]:
    """Inside, only our own lines and panel are printed: no bars for tokenizing, no advice from transformers."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)
