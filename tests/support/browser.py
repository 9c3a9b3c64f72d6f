"""A real browser without a screen, for tests that click; skips where there is none."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """Chromium, driven by playwright; it asks for nothing by itself."""
    playwright = pytest.importorskip("playwright.sync_api", reason="a browser test needs playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("a browser test needs chromium")
    with playwright.sync_playwright() as driver:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        made = driver.chromium.launch(executable_path=chromium, args=quiet)
        yield made
        made.close()
