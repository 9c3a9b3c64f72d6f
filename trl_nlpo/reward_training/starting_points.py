"""What a classifier is trained from: a saved model or adapter, or small random weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..errors import UserError, one_line
from ..metrics.pretrained import is_adapter


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def pretrained(name: str, labels: dict[str, Any]) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer, and a sequence classifier in float32 on the weights of a folder or repository.

    Args:
        name (`str`): of a model; or of an adapter of a language model, which is merged.
        labels (`dict`): `num_labels`, or `id2label` and `label2id`. A head that the model has for as many is kept.

    Raises:
        UserError: it cannot be loaded.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        if is_adapter(name):
            return tokenizer, _on_backbone_of(_merged_adapter(name), labels)
        model = AutoModelForSequenceClassification.from_pretrained(
            name, ignore_mismatched_sizes=True, dtype=torch.float32, **labels
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"model {name!r} cannot be loaded: {one_line(error, 300)}") from error
    return tokenizer, model


def _merged_adapter(name: str) -> Any:
    """The language model of an adapter's folder or repository, with the adapter merged into its weights."""
    import torch
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSeq2SeqLM, PeftConfig

    is_seq2seq = str(PeftConfig.from_pretrained(name).task_type) == "SEQ_2_SEQ_LM"
    loader = AutoPeftModelForSeq2SeqLM if is_seq2seq else AutoPeftModelForCausalLM
    return loader.from_pretrained(name, dtype=torch.float32).merge_and_unload()


def _on_backbone_of(model: Any, labels: dict[str, Any]) -> Any:
    """A sequence classifier on a language model's backbone.

    Raises:
        ValueError: the classifier has weights there that the language model does not have.
    """
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(model.config)
    for name, value in labels.items():
        setattr(config, name, value)
    classifier = AutoModelForSequenceClassification.from_config(config)
    source = getattr(model, model.base_model_prefix, model).state_dict()
    backbone = getattr(classifier, classifier.base_model_prefix)
    missing = sorted(set(backbone.state_dict()) - set(source))
    if missing:
        raise ValueError(f"its classifier has weights that the language model does not have ({missing[0]})")
    backbone.load_state_dict({name: source[name] for name in backbone.state_dict()})
    return classifier


def small_model(tokenizer: PreTrainedTokenizerBase, max_length: int, mapping: dict[str, Any]) -> PreTrainedModel:
    """A classifier with random weights; `mapping` has its labels, or their number."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=64,
        hidden_dim=256,
        n_layers=1,
        n_heads=4,
        max_position_embeddings=max_length,
        dropout=0.2,
        attention_dropout=0.2,
        pad_token_id=tokenizer.pad_token_id,
        **mapping,
    )
    return DistilBertForSequenceClassification(config)
