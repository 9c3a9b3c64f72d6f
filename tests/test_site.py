"""The site of the documents is built strictly; skipped where MkDocs is not installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent

pytest.importorskip("material")
pytest.importorskip("mkdocstrings")


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(folder, out):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_no_other_server(tmp_path):
    built = build(ROOT, tmp_path)
    assert built.returncode == 0, built.stderr[-3000:]
    project = (tmp_path / "project.html").read_text(encoding="utf-8")
    assert 'href="critic.html"' in project
    assert "mask_sync_steps" in (tmp_path / "reference" / "settings.html").read_text(encoding="utf-8")
    assert "collect_rollout" in (tmp_path / "reference" / "classes.html").read_text(encoding="utf-8")
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', text), page


@pytest.mark.slow
def test_a_broken_link_fails(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with open(tmp_path / "docs" / "masks.md", "a", encoding="utf-8") as file:
        file.write("\n[nowhere](not_there.md)\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert "not_there.md" in built.stderr


LINKS = {
    "a page beside": ("docs/a.md", "[x](critic.md#why)", "[x](critic.md#why)"),
    "a document outside": ("docs/a.md", "[x](../README.md#settings-of-nlpo)", "[x](project.md#settings-of-nlpo)"),
    "from a folder": ("docs/results/a.md", "[x](../tasks.md)", "[x](../tasks.md)"),
    "from outside": ("README.md", "[x](docs/results/README.md)", "[x](results/README.md)"),
    "a folder": ("README.md", "[x](benchmarks)", "[x](benchmarks.md)"),
    "code, which is no page": ("README.md", "[own loop](examples/own_loop.py)", "own loop"),
    "the web": ("README.md", "[x](https://example.org/a.md)", "[x](https://example.org/a.md)"),
    "nothing": ("docs/a.md", "[x](not_there.py)", "[x](not_there.py)"),
}


@pytest.mark.parametrize("case", list(LINKS))
def test_links_of_the_repository_become_links_of_the_site(pages, case):
    source, before, after = LINKS[case]
    site = pages.PAGES.get(source, source.removeprefix("docs/"))
    folders = (str(Path(source).parent), str(Path(site).parent))
    assert pages._LINK.sub(lambda found: pages.link(found, *folders), before) == after
