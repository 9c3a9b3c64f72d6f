"""What each metric is, in lines: `trl-nlpo metrics`, and `trl-nlpo rewards` for what is a metric."""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..display import in_yamls_words
from ..errors import UserError
from ..naming import did_you_mean
from .registry import fixed_options, metric_class, metric_names


_EXTRA = "trl-nlpo[metrics]"
_MODEL = "a model of your choice"


@dataclass(frozen=True)
class Facts:
    """What a metric's class does not say of itself.

    Attributes:
        meaning (`str`): one line.
        scale (`tuple[float, float]`): least and greatest score; infinite where there is no limit.
        needs (`str`): what besides the package itself; empty for nothing.
    """

    meaning: str
    scale: tuple[float, float] = (0.0, 1.0)
    needs: str = _EXTRA


FACTS: dict[str, Facts] = {
    "bertscore": Facts("how well tokens match a reference's in a model's embedding space (F1)", (-1, 1), _MODEL),
    "bleu": Facts("n-grams shared with the references, with a penalty for short texts"),
    "bleu3": Facts("BLEU up to 3-grams"),
    "bleu4": Facts("BLEU up to 4-grams"),
    "bleurt": Facts("rating of text and reference by a regression model", (-math.inf, math.inf), _MODEL),
    "chrf": Facts("F2 of shared character n-grams up to 6", (0, 100)),
    "chrf++": Facts("chrF with words and pairs of words", (0, 100)),
    "cider": Facts("cosine of tf-idf weighed n-gram counts (CIDEr-D)", (0, 10)),
    "classifier": Facts("probability that a classifier gives to a label, such as positive", needs=_MODEL),
    "concept_coverage": Facts("share of a row's concepts that the text has", needs=""),
    "distinct1": Facts("different words / all words"),
    "distinct2": Facts("different pairs of words / all pairs"),
    "diversity": Facts("all metrics of naturalness at once in a table; of a text distinct2"),
    "entropy1": Facts("Shannon entropy of the words, in bits", (0, math.inf)),
    "entropy2": Facts("Shannon entropy of pairs of words, in bits", (0, math.inf)),
    "intent": Facts("whether a classifier's intent for a reply is the row's", needs=_MODEL),
    "mean_length": Facts("words in a text, on average", (0, math.inf)),
    "meteor": Facts(
        "words matched as they are, by stem and by synonym (English)", needs=f"{_EXTRA}; WordNet (docs/metrics.md)"
    ),
    "msttr": Facts("mean share of different words in windows of 100 words"),
    "parent": Facts("n-grams shared with the references and with the table that the text describes"),
    "perplexity": Facts("perplexity of the text under a model that does not train", (1, math.inf), _MODEL),
    "preference": Facts("how good a completion is for its prompt, by a model of preferences", needs=_MODEL),
    "rouge": Facts("ROUGE-1, -2, -L and -Lsum at once in a table; of a text ROUGE-L"),
    "rouge1": Facts("F-measure of shared words"),
    "rouge2": Facts("F-measure of shared pairs of words"),
    "rougeL": Facts("F-measure of the longest common subsequence of words"),
    "rougeLsum": Facts("ROUGE-L with lines as sentences"),
    "sacrebleu": Facts("BLEU as the package sacrebleu reports it", (0, 100)),
    "spice": Facts("F1 of objects, attributes and relations", needs="a parser, or Java and jars (docs/metrics.md)"),
    "summac": Facts("how far the source supports the text, by a model of inference", needs=f"{_MODEL}; {_EXTRA}"),
    "ter": Facts("edits to the nearest reference per 100 words", (0, math.inf)),
    "unique1": Facts("words that occur once in all texts", (0, math.inf)),
    "unique2": Facts("pairs of words that occur once in all texts", (0, math.inf)),
}
"""Name -> what it is. The direction is the class's own, and so are the options."""


ANYTHING_ELSE = (
    "A metric may also be a subclass of trl_nlpo.metrics.base.Metric of yours: my_module.MyMetric. {name: bleu, as: "
    "my_bleu, lowercase: true} has a column's name and options. docs/metrics.md has definitions. What needs "
    'trl-nlpo[metrics] needs `pip install "trl-nlpo[metrics]"`.'
)


@dataclass(frozen=True)
class Entry:
    """What can be named in a recipe.

    Attributes:
        name (`str`), meaning (`str`)
        facts (`tuple[str, ...]`): sentences on range, direction and needs.
        options (`dict[str, str]`): name and default of each option, and what it means.
    """

    name: str
    meaning: str
    facts: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)


def metric_entries() -> list[Entry]:
    """Every metric, with the range and direction of its score, sorted by name."""
    return [metric_entry(name, FACTS[name].scale, metric_class(name).better) for name in metric_names()]


def metric_entry(name: str, scale: tuple[float, float], better: str | None) -> Entry:
    """A metric with a range and direction: those of its score, or of the reward that is made of it."""
    facts, cls = FACTS[name], metric_class(name)
    way = f"{better} is better" if better else "neither end is better"
    needs = (f"Needs {facts.needs}.",) if facts.needs else ()
    return Entry(name, facts.meaning, (f"{in_words(scale)}; {way}.", *needs), options_of(cls, fixed_options(name)))


def in_words(scale: tuple[float, float]) -> str:
    """A range: `"0 to 1"`, `"from 1"`, `"up to 1"`."""
    least, most = scale
    if math.isinf(least) and math.isinf(most):
        return "no fixed range"
    if math.isinf(most):
        return f"from {least:g}"
    return f"up to {most:g}" if math.isinf(least) else f"{least:g} to {most:g}"


def options_of(cls: type, fixed: dict[str, Any]) -> dict[str, str]:
    """The options of a class, each as `name: default`, with what its docstring says of it."""
    said = _arguments_of(inspect.getdoc(cls) or "")
    return {
        f"{name}: {_shown(parameter.default)}": said.get(name, "")
        for name, parameter in inspect.signature(cls).parameters.items()
        if name not in fixed and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def entries_named(what: str, entries: Sequence[Entry], words: Sequence[str]) -> list[Entry]:
    """The entries that have one of the words in their name, upper and lower case alike; all for no words.

    Args:
        what (`str`): what they are, for messages: `"metric"`.

    Raises:
        UserError: none has one of them; the message has the nearest name.
    """
    for word in words:
        if not any(word.lower() in entry.name.lower() for entry in entries):
            hint = did_you_mean(word, [entry.name for entry in entries]) or "."
            raise UserError(f"no {what} has {word!r} in its name{hint} `trl-nlpo {what}s` lists all.")
    return [entry for entry in entries if not words or any(word.lower() in entry.name.lower() for word in words)]


def _shown(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "(needed)"
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return f"[{', '.join(map(str, default))}]" if isinstance(default, (list, tuple)) else str(default)


def _arguments_of(docstring: str) -> dict[str, str]:
    """What the section `Args:` of a docstring says of each argument."""
    _, _, section = docstring.partition("\nArgs:\n")
    found: dict[str, str] = {}
    # An entry begins at four spaces, goes on further in, and the section ends with what stands further out.
    section = re.split(r"\n(?=\S)", section)[0]
    for entry in re.split(r"^ {4}(?=\w)", section, flags=re.MULTILINE)[1:]:
        begin = _ARGUMENTS.match(" ".join(entry.split()))
        if begin:
            # References to code and back-ticks are for those who read the code.
            text = in_yamls_words(re.sub(r"\[`(.*?)`\]|`", r"\1", begin["text"] or ""))
            found |= dict.fromkeys(re.findall(r"(?:^|, )(\w+)", _TYPE.sub("", begin["names"])), text)
    return found


_TYPE = re.compile(r" \([^()]*(?:\([^()]*\)[^()]*)*\)")
_ARGUMENTS = re.compile(rf"(?P<names>\w+(?:{_TYPE.pattern})?(?:, \w+(?:{_TYPE.pattern})?)*)(?:: (?P<text>.*))?$")
"""`names (types): what they are`, as a docstring has it."""


def entry_lines(entries: Sequence[Entry], width: int, explains: bool = False) -> Iterator[str]:
    """The lines of a list: names in one column, and beside them what they are.

    Args:
        entries (`Sequence[Entry]`)
        width (`int`): of the screen, in characters.
        explains (`bool`): each option in a line of its own with what it means, instead of all in one.
    """
    pad = max(len(entry.name) for entry in entries) + 2
    for entry in entries:
        paragraphs = [f"{entry.name:<{pad}}{entry.meaning}", " " * pad + " ".join(entry.facts)]
        if explains:
            paragraphs += [
                f"{' ' * pad}{option}{f'  {text}' if text else ''}" for option, text in entry.options.items()
            ]
        elif entry.options:
            paragraphs.append(f"{' ' * pad}Options: {', '.join(entry.options)}.")
        for number, paragraph in enumerate(paragraphs):
            indent = " " * (pad + 4 if explains and number > 1 else pad)
            yield from textwrap.wrap(
                paragraph, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
