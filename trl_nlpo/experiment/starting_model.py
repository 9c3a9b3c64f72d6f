"""The tokenizer and the model that a recipe starts from: from a folder, from the Hub, or from scratch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from .._trl import peft_config_from, quantization_config_from
from ..data.rows import target_text
from ..errors import UserError, one_line
from ..models.checks import check_loaded
from ..models.from_scratch import build_model, train_tokenizer
from ..recipes.recipe import Recipe


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data.splits import Splits


def starting_tokenizer(recipe: Recipe, splits: Splits | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of `model_name_or_path`, or one trained on the prompts and references of `splits.train`.

    Raises:
        UserError: it cannot be loaded.
    """
    name = recipe.arguments.supervised_model or recipe.model.model_name_or_path
    if name is None:
        assert splits is not None
        return train_tokenizer(_texts(splits), recipe.arguments.vocab_size)
    tokenizer = _loaded("AutoTokenizer", _tokenizer_name(name), recipe)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _tokenizer_name(name: str) -> str:
    """Where the tokenizer is: an adapter that was saved without one has that of its base model."""
    folder = Path(name)
    if (folder / "adapter_config.json").is_file() and not list(folder.glob("tokenizer*")):
        from peft import PeftConfig

        return PeftConfig.from_pretrained(name).base_model_name_or_path or name
    return name


def starting_model(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None = None, folder: Path | None = None
) -> PreTrainedModel:
    """The model that a run starts from, on the training device; the same weights at every call.

    Args:
        recipe ([`Recipe`])
        tokenizer: its tokenizer; needed for a model from scratch.
        folder (`Path`, *optional*): load from there instead (the supervised stage's model).

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import set_seed

    arguments, name = recipe.arguments, str(folder) if folder else recipe.model.model_name_or_path
    if name is None:
        set_seed(recipe.training.seed)
        model = build_model(
            tokenizer,
            arguments.model_type,
            arguments.hidden_size,
            arguments.num_hidden_layers,
            arguments.num_attention_heads,
            arguments.max_position_embeddings,
            arguments.dropout,
        )
        return model.to(recipe.training.device)
    quantization = quantization_config_from(recipe.model)
    options: dict[str, Any] = {"dtype": recipe.model.dtype, "attn_implementation": recipe.model.attn_implementation}
    if quantization is not None:
        options |= {"quantization_config": quantization, "device_map": {"": recipe.training.device}}
    if (Path(name) / "adapter_config.json").is_file():
        model = _with_saved_adapter(name, recipe, options)
    else:
        model = _language_model(name, recipe, options)
    return model if quantization is not None else model.to(recipe.training.device)


def _language_model(name: str, recipe: Recipe, options: dict[str, Any]) -> Any:
    is_encoder_decoder = getattr(_loaded("AutoConfig", name, recipe), "is_encoder_decoder", False)
    class_name = "AutoModelForSeq2SeqLM" if is_encoder_decoder else "AutoModelForCausalLM"
    model, found = _loaded(class_name, name, recipe, output_loading_info=True, **options)
    check_loaded(f"model_name_or_path {name!r}", model, found)
    return model


def _with_saved_adapter(folder: str, recipe: Recipe, options: dict[str, Any]) -> Any:
    """The adapter in a folder, to be trained further, on the base model that it names."""
    from peft import PeftConfig, PeftModel

    if recipe.model.use_peft and recipe.model.model_name_or_path == folder:
        raise UserError(
            f"model_name_or_path {folder!r} is an adapter, which is trained further as it is: remove use_peft."
        )
    base_name = PeftConfig.from_pretrained(folder).base_model_name_or_path
    if not base_name:
        raise UserError(f"the adapter {folder!r} does not say which base model it belongs to.")
    base = _language_model(base_name, recipe, options)
    try:
        with warnings.catch_warnings():
            # Weights that are not in the folder stay random, which PEFT says in a warning only.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(base, folder, is_trainable=True)
    except UserWarning as warning:
        raise UserError(
            f"the adapter {folder!r} does not hold all of its weights: it is not complete, or was trained on another "
            f"model than {base_name!r} ({one_line(warning, 200)})."
        ) from warning
    except (RuntimeError, ValueError) as error:
        # Other layers, or layers of another size.
        raise UserError(
            f"the adapter {folder!r} does not fit the base model {base_name!r}: it was trained on another one "
            f"({one_line(error, 300)})."
        ) from error


def adapter_config(recipe: Recipe) -> Any:
    """The PEFT adapter to train (`use_peft`, `lora_*`), or None."""
    config: Any = peft_config_from(recipe.model)
    modules = getattr(config, "target_modules", None)
    if isinstance(modules, str) and modules.isidentifier():
        # TRL turns a list of one name into the bare name, which PEFT would match against complete paths.
        config.target_modules = {modules}
    return config


def _loaded(class_name: str, name: str, recipe: Recipe, **options: Any) -> Any:
    import transformers

    if not Path(name).is_dir():
        options["revision"] = recipe.model.model_revision
    try:
        return getattr(transformers, class_name).from_pretrained(
            name, trust_remote_code=recipe.arguments.trust_remote_code, **options
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        # A RuntimeError is one of weights of another size than the configuration says.
        raise UserError(f"model_name_or_path {name!r} cannot be loaded: {one_line(error, 300)}") from error


def _texts(splits: Splits) -> list[str]:
    """What a tokenizer learns from: prompts and their continuations, as the model will read them."""
    texts = []
    for row in splits.train:
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            raise UserError(
                "A tokenizer trained for the run has no chat template: set model_name_or_path for messages."
            )
        texts.append(prompt)
        texts += [prompt + target_text(prompt, reference) for reference in row.get("references") or []]
    return texts
