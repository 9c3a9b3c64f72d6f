"""The model card: what the model is made of, and code that loads and runs this kind of model."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCardData

from ..secrets import redacted
from .loading import Loading


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        model_name (`str`): its title.
        loading ([`Loading`]): of the model.
        base_model (`str`, *optional*): id on the Hub of the model that it was trained from.
        dataset_name (`str`, *optional*): of the training data.
        method (`str`): NLPO or PPO.
        paper (`Mapping[str, str]`): `title`, `id` and `citation` of the method's.
        tags (`Sequence[str]`)
        versions (`Mapping[str, str]`): of packages.
        has_template (`bool`): whether the tokenizer has a chat template.
        new_tokens (`int`): in a completion.
        run_url (`str`, *optional*): of the run at Weights & Biases.
    """

    model_name: str
    loading: Loading
    base_model: str | None
    dataset_name: str | None
    method: str
    paper: Mapping[str, str]
    tags: Sequence[str]
    versions: Mapping[str, str]
    has_template: bool = False
    new_tokens: int = 64
    run_url: str | None = None


def hub_id(name: Any) -> str | None:
    """A name that can be the id of something on the Hub, or None: a file or folder here is none."""
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or os.path.exists(name):
        return None
    return name


def escaped(text: str) -> str:
    """A text that Markdown and HTML show as it is, in one line."""
    line = " ".join(str(redacted(text)).split())
    return re.sub(r"([\\`*_{}\[\]()#+!|~$-])", r"\\\1", line.replace("&", "&amp;").replace("<", "&lt;"))


def model_card(facts: CardFacts) -> str:
    """The card as Markdown, with the Hub's metadata in front."""
    kind = "an encoder-decoder language model" if facts.loading.is_encoder_decoder else "a causal language model"
    what = f"a PEFT adapter of {kind}" if facts.loading.is_adapter else kind
    method = f"[{facts.method}](https://huggingface.co/papers/{facts.paper['id']})"
    lines = ["---", _metadata(facts).to_yaml(), "---", "", f"# {escaped(facts.model_name)}", ""]
    lines += [f"This is {what}{_trained_from(facts)}{_trained_on(facts)}. It was reinforced with {method}.", ""]
    lines += ["## Quick start", "", "```python", *_quick_start(facts), "```", ""]
    if facts.run_url:
        lines += [f"[The run at Weights & Biases]({facts.run_url})", ""]
    lines += ["## Versions", "", *(f"- {package} {version}" for package, version in facts.versions.items()), ""]
    lines += ["## Citation", "", "```bibtex", facts.paper["citation"].strip(), "```", ""]
    return "\n".join(lines)


def _metadata(facts: CardFacts) -> ModelCardData:
    # The Hub refuses a card whose metadata names data or models that cannot exist there.
    return ModelCardData(
        base_model=facts.base_model,
        datasets=hub_id(facts.dataset_name),
        library_name="peft" if facts.loading.is_adapter else "transformers",
        model_name=" ".join(facts.model_name.split()),
        tags=sorted({"generated_from_trainer", *facts.tags}),
    )


def _trained_from(facts: CardFacts) -> str:
    if facts.base_model is None:
        return ""
    of = "of" if facts.loading.is_adapter else "that started from"
    return f", {of} [{escaped(facts.base_model)}](https://huggingface.co/{facts.base_model})"


def _trained_on(facts: CardFacts) -> str:
    if not facts.dataset_name:
        return ""
    shown, name = escaped(facts.dataset_name), hub_id(facts.dataset_name)
    link = shown if name is None else f"[{shown}](https://huggingface.co/datasets/{name})"
    return f", trained on the prompts of {link}"


def _quick_start(facts: CardFacts) -> list[str]:
    prompt = 'prompt = "Write here what the model reads."'
    options = ""
    if facts.has_template:
        prompt = (
            'messages = [{"role": "user", "content": "Write here what the model reads."}]\n'
            "prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)"
        )
        options = ", add_special_tokens=False"
    lines = [*facts.loading.imports, "from transformers import AutoTokenizer", "", f"model = {facts.loading.call}"]
    lines += [f"tokenizer = {facts.loading.tokenizer_call}", *prompt.split("\n")]
    lines.append(f'inputs = tokenizer(prompt, return_tensors="pt"{options})')
    lines.append(
        "output = model.generate(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, do_sample=True, "
        f"max_new_tokens={facts.new_tokens})"
    )
    first = "" if facts.loading.is_encoder_decoder else "[inputs.input_ids.shape[1] :]"
    lines.append(f"print(tokenizer.decode(output[0]{first}, skip_special_tokens=True))")
    return lines
