"""Tiny random models and a tokenizer made in memory: nothing is downloaded."""

from __future__ import annotations

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MBartConfig,
    MT5Config,
    OPTConfig,
    PegasusConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    T5Config,
)


VOCAB_SIZE = 41
WORDS = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(VOCAB_SIZE - 3))]

_SHARED = {
    "vocab_size": VOCAB_SIZE,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "tie_word_embeddings": False,
}
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, **_SHARED),
    "llama": lambda: LlamaConfig(**_SHARED, **_SIZES, num_key_value_heads=2, attention_dropout=0.1),
    "qwen2": lambda: Qwen2Config(**_SHARED, **_SIZES, num_key_value_heads=2, attention_dropout=0.1),
    "opt": lambda: OPTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, max_position_embeddings=64,
        word_embed_proj_dim=32, dropout=0.1, layerdrop=0.1, **_SHARED,
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_SHARED, **_SIZES, attention_dropout=0.1, hidden_dropout=0.1),
}  # fmt: skip
CAUSAL_FAMILIES = list(CONFIGS)
CONFIGS |= {
    "t5": lambda: T5Config(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.1, decoder_start_token_id=0, **_SHARED,
    ),
    "bart": lambda: BartConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, dropout=0.1, attention_dropout=0.1,
        activation_dropout=0.1, encoder_layerdrop=0.1, decoder_layerdrop=0.1, decoder_start_token_id=1,
        forced_eos_token_id=1, **_SHARED,
    ),
}  # fmt: skip
_LIKE_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, **_SHARED,
}  # fmt: skip
CONFIGS |= {
    "mt5": lambda: MT5Config(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.1, decoder_start_token_id=0, **_SHARED,
    ),
    # mBART's decoder starts from the end token, and translation models force a language's token after it.
    "mbart": lambda: MBartConfig(decoder_start_token_id=1, forced_eos_token_id=1, **_LIKE_BART),
    "pegasus": lambda: PegasusConfig(decoder_start_token_id=0, forced_eos_token_id=1, **_LIKE_BART),
}  # fmt: skip
ENCODER_DECODER_FAMILIES = ["t5", "bart"]
MORE_ENCODER_DECODER_FAMILIES = ["mt5", "mbart", "pegasus"]
FAMILIES = CAUSAL_FAMILIES + ENCODER_DECODER_FAMILIES


def tokenizer(pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    """Words `w0` … `w37` separated by spaces."""
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pad_token = "<eos>" if pad_is_eos else "<pad>"
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token=pad_token,
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        # transformers 4 would add token types, which GPT-2 takes for embeddings.
        model_input_names=["input_ids", "attention_mask"],
    )


def policy(family: str = "gpt2", seed: int = 0, scale: float = 8.0) -> torch.nn.Module:
    """A random language model; `scale` sharpens its output layer, as an untrained one is close to uniform."""
    torch.manual_seed(seed)
    is_encoder_decoder = family in ENCODER_DECODER_FAMILIES + MORE_ENCODER_DECODER_FAMILIES
    auto_model = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    model = auto_model.from_config(CONFIGS[family]())
    if family in ("bart", "mbart"):
        model.generation_config.forced_bos_token_id = 5
    with torch.no_grad():
        # T5 starts from a standard deviation of 1 there, the others from 0.02.
        model.get_output_embeddings().weight.mul_(scale / 60 if family in ("t5", "mt5") else scale)
    return model


def wide_policy() -> torch.nn.Module:
    """A random GPT-2 of twice the width."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(GPT2Config(n_embd=64, n_layer=1, n_head=4, n_positions=64, **_SHARED))


def classifier(family: str = "gpt2", seed: int = 1) -> torch.nn.Module:
    """A random sequence classifier with one label: a value or reward model."""
    torch.manual_seed(seed)
    config = CONFIGS[family]()
    config.num_labels = 1
    return AutoModelForSequenceClassification.from_config(config)


def prompts(num_rows: int = 16, seed: int = 0) -> Dataset:
    """Prompts of one to six words, with a column for rewards."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(num_rows):
        length = int(torch.randint(1, 7, (), generator=generator))
        words = torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist()
        rows.append({"prompt": " ".join(WORDS[word] for word in words), "number": index})
    return Dataset.from_list(rows)


def length_reward(completions, **kwargs):
    """Words in the completion."""
    return [float(len(completion.split())) for completion in completions]


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """As [`tokenizer`], with [CLS], [SEP] and [MASK], pairs and token types as BERT has them."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(VOCAB_SIZE - 5))]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def bert(auto_model: type, seed: int = 2, scale: float = 8.0, **options: object) -> torch.nn.Module:
    """A random BERT under a head; `scale` sharpens its weights, as an untrained one hardly tells texts apart."""
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=VOCAB_SIZE, **_SIZES, **options)
    model = auto_model.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model


def saved(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, folder: object) -> str:
    """The path of a folder with a model and its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
