"""A tokenizer and a small model made on the spot, for runs that download nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import UserError


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text goes in and comes back unchanged, so there is no unknown token.

    A word belongs together with the space before it, so a completion that follows a prompt begins with a space.

    Args:
        texts: what to learn merges from.
        vocab_size (`int`): most tokens to have, the 256 bytes and 3 special tokens included; fewer when the texts run
            out of pairs that occur twice.

    Raises:
        UserError: `vocab_size` leaves no room for merges.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet) + 3:
        raise UserError(
            f"vocab_size is {vocab_size}, but must be more than {len(alphabet) + 3}: 256 bytes and 3 special tokens."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: Any,
    model_type: str,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    max_position_embeddings: int,
    dropout: float = 0.0,
) -> PreTrainedModel:
    """A language model with random weights.

    Args:
        tokenizer: gives the size of the vocabulary and the special tokens.
        model_type (`str`): `"gpt2"` or `"llama"`, which are causal, or `"t5"`, an encoder-decoder model.
        hidden_size (`int`): width; a multiple of `num_attention_heads`.
        num_hidden_layers, num_attention_heads (`int`)
        max_position_embeddings (`int`): most tokens of prompt and completion together.
        dropout (`float`): rate of every dropout that the architecture has (Llama: of the attention alone).

    Raises:
        UserError: a width that the heads do not divide.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if hidden_size % num_attention_heads:
        raise UserError(
            f"hidden_size is {hidden_size}, which num_attention_heads ({num_attention_heads}) does not divide."
        )
    common = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    sizes = (hidden_size, num_hidden_layers, num_attention_heads, max_position_embeddings, dropout)
    if model_type == "t5":
        return AutoModelForSeq2SeqLM.from_config(_t5(*sizes, **common))
    config = _gpt2(*sizes, **common) if model_type == "gpt2" else _llama(*sizes, **common)
    return AutoModelForCausalLM.from_config(config)


def _gpt2(width: int, layers: int, heads: int, positions: int, dropout: float, **common: Any) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=positions,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        **common,
    )


def _llama(width: int, layers: int, heads: int, positions: int, dropout: float, **common: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        attention_dropout=dropout,
        **common,
    )


def _t5(width: int, layers: int, heads: int, positions: int, dropout: float, **common: Any) -> Any:
    from transformers import T5Config

    # Positions are relative: any length will do.
    del positions
    return T5Config(
        d_model=width,
        d_kv=width // heads,
        d_ff=4 * width,
        num_layers=layers,
        num_heads=heads,
        dropout_rate=dropout,
        **{"decoder_start_token_id": common["pad_token_id"], **common},
    )
