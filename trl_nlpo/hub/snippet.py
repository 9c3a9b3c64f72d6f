"""The code on a model card: it loads the model and completes a prompt as the run's evaluation did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .loading import Loading


PLACEHOLDER = "Write here what the model reads."

_LONGEST = 600
"""Characters of a text in an example."""


@dataclass(frozen=True)
class Reading:
    """How the model reads prompts and writes completions.

    Attributes:
        template (`str`): what a text prompt is put into, with columns in braces.
        example (`Mapping[str, str]`): a text for each column of the template.
        messages (`Sequence[Mapping]`, *optional*): an example of a conversation; None: prompts are text.
        template_options (`Mapping`): of the chat template.
        max_length (`int`, *optional*): tokens that a prompt is truncated to.
        truncation_side (`str`): which end is truncated.
        generation (`Mapping`): arguments of `generate`.
    """

    template: str = "{prompt}"
    example: Mapping[str, str] = field(default_factory=lambda: {"prompt": PLACEHOLDER})
    messages: Sequence[Mapping[str, Any]] | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None
    truncation_side: str = "right"
    generation: Mapping[str, Any] = field(default_factory=dict)


def snippet(loading: Loading, reading: Reading) -> list[str]:
    """Lines of Python that load a model, complete an example and print the completion."""
    options = 'return_tensors="pt"' + ("" if reading.messages is None else ", add_special_tokens=False")
    *imports, last = loading.imports
    is_transformers = last.startswith("from transformers import ")
    imports += [f"{last}, AutoTokenizer"] if is_transformers else [last, "from transformers import AutoTokenizer"]
    lines = [*imports, "", f"model = {loading.call}"]
    lines.append(f"tokenizer = {loading.tokenizer_call}")
    if reading.max_length is not None:
        options += f", truncation=True, max_length={reading.max_length}"
        lines.append(f'tokenizer.truncation_side = "{reading.truncation_side}"')
    lines += _prompt(reading, loading.is_encoder_decoder)
    lines += [f"inputs = tokenizer(prompt, {options})", "output = model.generate("]
    lines += ["    input_ids=inputs.input_ids,", "    attention_mask=inputs.attention_mask,"]
    lines += [f"    {name}={value!r}," for name, value in reading.generation.items()]
    lines.append(")")
    first = "" if loading.is_encoder_decoder else "[inputs.input_ids.shape[1] :]"
    lines.append(f"print(tokenizer.decode(output[0]{first}, skip_special_tokens=True))")
    return lines


def _prompt(reading: Reading, is_encoder_decoder: bool) -> list[str]:
    if reading.messages is not None:
        messages = [{**message, "content": _shortened(message.get("content"))} for message in reading.messages]
        # As TRL renders prompts: an answer that was begun is continued.
        is_begun = bool(messages) and messages[-1].get("role") == "assistant"
        options = {"continue_final_message" if is_begun else "add_generation_prompt": True, **reading.template_options}
        words = "".join(f", {name}={value!r}" for name, value in options.items())
        return [
            f"messages = {messages!r}",
            f"prompt = tokenizer.apply_chat_template(messages, tokenize=False{words})",
        ]
    example = {name: _shortened(text) for name, text in reading.example.items()}
    # A decoder-only model's completion brings the space before it along.
    hint = [] if is_encoder_decoder else ["# No space at the end: the completion begins with its own."]
    if reading.template == "{prompt}":
        return [*hint, f"prompt = {example['prompt']!r}"]
    columns = ", ".join(f"{name!r}: {text!r}" for name, text in example.items())
    return [
        "# What the model read in training, by columns of the data.",
        f"template = {reading.template!r}",
        *hint,
        f'prompt = template.format(**{{{columns}}}).rstrip(" ")',
    ]


def _shortened(text: Any) -> Any:
    return text[:_LONGEST] if isinstance(text, str) else text
