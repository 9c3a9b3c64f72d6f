"""What the libraries print by themselves, and how to be without it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def without_library_output() -> Iterator[None]:
    """Inside, only our own lines and bars are printed: no bars for tokenizing, no advice from transformers."""
    import datasets
    from transformers.utils import logging

    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    shows_bars_of_datasets = not datasets.are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()
        if shows_bars_of_datasets:
            datasets.enable_progress_bars()
