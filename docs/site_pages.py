"""A hook of MkDocs: pages of the site that are no files under docs/, and links between them.

The README, the changelog and their like stay where GitHub shows them and become pages here; the reference is written
from the code.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from trl_nlpo.recipes.key_list import all_keys


ROOT = Path(__file__).parent.parent

PAGES = {
    "README.md": "project.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Documents outside docs/, and what they are called on the site."""

CLASSES = (
    "NLPOTrainer", "NLPOConfig", "records.PromptBatch", "records.Completions", "records.Rollout", "records.Scores",
    "records.Estimates", "records.UpdateStats", "functional.token_sets.TokenSets", "errors.UserError",
)  # fmt: skip
"""The public classes, from `trl_nlpo` down."""

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "reference/settings.md", content=settings()))
    files.append(File.generated(config, "reference/classes.md", content=classes()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links of a document in the repository as links of the site."""
    site = page.file.src_uri
    source = {page: path for path, page in PAGES.items()}.get(site, f"docs/{site}")
    fences = re.split(r"(^```.*?^```)", markdown, flags=re.MULTILINE | re.DOTALL)
    fences[::2] = [
        _LINK.sub(lambda found: link(found, posixpath.dirname(source), posixpath.dirname(site)), text)
        for text in fences[::2]
    ]
    return "".join(fences)


def link(found: re.Match[str], source_folder: str, site_folder: str) -> str:
    """One link, as the site has it; what is no page is left as its text.

    Args:
        found: `[text](target)`, with an exclamation mark before a picture.
        source_folder, site_folder (`str`): of the document in the repository and on the site.
    """
    picture, text, target = found.groups()
    path, mark, anchor = target.partition("#")
    if "://" in target or not path:
        return found.group(0)
    place = posixpath.normpath(posixpath.join(source_folder, path))
    if (ROOT / place).is_dir():
        place += "/README.md"
    page = PAGES.get(place, place.removeprefix("docs/") if place.startswith("docs/") else None)
    if page is None or (not picture and not page.endswith(".md")):
        return text if (ROOT / place).exists() else found.group(0)
    return f"{picture}[{text}]({posixpath.relpath(page, site_folder or '.')}{mark}{anchor})"


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings write names of classes in brackets, which here are no links."""
    html = re.sub(r"\[(<code>[^<]+</code>)\]", r"\1", html)
    return re.sub(r"<code>\[`~?([^`<]+)`\]", r"<code>\1", html)


def settings() -> str:
    """A table per theme of what `trl-nlpo keys` says."""
    lines = ["# Settings", "", "Keys of a recipe; those of training are the fields of `NLPOConfig` too."]
    theme = ""
    for key in all_keys():
        if key.theme != theme:
            theme = key.theme
            lines += ["", f"## {theme}", "", "| key | default | values | off | meaning |", "|---|---|---|---|---|"]
        cells = [f"`{key.name}`", f"`{key.default}`", key.values, f"`{key.off}`" if key.off else "", key.help]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def classes() -> str:
    """A directive of mkdocstrings per class."""
    return "\n\n".join(["# Classes", *(f"::: trl_nlpo.{name}" for name in CLASSES)]) + "\n"
