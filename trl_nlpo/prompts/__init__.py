"""From data sets in every shape that people have to batches of token ids."""

from .dataset import (
    RESERVED_COLUMNS,
    PromptDataset,
    PromptTokenizer,
    UpdateSampler,
    collate_prompts,
    decoder,
    prompt_tokenizer,
)


__all__ = [
    "RESERVED_COLUMNS",
    "PromptDataset",
    "PromptTokenizer",
    "UpdateSampler",
    "collate_prompts",
    "decoder",
    "prompt_tokenizer",
]
