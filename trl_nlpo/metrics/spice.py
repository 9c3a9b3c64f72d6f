"""SPICE: what a text says, as objects, attributes and relations, against its references (Anderson et al. 2016)."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..naming import import_attribute
from .base import Metric, as_list


SceneGraph = frozenset[tuple[str, ...]]


class Spice(Metric):
    """F1 of a text's scene graph against the union of its references' scene graphs.

    A scene graph is a set of tuples: ("dog",), ("dog", "brown"), ("dog", "chase", "cat"). With a `parser`, tuples
    match when they are equal, so let it give base forms in lower case. With `jars`, the original program parses and
    matches, WordNet synonyms included.

    Args:
        parser (`Callable` or `str`, *optional*): from a text to tuples of strings, or its dotted path.
        jars (`str`, *optional*): folder with `spice-1.0.jar` and its `lib` with Stanford CoreNLP 3.6.0, as
            `pycocoevalcap/spice` is once the CoreNLP jars have been put into it. Needs Java; every call starts it.
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        memory (`str`, defaults to `"8G"`): Java's heap.

    A score is in [0, 1]: 0 for an empty text and where either side has no tuple, None for a row without references. A
    table has the mean over the rows.

    Raises:
        UserError: neither or both of `parser` and `jars`, a file is missing, Java fails, or a parser's answer is not
            tuples of strings.

    Example:
        >>> Spice(lambda text: [(word,) for word in text.split()]).score(["a dog"], references=["a cat"])
        [0.5]
    """

    name = "spice"
    better = "higher"

    def __init__(
        self,
        parser: Callable[[str], Iterable[Sequence[str]]] | str | None = None,
        jars: str | None = None,
        column: str = "references",
        memory: str = "8G",
    ):
        if (parser is None) == (jars is None):
            raise UserError(
                "metric 'spice' needs either `parser`, the dotted path of a function from a text to tuples of "
                "strings, or `jars`, a folder with spice-1.0.jar and, in lib, the jars of Stanford CoreNLP 3.6.0 "
                "(and Java)."
            )
        self.columns, self.parser, self.memory = (column,), parser, memory
        self.jars = None if jars is None else _check_jars(Path(jars))
        _ = self._parse

    @cached_property
    def _parse(self) -> Callable[[str], Iterable[Sequence[str]]] | None:
        return import_attribute(self.parser, "metric 'spice'") if isinstance(self.parser, str) else self.parser

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        rows = [as_list(row) for row in columns[self.columns[0]]]
        pairs = [(text, row) for text, row in zip(predictions, rows, strict=True) if row and text.strip()]
        scores = iter(self._score_with_jars(pairs) if self.jars else [self._f1(*pair) for pair in pairs])
        return [
            None if not row else next(scores) if text.strip() else 0.0
            for text, row in zip(predictions, rows, strict=True)
        ]

    def _f1(self, prediction: str, references: list[str]) -> float:
        said = self._graph(prediction)
        wanted: SceneGraph = frozenset().union(*map(self._graph, references))
        # 2PR / (P + R) with P = shared / said and R = shared / wanted.
        return 2 * len(said & wanted) / (len(said) + len(wanted)) if said and wanted else 0.0

    def _graph(self, text: str) -> SceneGraph:
        assert self._parse is not None
        tuples: list[Any] = [tuple(item) if isinstance(item, (tuple, list)) else item for item in self._parse(text)]
        for item in tuples:
            if not isinstance(item, tuple) or not item or not all(isinstance(part, str) for part in item):
                raise UserError(f"metric 'spice': the parser gave {item!r:.60}, not a tuple of strings.")
        return frozenset(tuples)

    def _score_with_jars(self, pairs: list[tuple[str, list[str]]]) -> list[float]:
        assert self.jars is not None
        if not pairs:
            return []
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder, "in.json"), Path(folder, "out.json")
            rows = [{"image_id": index, "test": text, "refs": row} for index, (text, row) in enumerate(pairs)]
            given.write_text(json.dumps(rows), encoding="utf-8")
            command = ["java", f"-Xmx{self.memory}", "-jar", "spice-1.0.jar", str(given), "-out", str(made), "-silent"]
            ended = subprocess.run(command, cwd=self.jars, capture_output=True, text=True, check=False)
            if ended.returncode or not made.exists():
                reason = " ".join(ended.stderr.split())[-300:]
                raise UserError(f"metric 'spice': java ended with exit code {ended.returncode}: {reason}")
            results = json.loads(made.read_text(encoding="utf-8"))
        by_row = {result["image_id"]: float(result["scores"]["All"]["f"]) for result in results}
        # The program says NaN where neither side has a tuple.
        return [0.0 if math.isnan(by_row[index]) else by_row[index] for index in range(len(pairs))]


def _check_jars(folder: Path) -> Path:
    if not (folder / "spice-1.0.jar").is_file():
        raise UserError(f"metric 'spice': there is no spice-1.0.jar in {folder}.")
    for jar in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        if not (folder / "lib" / jar).is_file():
            raise UserError(
                f"metric 'spice': there is no {jar} in {folder / 'lib'}: put the jars of Stanford CoreNLP 3.6.0 there "
                "(stanfordnlp.github.io/CoreNLP, release of 2015-12-09)."
            )
    if shutil.which("java") is None:
        raise UserError("metric 'spice' needs Java to run spice-1.0.jar: there is no `java` on the path.")
    return folder.resolve()
