"""The model card: what the model is made of, how it was trained, what it does, and code that runs it.

What it says is a record, [`CardFacts`], that is kept beside the model: the card is written again for another place.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..display import printable
from ..errors import UserError, one_line
from ..secrets import redacted
from .loading import Loading
from .snippet import Reading, snippet


CARD_NAME = "README.md"
RECORD_NAME = "_card.json"
"""Of [`CardFacts`], in `output_dir`. Uploads leave out names with this first letter."""

LOCAL_DATA = "rows that are not on the Hub"
"""Instead of the path of training data."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

_PAPERS = {"PPO": "1707.06347", "A2C": "1602.01783", "TRPO": "1502.05477"}
"""Where methods are from, besides the one whose paper the facts name."""

_CITATION_OF_TRL = """\
@misc{vonwerra2020trl,
    title        = {{TRL: Transformer Reinforcement Learning}},
    author       = {Leandro von Werra and Younes Belkada and Lewis Tunstall and Edward Beeching and Tristan Thrush and
                    Nathan Lambert and Shengyi Huang and Kashif Rasul and Quentin Gallou{\\'e}dec},
    year         = 2020,
    url          = {https://github.com/huggingface/trl}
}"""

_LONGEST_TEXT = 400
"""Characters of a prompt or a completion in the table of samples."""


@dataclass(frozen=True)
class CardFacts:
    """What a card says. Nothing in it is a path of the machine that trained.

    Attributes:
        model_name (`str`): its title.
        method (`str`): NLPO, PPO, A2C or TRPO.
        paper (`Mapping[str, str]`): `title`, `id` and `citation` of NLPO's.
        tags (`Sequence[str]`)
        versions (`Mapping[str, str]`): of packages.
        base_model (`str`, *optional*): id on the Hub of the model that the run started from; None: it is not there.
        adapter_base (`str`, *optional*): id on the Hub of an adapter's base where that was trained by the same run.
        dataset_name (`str`, *optional*): id on the Hub of the training data.
        data (`str`, *optional*): in words, what the training data is where it is not on the Hub.
        task (`str`, *optional*): name of the task.
        task_summary (`str`, *optional*): what is to be done.
        reading ([`Reading`])
        settings (`Mapping`): of reinforcement, by their names.
        supervised (`Mapping`, *optional*): settings of a supervised stage before it; None: there was none.
        num_updates (`int`), num_completions (`int`): that it was reinforced with.
        rewards (`Sequence[tuple[str, float]]`): names and weights of the reward functions.
        results (`Mapping`): numbers on the test split, by stage and column; empty: it is not evaluated.
        better (`Mapping`): of each column, `"higher"`, `"lower"` or None.
        split (`str`), num_rows (`int`): which split that was.
        samples (`Sequence[Mapping]`): a few rows: `prompt`, `before` and `after`.
        before (`str`, *optional*): the stage before reinforcement.
        picture (`str`, *optional*): file of the learning curve, beside the card.
        recipe (`str`, *optional*): file of the recipe, beside the card.
        run_url (`str`, *optional*): of the run at Weights & Biases.
    """

    model_name: str
    method: str
    paper: Mapping[str, str]
    tags: Sequence[str]
    versions: Mapping[str, str]
    base_model: str | None = None
    adapter_base: str | None = None
    dataset_name: str | None = None
    data: str | None = None
    task: str | None = None
    task_summary: str | None = None
    reading: Reading = field(default_factory=Reading)
    settings: Mapping[str, Any] = field(default_factory=dict)
    supervised: Mapping[str, Any] | None = None
    num_updates: int = 0
    num_completions: int = 0
    rewards: Sequence[tuple[str, float]] = ()
    results: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    better: Mapping[str, str | None] = field(default_factory=dict)
    split: str = "test"
    num_rows: int = 0
    samples: Sequence[Mapping[str, str]] = ()
    before: str | None = None
    picture: str | None = None
    recipe: str | None = None
    run_url: str | None = None

    def as_json(self) -> str:
        """The record as text."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False, default=str) + "\n"

    @classmethod
    def read(cls, folder: Path) -> CardFacts:
        """The record in a folder.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = folder / RECORD_NAME
        again = "train it again, or take the folder of another run"
        if not path.is_file():
            raise UserError(f"{folder} has no {RECORD_NAME}, in which a run notes what its card says: {again}.")
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**kept, "reading": Reading(**kept["reading"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({one_line(error, 200)}): {again}.") from None


def hub_id(name: Any) -> str | None:
    """A name that can be the id of something on the Hub, or None: a file or folder here is none."""
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or os.path.exists(name):
        return None
    return name


def escaped(text: Any) -> str:
    """A text that Markdown and HTML show as it is, in one line."""
    line = " ".join(str(redacted(text)).split())
    return re.sub(r"([\\`*_{}\[\]()#+!|~$-])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;"))


def in_cell(text: str) -> str:
    """A model's text, truncated, for a cell of a table: nothing in it becomes a link, a picture or an emoji either."""
    is_long = len(text) > _LONGEST_TEXT
    shown = escaped(printable(" ".join(text[:_LONGEST_TEXT].split())) + ("…" if is_long else ""))
    # What GitHub and the Hub make links and emoji of, besides Markdown's own.
    shown = shown.replace(":", "&#58;").replace("@", "&#64;")
    shown = re.sub(r"(www)\.", r"\1&#46;", shown, flags=re.IGNORECASE)
    return shown or "*(nothing)*"


def model_card(facts: CardFacts, loading: Loading) -> str:
    """The card as Markdown, with the Hub's metadata in front.

    Args:
        facts ([`CardFacts`])
        loading ([`Loading`]): how the model is loaded from where the card is going to be.
    """
    sections = (_introduction, _use, _training, _results, _samples, _further, _versions, _citations)
    body = [line for section in sections for line in section(facts, loading)]
    return "\n".join(["---", _metadata(facts, loading).to_yaml(), "---", "", *body])


def base_card(adapter: str, loading: Loading) -> str:
    """The card of an adapter's base model that the adapter's own run trained.

    Args:
        adapter (`str`): the adapter's repository.
        loading ([`Loading`]): how the base is loaded from where the card is going to be.
    """
    metadata = ModelCardData(library_name="transformers", tags=["generated_from_trainer", "trl", "trl-nlpo"])
    body = (
        f"# {escaped(loading.name)}", "",
        f"The base of the adapter {_model_link(adapter)}, whose card says what it is for, on what it was trained and "
        "what both of them do: this is the model after the supervised stage of that run, before it was reinforced.",
        "Loading the adapter loads it as well. By itself:", "", "```python", *loading.imports,
        "from transformers import AutoTokenizer", "", f"model = {loading.call}",
        f"tokenizer = {loading.tokenizer_call}", "```", "",
    )  # fmt: skip
    return "\n".join(["---", metadata.to_yaml(), "---", "", *body])


def _metadata(facts: CardFacts, loading: Loading) -> ModelCardData:
    # The Hub refuses a card whose metadata names data or models that cannot exist there.
    return ModelCardData(
        base_model=facts.adapter_base or facts.base_model,
        datasets=facts.dataset_name,
        eval_results=list(_eval_results(facts, loading)) or None,
        library_name="peft" if loading.is_adapter else "transformers",
        model_name=" ".join(facts.model_name.split()),
        tags=sorted({"generated_from_trainer", *facts.tags}),
    )


def _task_type(loading: Loading) -> str:
    return "text2text-generation" if loading.is_encoder_decoder else "text-generation"


def _eval_results(facts: CardFacts, loading: Loading) -> Iterator[EvalResult]:
    """What the model itself did, as the last stage: a number for each column."""
    *_, last = [{}, *facts.results.values()]
    for column, value in last.items():
        yield EvalResult(
            task_type=_task_type(loading),
            dataset_type=facts.dataset_name or facts.task or "private",
            dataset_name=facts.task or facts.dataset_name or "data that is not on the Hub",
            dataset_split=facts.split,
            metric_type=column,
            metric_name=_heading(column),
            metric_value=float(f"{value:.6g}"),
        )


def _introduction(facts: CardFacts, loading: Loading) -> Iterator[str]:
    kind = "an encoder-decoder language model" if loading.is_encoder_decoder else "a causal language model"
    what = f"a PEFT adapter of {kind}" if loading.is_adapter else kind
    base = "" if facts.base_model is None else f" that started from {_model_link(facts.base_model)}"
    first = "" if facts.supervised is None else " trained on references first (supervised) and then"
    number = facts.paper["id"] if facts.method not in _PAPERS else _PAPERS[facts.method]
    method = f"[{facts.method}](https://huggingface.co/papers/{number})"
    yield from (f"# {escaped(facts.model_name)}", "")
    yield f"This is {what}{base}. It was{first} reinforced with {method} by trl-nlpo."
    if facts.adapter_base is not None:
        yield f"The adapter's base is the model after the supervised stage, {_model_link(facts.adapter_base)}."
    yield ""
    if facts.task is not None:
        yield f"- Task: {escaped(facts.task)}" + (f" ({escaped(facts.task_summary)})" if facts.task_summary else "")
    if facts.dataset_name is not None:
        shown = escaped(facts.dataset_name)
        yield f"- Data: the prompts of [{shown}](https://huggingface.co/datasets/{facts.dataset_name})"
    elif facts.data is not None:
        yield f"- Data: {escaped(facts.data)}"
    if facts.run_url:
        yield f"- [The run at Weights & Biases]({facts.run_url})"
    if facts.task or facts.dataset_name or facts.data or facts.run_url:
        yield ""


def _model_link(name: str) -> str:
    return f"[{escaped(name)}](https://huggingface.co/{name})"


def _use(facts: CardFacts, loading: Loading) -> Iterator[str]:
    yield from ("## Quick start", "", "```python", *snippet(loading, facts.reading), "```", "")


def _training(facts: CardFacts, loading: Loading) -> Iterator[str]:
    if not facts.settings:
        return
    yield from ("## Training", "")
    if facts.num_updates:
        yield f"{facts.num_updates:,} updates with {facts.num_completions:,} completions in all. Settings:"
        yield ""
    yield from _table(("setting", "value"), [(f"`{name}`", _value(value)) for name, value in facts.settings.items()])
    if facts.supervised is not None:
        yield from ("The supervised stage before it:", "")
        rows = [(f"`{name}`", _value(value)) for name, value in facts.supervised.items()]
        yield from _table(("setting", "value"), rows)
    if facts.rewards:
        yield from ("The reward of a completion is the weighted sum of:", "")
        yield from _table(("reward", "weight"), [(escaped(name), f"{weight:g}") for name, weight in facts.rewards])


def _results(facts: CardFacts, loading: Loading) -> Iterator[str]:
    if not facts.results:
        return
    yield from ("## Results", "", f"On {facts.num_rows:,} prompts of the {escaped(facts.split)} split:", "")
    columns = list(dict.fromkeys(column for numbers in facts.results.values() for column in numbers))
    arrows = {"higher": " ↑", "lower": " ↓"}
    rows = [
        (
            escaped(_heading(column)) + arrows.get(facts.better.get(column) or "", ""),
            *(f"{numbers[column]:.4g}" if column in numbers else "" for numbers in facts.results.values()),
        )
        for column in columns
    ]
    yield from _table(("", *map(escaped, facts.results)), rows)
    yield from ("↑: higher is better; ↓: lower is better.", "")
    if facts.picture is not None:
        yield from (f"![Learning curve]({facts.picture})", "")


def _heading(column: str) -> str:
    return column.removeprefix("rewards/").removesuffix("/mean").removeprefix("completions/")


def _samples(facts: CardFacts, loading: Loading) -> Iterator[str]:
    if not facts.samples or facts.before is None:
        return
    yield from ("## Samples", "", "The first prompts of the same split, not chosen; long texts are truncated.", "")
    rows = [tuple(in_cell(sample[key]) for key in ("prompt", "before", "after")) for sample in facts.samples]
    yield from _table(("prompt", f"before: {escaped(facts.before)}", f"after: {facts.method}"), rows)


def _further(facts: CardFacts, loading: Loading) -> Iterator[str]:
    yield from ("## Training it further", "")
    if facts.recipe is None or not facts.results:
        yield from (
            "The value function that was trained with it is in `value_model/`: the folder that holds both is the "
            "`value_model` of `NLPOConfig`, so that a new run starts from it.",
            "",
        )
        return
    folder = loading.name if hub_id(loading.name) is None else loading.name.split("/")[-1]
    lines = []
    if folder != loading.name:
        words = ["hf", "download", loading.name, "--local-dir", folder]
        lines.append(shlex.join(words + (["--revision", loading.revision] if loading.revision else [])))
    words = ["trl-nlpo", "run", f"{folder}/{facts.recipe}", "--algorithm", facts.method.lower()]
    words += ["--model_name_or_path", folder, "--value_model", folder, "--output_dir", f"{folder}-further"]
    words += ["--push_to_hub", "false"] + (["--use_peft", "false"] if loading.is_adapter else [])
    lines.append(shlex.join(words))
    yield from (
        f"`{facts.recipe}` has all settings, and `value_model/` the value function that was trained with the model. "
        "Both go on in a new run:",
        "",
        "```bash",
        *lines,
        "```",
        "",
    )
    if facts.data == LOCAL_DATA:
        yield from ("Where the data is elsewhere than in the recipe, add `--dataset_name`.", "")


def _versions(facts: CardFacts, loading: Loading) -> Iterator[str]:
    yield from ("## Versions", "", *(f"- {package} {version}" for package, version in facts.versions.items()), "")


def _citations(facts: CardFacts, loading: Loading) -> Iterator[str]:
    yield from ("## Citation", "", "```bibtex", facts.paper["citation"].strip(), "", _CITATION_OF_TRL, "```", "")


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (headings, ["---"] * len(headings), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return escaped(text)
