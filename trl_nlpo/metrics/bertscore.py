"""BERTScore: how well a text's tokens match a reference's in a model's embedding space (Zhang et al. 2020)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..naming import check_int
from .base import Measurement, RowMetric, as_list, require_column
from .pretrained import Pretrained
from .texts import check_flag


# Rows whose embeddings are held at a time.
_ROWS = 64
# bert-score gives these tokenizers every text with a space before it, so that the first word is one like the others;
# under transformers 5 it asks for that in vain, and its numbers differ from the published ones.
_WITH_LEADING_SPACE = {"GPT2Tokenizer", "GPT2TokenizerFast", "RobertaTokenizer", "RobertaTokenizerFast"}


PUBLISHED_LAYERS = {
    "bert-base-uncased": 9, "bert-large-uncased": 18,
    "bert-base-multilingual-cased": 9, "bert-base-chinese": 8, "roberta-base": 10, "roberta-large": 17,
    "roberta-large-mnli": 19, "distilbert-base-uncased": 5, "distilbert-base-multilingual-cased": 5,
    "distilroberta-base": 5, "xlnet-base-cased": 5, "xlnet-large-cased": 7, "xlm-roberta-base": 9,
    "xlm-roberta-large": 17, "albert-base-v1": 10, "albert-base-v2": 9, "albert-large-v2": 14, "bart-base": 6,
    "bart-large": 10, "deberta-base": 9, "deberta-large": 16, "deberta-xlarge-mnli": 40,
}  # fmt: skip
"""The layer that goes best with people's judgement, of the models that the authors tried (bert-score 0.3.13)."""


def published_layer(model: str) -> int | None:
    """The layer that the authors chose for a model, known by the last part of its Hub id or folder; None for others.

    Example:
        >>> published_layer("FacebookAI/roberta-large"), published_layer("models/mine")
        (17, None)
    """
    return PUBLISHED_LAYERS.get(Path(model).name.lower())


class Match(NamedTuple):
    """How well two texts match, F1 first, so that the best is the one with the highest F1."""

    f1: float
    precision: float
    recall: float


class BertScore(RowMetric):
    """BERTScore F1 of a text, the best over its references.

    Every token is matched with the most similar token of the other text (cosine of their embeddings); precision is the
    mean over the text's tokens, recall over the reference's.

    Args:
        model: a local folder, a Hub id or a loaded encoder, decoder or encoder-decoder (of which the encoder).
        layer (`int` or `"last"`, *optional*): whose output is compared, 0 for the embeddings. By default the layer
            that the authors chose for a model of this name ([`PUBLISHED_LAYERS`]; 17 of `roberta-large`), of others
            the last.
        idf (`bool`, defaults to `False`): weigh tokens by inverse document frequency instead of alike.
        idf_texts (*optional*): texts to count these in: a list, or the path of a file with one a line. Without them a
            table counts in its own references; a reward needs them, or its value would depend on its batch.
        column (`str`, defaults to `"references"`): the data set's column with a list of references (or one string).
        tokenizer (*optional*): by default the model's.
        batch_size (`int`, defaults to 32): texts at a time.
        device (*optional*): by default CUDA where there is one.

    A score is in [-1, 1], mostly in the upper part of [0, 1]; not rescaled with a baseline. 0 for an empty text or
    reference (and, with idf, for one whose tokens weigh nothing), None for a row without references. `compute` gives
    `bertscore` (F1), `bertscore_precision` and `bertscore_recall`, those of the reference with the best F1.
    """

    name = "bertscore"
    better = "higher"
    needs_model = True

    def __init__(
        self,
        model: Any,
        layer: int | str | None = None,
        idf: bool = False,
        idf_texts: Any = None,
        column: str = "references",
        tokenizer: Any = None,
        batch_size: int = 32,
        device: Any = None,
    ):
        check_flag("metric 'bertscore'", idf=idf)
        if layer is not None and layer != "last":
            check_int("metric 'bertscore'", "layer", layer, 0, "a number")
        if idf_texts is not None and not idf:
            raise UserError("metric 'bertscore': idf_texts has no effect without idf: true.")
        self.columns = (column,)
        self.layer, self.idf, self.idf_texts = layer, idf, _texts(idf_texts)
        self.rows_alone = not idf or idf_texts is not None
        self.pretrained = Pretrained(model, "AutoModel", "metric 'bertscore'", tokenizer, batch_size, device)

    def score(self, predictions: Sequence[str], **columns: Any) -> list[float | None]:
        if not self.rows_alone:
            raise UserError(
                "metric 'bertscore': the score of a text with idf needs idf_texts, or it would depend on its batch."
            )
        return super().score(predictions, **columns)

    def measure(self, predictions: Sequence[str], **columns: Any) -> list[Measurement | None]:
        return [None if match is None else list(match) for match in self._matches(predictions, columns)]

    def score_of(self, measurement: Any) -> float:
        return Match(*measurement).f1

    def table_of(self, measurements: Sequence[Any]) -> dict[str, float]:
        means = Match(*(sum(values) / len(measurements) for values in zip(*measurements, strict=True)))
        return {"bertscore": means.f1, "bertscore_precision": means.precision, "bertscore_recall": means.recall}

    def _matches(self, predictions: Sequence[str], columns: dict[str, Any]) -> list[Match | None]:
        references = [as_list(row) for row in require_column(columns, self.columns[0], "metric 'bertscore'")]
        rows = list(zip(predictions, references, strict=True))
        weights = self._inverse_document_frequencies([text for row in references for text in row])
        matches: list[Match | None] = []
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            embedded = self._embed(list(dict.fromkeys(text for own, others in part for text in (own, *others))))
            weighed = {text: (vectors, weights(ids)) for text, (ids, vectors) in embedded.items()}
            matches += [
                max((match(*weighed[own], *weighed[other]) for other in others), default=None) for own, others in part
            ]
        return matches

    def _embed(self, texts: list[str]) -> dict[str, tuple[list[int], Any]]:
        """Of each text the token ids and their embeddings of length 1, of shape (tokens, hidden size)."""
        import torch

        rows = self.pretrained.encode(self._prepared(texts))
        result: dict[str, tuple[list[int], Any]] = {
            text: ([], torch.zeros(0, 1)) for text, row in zip(texts, rows, strict=True) if not row["input_ids"]
        }
        kept = [(text, row) for text, row in zip(texts, rows, strict=True) if row["input_ids"]]
        model = self.pretrained.model
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        with torch.no_grad():
            for indices, inputs in self.pretrained.batches([row for _, row in kept]):
                states = model(**inputs, output_hidden_states=True)
                hidden = self._layer_of(states).float()
                hidden = (hidden / hidden.norm(dim=-1, keepdim=True).clamp(min=1e-12)).cpu()
                for index, vectors in zip(indices, hidden, strict=True):
                    text, row = kept[index]
                    result[text] = (row["input_ids"], vectors[: len(row["input_ids"])])
        return result

    def _layer_of(self, states: Any) -> Any:
        layer = published_layer(self.pretrained.name) if self.layer is None else self.layer
        if layer is None or layer == "last":
            return states.last_hidden_state
        if int(layer) >= len(states.hidden_states):
            raise UserError(
                f"metric 'bertscore': model {self.pretrained.name!r} has {len(states.hidden_states) - 1} layers, not "
                f"{layer}: give the option layer, a number or last."
            )
        return states.hidden_states[int(layer)]

    def _prepared(self, texts: Sequence[str]) -> list[str]:
        kinds = {kind.__name__ for kind in type(self.pretrained.tokenizer).__mro__}
        space = " " if kinds & _WITH_LEADING_SPACE else ""
        return [space + text.strip() if text.strip() else "" for text in texts]

    def _inverse_document_frequencies(self, references: list[str]) -> Any:
        """A function from token ids to a tensor of their weights: idf or 1, and 0 for what frames a text."""
        import torch

        tokenizer = self.pretrained.tokenizer
        frame = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
        if not self.idf:
            return lambda ids: torch.tensor([float(token not in frame) for token in ids])
        texts = references if self.idf_texts is None else self.idf_texts
        counts = Counter(
            token for row in self.pretrained.encode(self._prepared(texts)) for token in set(row["input_ids"])
        )
        return lambda ids: torch.tensor(
            [0.0 if token in frame else math.log((len(texts) + 1) / (counts[token] + 1)) for token in ids]
        )


def match(own: Any, own_weights: Any, other: Any, other_weights: Any) -> Match:
    """BERTScore (Zhang et al. 2020, equations 1 to 3) of a text against a reference.

    Args:
        own (`torch.Tensor`): embeddings of length 1 of the text's tokens, of shape (tokens, hidden size).
        own_weights (`torch.Tensor`): their weights, of shape (tokens,).
        other, other_weights: the same of the reference.

    All 0 where one of them has no token with a weight. Tokens that weigh nothing can still be matched.
    """
    if not own_weights.sum() > 0 or not other_weights.sum() > 0:
        return Match(0.0, 0.0, 0.0)
    similarity = own @ other.T
    precision = float(similarity.max(dim=1).values @ own_weights / own_weights.sum())
    recall = float(similarity.max(dim=0).values @ other_weights / other_weights.sum())
    total = precision + recall
    return Match(2 * precision * recall / total if total else 0.0, precision, recall)


def _texts(source: Any) -> list[str] | None:
    if source is None or (isinstance(source, list) and source and all(isinstance(text, str) for text in source)):
        return source
    if isinstance(source, (str, Path)) and Path(source).is_file():
        # Not `splitlines`: a text may hold a line separator of its own, such as U+2028.
        return [line for line in Path(source).read_text(encoding="utf-8").split("\n") if line.strip()]
    raise UserError(
        f"metric 'bertscore': idf_texts must be a list of texts or a file with one a line, not {source!r:.60}."
    )
