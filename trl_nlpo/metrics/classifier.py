"""What a sequence classifier thinks of a text: a label's probability, and how good a completion is for its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from ..naming import did_you_mean
from .base import Measurement, RowMetric, require_column
from .pretrained import Pretrained
from .texts import check_flag, joined, prompt_text


class SequenceClassifier(Pretrained):
    """A model with a head that reads a text as one. Arguments as for [`Pretrained`], without the class."""

    def __init__(self, model: Any, who: str, tokenizer: Any = None, batch_size: int = 16, device: Any = None):
        super().__init__(model, "AutoModelForSequenceClassification", who, tokenizer, batch_size, device)

    def logits(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, truncation_side: str = "right"
    ) -> list[Any]:
        """The logits of each text, or pair of texts, of shape (labels,); None for one without a single token."""
        import torch

        rows = self.encode(texts, pairs, truncation_side)
        readable = [index for index, row in enumerate(rows) if row["input_ids"]]
        result: list[Any] = [None] * len(rows)
        with torch.no_grad():
            for indices, inputs in self.batches([rows[index] for index in readable]):
                logits = self.model(**inputs).logits.float().cpu()
                for index, row in zip(indices, logits, strict=True):
                    result[readable[index]] = row
        return result

    def label_index(self, label: int | str) -> int:
        """The index of a label, by index or by its name in the model's config (upper or lower case).

        Raises:
            UserError: the model has no such label; the message lists those it has.
        """
        config = self.model.config
        names = {int(index): str(name) for index, name in config.id2label.items()}
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < config.num_labels:
            return label
        wanted = str(label).lower()
        for index, name in names.items():
            if name.lower() == wanted:
                return index
        have = ", ".join(f"{name} ({index})" for index, name in sorted(names.items()))
        raise UserError(
            f"{self.who}: model {self.name!r} has no label {label!r}{did_you_mean(wanted, names.values())}; it has: "
            f"{have}."
        )


def reward_offset(model: Any) -> float:
    """What is added to the logit of a reward model whose head has no bias to keep it in (`trl-nlpo train-reward`)."""
    return float(getattr(getattr(model, "config", None), "reward_offset", 0.0) or 0.0)


class Classifier(RowMetric):
    """The probability that a sequence classifier gives to a label, such as a review being positive.

    Args:
        model: a local folder, a Hub id or a loaded model.
        label (`int | str`): the label's index, or its name in the config's `id2label`.
        tokenizer (*optional*): by default the model's.
        include_prompt (`bool`, defaults to `True`): the model reads prompt and completion (column `prompts`).
        separator (`str`, *optional*): what stands between them; by default one space where there is none and the
            completion begins with a letter or a digit.
        batch_size (`int`, defaults to 16): rows at a time.
        device (*optional*): by default CUDA where there is one.

    A score is in [0, 1]: softmax over the labels, or the label's sigmoid where the config's `problem_type` is
    `multi_label_classification` or there is one label. 0 where there is nothing to read. Too long a text loses its
    beginning, not the completion.
    """

    name = "classifier"
    better = "higher"
    needs_model = True

    def __init__(
        self,
        model: Any,
        label: int | str,
        tokenizer: Any = None,
        include_prompt: bool = True,
        separator: str | None = None,
        batch_size: int = 16,
        device: Any = None,
    ):
        check_flag("metric 'classifier'", include_prompt=include_prompt)
        self.columns = ("prompts",) if include_prompt else ()
        self.label, self.separator = label, separator
        self.pretrained = SequenceClassifier(model, "metric 'classifier'", tokenizer, batch_size, device)

    def measure(self, predictions: Sequence[str], **columns: Any) -> list[Measurement | None]:
        texts = list(predictions)
        if self.columns:
            prompts = require_column(columns, "prompts", "metric 'classifier' with include_prompt")
            texts = [joined(prompt_text(row), text, self.separator) for row, text in zip(prompts, texts, strict=True)]
        label = self.pretrained.label_index(self.label)
        config = self.pretrained.model.config
        alone = config.num_labels == 1 or config.problem_type == "multi_label_classification"
        return [
            0.0
            if logits is None or not text.strip()
            else float(logits[label].sigmoid() if alone else logits.softmax(-1)[label])
            for text, logits in zip(texts, self.pretrained.logits(texts, truncation_side="left"), strict=True)
        ]


class Preference(RowMetric):
    """How good a completion is for its prompt, by a model of people's preferences.

    One logit r: sigmoid(scale * r), which is the probability that the completion is preferred to one of reward 0
    (Bradley and Terry). Several labels: the softmax of scale * logits at `label`.

    Args:
        model: a local folder, a Hub id or a loaded model, with one label or several.
        label (`int | str`, defaults to 1): of several labels, the one that means "good".
        scale (`float`, defaults to 1.0): factor on the logits.
        as_pair (`bool`, defaults to `False`): give the tokenizer prompt and completion as a pair with its separator
            token, as for a cross-encoder; otherwise they are one text.
        tokenizer, separator, batch_size, device: as for [`Classifier`].

    In [0, 1], 0 where there is nothing to read. Needs the column `prompts`.
    """

    name = "preference"
    columns = ("prompts",)
    better = "higher"
    needs_model = True

    def __init__(
        self,
        model: Any,
        label: int | str = 1,
        scale: float = 1.0,
        as_pair: bool = False,
        tokenizer: Any = None,
        separator: str | None = None,
        batch_size: int = 16,
        device: Any = None,
    ):
        check_flag("metric 'preference'", as_pair=as_pair)
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not scale > 0:
            raise UserError(f"metric 'preference': scale must be a number above 0, not {scale!r}.")
        self.label, self.scale, self.as_pair, self.separator = label, scale, as_pair, separator
        self.pretrained = SequenceClassifier(model, "metric 'preference'", tokenizer, batch_size, device)

    def measure(self, predictions: Sequence[str], **columns: Any) -> list[Measurement | None]:
        prompts = [prompt_text(row) for row in require_column(columns, "prompts", "metric 'preference'")]
        rows = list(zip(prompts, predictions, strict=True))
        if self.as_pair:
            all_logits = self.pretrained.logits(prompts, predictions, truncation_side="left")
        else:
            all_logits = self.pretrained.logits([joined(*row, self.separator) for row in rows], truncation_side="left")
        return [
            0.0 if logits is None or not "".join(row).strip() else self._probability(self.scale * logits)
            for row, logits in zip(rows, all_logits, strict=True)
        ]

    def _probability(self, logits: Any) -> float:
        if len(logits) == 1:
            return float((logits[0] + self.scale * reward_offset(self.pretrained.model)).sigmoid())
        return float(logits.softmax(-1)[self.pretrained.label_index(self.label)])
