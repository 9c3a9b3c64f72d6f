"""SummaC: whether a source entails what a text says of it, sentence by sentence (Laban et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from ..naming import check_int, require_package
from .base import Measurement, RowMetric, require_column
from .classifier import SequenceClassifier
from .texts import check_flag, prompt_text


VARIANTS = ("zs", "conv")
# Edges of SummaC-Conv's histogram and the sentences that it looks at, as its weights were trained.
_CONV_EDGES = (
    0.0, 0.01, 0.02, 0.03, 0.04, 0.07, 0.13, 0.37, 0.90, 0.91, 0.92, 0.93,
    0.94, 0.95, 0.955, 0.96, 0.965, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995, 1.0,
)  # fmt: skip
_CONV_SENTENCES = 10
# How NLI models call their labels; those for facts and claims (FEVER, VitaminC) say whether they support one.
_LABELS = {"entailment": ("entail", "support"), "contradiction": ("contra", "refute")}
_ROWS = 64


class SummaC(RowMetric):
    """How far a source supports a text, by a model of natural language inference (NLI).

    The model reads every sentence of the source as premise and every sentence of the text as hypothesis.
    `variant: zs`: the highest probability of entailment over the source, the mean over the text's sentences.
    `variant: conv`: per sentence of the text a histogram of the probabilities over the source, and trained weights
    that make a number of it.

    Args:
        model: a local folder, a Hub id or a loaded NLI classifier.
        variant (`str`, defaults to `"zs"`): `"zs"` or `"conv"`.
        conv_weights (*optional*): for `"conv"`, the path of its trained weights, a file of `mlp` and `layer_final` as
            the authors' `summac_conv_vitc_sent_perc_e.bin` (for `tals/albert-xlarge-vitaminc-mnli`).
        column (`str`, defaults to `"prompts"`): the column with the source.
        use_contradiction (`bool`, defaults to `False`): for `"zs"`, take the highest probability of contradiction from
            that of entailment, as the authors' code does by default.
        entailment, contradiction (`int | str`, *optional*): the model's labels; by default those whose names begin
            with "entail" or "support", and with "contra" or "refute".
        language (`str`, defaults to `"en"`): whose rules `pysbd` splits sentences by.
        max_source_sentences (`int`, defaults to 100): those after are not read.
        tokenizer (*optional*): by default the model's.
        batch_size (`int`, defaults to 32): pairs of sentences at a time.
        device (*optional*): by default CUDA where there is one.

    A score is in [0, 1], or [-1, 1] with `use_contradiction`. 0 for an empty text, None for an empty source. Unlike
    the authors' code it also reads sentences of ten characters and fewer.
    """

    name = "summac"
    better = "higher"
    needs_model = True

    def __init__(
        self,
        model: Any,
        variant: str = "zs",
        conv_weights: Any = None,
        column: str = "prompts",
        use_contradiction: bool = False,
        entailment: int | str | None = None,
        contradiction: int | str | None = None,
        language: str = "en",
        max_source_sentences: int = 100,
        tokenizer: Any = None,
        batch_size: int = 32,
        device: Any = None,
    ):
        check_flag("metric 'summac'", use_contradiction=use_contradiction)
        if variant not in VARIANTS:
            raise UserError(f"metric 'summac': variant must be one of {', '.join(VARIANTS)}, not {variant!r}.")
        check_int("metric 'summac'", "max_source_sentences", max_source_sentences, 1, "a number")
        self.columns, self.variant, self.use_contradiction = (column,), variant, use_contradiction
        self.labels = {"entailment": entailment, "contradiction": contradiction}
        self.language, self.max_source_sentences = language, max_source_sentences
        self.pretrained = SequenceClassifier(model, "metric 'summac'", tokenizer, batch_size, device)
        self.conv = _Convolution(conv_weights) if variant == "conv" else None
        _segmenter(language)

    def load_models(self) -> None:
        super().load_models()
        self._label("entailment")
        if self.use_contradiction:
            self._label("contradiction")

    def measure(self, predictions: Sequence[str], **columns: Any) -> list[Measurement | None]:
        sources = [prompt_text(row) for row in require_column(columns, self.columns[0], "metric 'summac'")]
        rows = [
            (sentences(source, self.language)[: self.max_source_sentences], sentences(text, self.language))
            for source, text in zip(sources, predictions, strict=True)
        ]
        scores: list[Measurement | None] = []
        for start in range(0, len(rows), _ROWS):
            scores += self._scores(rows[start : start + _ROWS])
        return scores

    def _scores(self, rows: list[tuple[list[str], list[str]]]) -> list[float | None]:
        import torch

        pairs = list(dict.fromkeys((premise, own) for source, text in rows for premise in source for own in text))
        probabilities = self._probabilities(pairs)
        scores: list[float | None] = []
        for source, text in rows:
            if not source or not text:
                scores.append(0.0 if source else None)
                continue
            # (source sentences, sentences of the text, entailment and contradiction)
            table = torch.stack([torch.stack([probabilities[premise, own] for own in text]) for premise in source])
            scores.append(self._from_table(table))
        return scores

    def _from_table(self, table: Any) -> float:
        if self.conv is not None:
            return self.conv(table[:, :, 0])
        best = table.max(dim=0).values
        values = best[:, 0] - best[:, 1] if self.use_contradiction else best[:, 0]
        return float(values.mean())

    def _probabilities(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        """The probabilities of entailment and contradiction of each (premise, hypothesis)."""
        import torch

        if not pairs:
            return {}
        entailment = self._label("entailment")
        contradiction = self._label("contradiction") if self.use_contradiction else entailment
        premises, hypotheses = zip(*pairs, strict=True)
        logits = self.pretrained.logits(premises, hypotheses)
        return {
            pair: torch.zeros(2) if row is None else row.softmax(-1)[[entailment, contradiction]]
            for pair, row in zip(pairs, logits, strict=True)
        }

    def _label(self, kind: str) -> int:
        given = self.labels[kind]
        if given is not None:
            return self.pretrained.label_index(given)
        names = self.pretrained.model.config.id2label
        found = [int(index) for index, name in names.items() if str(name).lower().startswith(_LABELS[kind])]
        if len(found) != 1:
            have = ", ".join(f"{name} ({index})" for index, name in sorted(names.items()))
            raise UserError(
                f"metric 'summac': which label of model {self.pretrained.name!r} means {kind}? It has: {have}. Set "
                f"the option {kind}."
            )
        return found[0]


class _Convolution:
    """The trained part of SummaC-Conv: two linear layers over histograms."""

    def __init__(self, weights: Any):
        if weights is None:
            raise UserError(
                "metric 'summac': variant conv needs its trained weights: download "
                "summac_conv_vitc_sent_perc_e.bin from github.com/tingofurro/summac and give its path as conv_weights."
            )
        self.path = Path(weights).expanduser()
        if not self.path.is_file():
            raise UserError(f"metric 'summac': there is no file {str(weights)!r} (conv_weights) in {Path.cwd()}.")
        self.weights: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "weights": None}

    def __call__(self, entailment: Any) -> float:
        """The score of a table of probabilities, of shape (source sentences, sentences of the text)."""
        import torch

        if self.weights is None:
            self.weights = self._load()
        edges = torch.tensor(_CONV_EDGES, dtype=torch.float64)
        columns = entailment.double().T[:_CONV_SENTENCES].contiguous()
        histograms = torch.stack([torch.histogram(column, edges).hist for column in columns])
        mean = (histograms @ self.weights["mlp.weight"][0] + self.weights["mlp.bias"]).mean()
        logits = self.weights["layer_final.weight"] @ mean.repeat(3) + self.weights["layer_final.bias"]
        return float(logits.softmax(-1)[1])

    def _load(self) -> dict[str, Any]:
        import torch

        shapes = {
            "mlp.weight": (1, len(_CONV_EDGES) - 1),
            "mlp.bias": (1,),
            "layer_final.weight": (2, 3),
            "layer_final.bias": (2,),
        }
        try:
            weights = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = one_line(error, 200)
            raise UserError(f"metric 'summac': {self.path} cannot be read as PyTorch weights: {reason}") from error
        for key, shape in shapes.items():
            have = tuple(getattr(weights.get(key), "shape", ())) if isinstance(weights, dict) else ()
            if have != shape:
                raise UserError(
                    f"metric 'summac': {self.path} should hold {key} of shape {shape}, not {have or 'nothing'}."
                )
        return {key: weights[key].double() for key in shapes}


def sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, without white space at either end; a line break ends one.

    Raises:
        UserError: the package pysbd is missing, or does not know the language.
    """
    segmenter = _segmenter(language)
    return [part.strip() for line in text.splitlines() for part in segmenter.segment(line) if part.strip()]


# Kept out of the metric so that this can be pickled whatever the segmenter holds.
@lru_cache(maxsize=8)
def _segmenter(language: str) -> Any:
    pysbd = require_package("pysbd", "metric 'summac'")
    try:
        return pysbd.Segmenter(language=language, clean=False)
    except ValueError as error:
        raise UserError(f"metric 'summac': pysbd has no rules for language {language!r}.") from error
