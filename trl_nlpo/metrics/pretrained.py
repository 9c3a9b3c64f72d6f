"""Models that metrics read texts with: where they are, when they are loaded, and how rows become batches."""

from __future__ import annotations

import copy
import inspect
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, one_line
from ..naming import check_int


# Where a tokenizer knows no limit, transformers writes 10^30.
_NO_LIMIT = 10**9

_LOADING = threading.RLock()
"""Held while a model is loaded: transformers sets switches of the whole process, and a second load would meet them."""


class Pretrained:
    """A model and its tokenizer, loaded when first used, so that naming a metric downloads nothing.

    Args:
        model: a local folder, a Hub id, or a loaded model. Remote code is never run.
        auto_class (`str`): the class of transformers that loads it.
        who (`str`): how messages call its user, `"metric 'classifier'"`.
        tokenizer (*optional*): a folder, a Hub id or a loaded tokenizer; by default the model's. It is copied.
        batch_size (`int`): rows that the model reads at a time.
        device (*optional*): where the model goes; by default CUDA where there is one, and for a loaded model where it
            is.

    The model is put into evaluation mode. Pickling drops what was loaded; it is loaded again on first use.

    Raises:
        UserError: a local path that is not there, a loaded model without a tokenizer, a batch size under 1; on first
            use: the model or its tokenizer cannot be loaded, or the checkpoint lacks weights of the class (a
            classifier without its head would answer at random).
    """

    def __init__(
        self, model: Any, auto_class: str, who: str, tokenizer: Any = None, batch_size: int = 16, device: Any = None
    ):
        check_int(who, "batch_size", batch_size, 1, "a number of rows")
        if not isinstance(model, (str, os.PathLike)) and not hasattr(model, "config"):
            raise UserError(f"{who}: model must be a local folder, a Hub id or a model, not {model!r:.60}.")
        if tokenizer is None and not isinstance(model, (str, os.PathLike)):
            raise UserError(f"{who}: a loaded model needs its tokenizer: give the option tokenizer.")
        self.who, self.auto_class, self.batch_size, self.device_name = who, auto_class, batch_size, device
        self._model_source = _local_or_hub(model, who)
        self._tokenizer_source = _local_or_hub(self._model_source if tokenizer is None else tokenizer, who)
        self._model: Any = None
        self._tokenizer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None, "_tokenizer": None}

    @property
    def model(self) -> Any:
        """The model in evaluation mode."""
        with _LOADING:
            if self._model is None:
                self._model = self._load_model()
        return self._model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; ours to change."""
        with _LOADING:
            if self._tokenizer is None:
                self._tokenizer = self._load_tokenizer()
        return self._tokenizer

    def load(self) -> None:
        """Load model and tokenizer now instead of when they are first used.

        Raises:
            UserError: as on first use.
        """
        self.model, self.tokenizer  # noqa: B018 (properties that load)

    @property
    def name(self) -> str:
        """The model's folder or Hub id, or the class of one that was given loaded."""
        return self._model_source if isinstance(self._model_source, str) else type(self._model_source).__name__

    def identity(self) -> str | None:
        """Which weights answer, and which tokenizer: their sources, of folders with the files' sizes and times.

        None where model or tokenizer was handed over loaded. Of a Hub id it is the id with the commit that the Hub's
        cache on this machine has, where it has one.
        """
        sources = (self._model_source, self._tokenizer_source)
        if not all(isinstance(source, str) for source in sources):
            return None
        return f"{self.auto_class}: {'; '.join(map(_identity_of_source, dict.fromkeys(sources)))}"

    def config(self) -> Any:
        """The model's configuration, without loading its weights."""
        source = self._model_source
        return self._load("AutoConfig", source) if isinstance(source, str) else source.config

    def architectures(self) -> str:
        """The class of a loaded model, or the classes that the config names."""
        source = self._model_source
        known = getattr(self.config(), "architectures", None) or []
        return " ".join(known) if isinstance(source, str) else type(source).__name__

    def max_length(self) -> int | None:
        """Tokens that the model can read at once, or None where nothing limits it."""
        from ..models.inputs import context_length

        limits = [] if (limit := context_length(self.model)) is None else [limit]
        if self.tokenizer.model_max_length < _NO_LIMIT:
            limits.append(self.tokenizer.model_max_length)
        return min(limits, default=None)

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        truncation_side: str = "right",
        add_special_tokens: bool = True,
    ) -> list[dict[str, list[int]]]:
        """Token ids of texts or of pairs of texts, truncated to what the model can read.

        Args:
            texts (`Sequence[str]`), pairs (`Sequence[str]`, *optional*): first and second halves; the longer
                is truncated.
            truncation_side (`str`): `"left"` drops the beginning, `"right"` the end.
            add_special_tokens (`bool`): those that the tokenizer puts around a text; False where they are in it, as a
                chat template writes them.

        Returns:
            Of each `input_ids`, and `token_type_ids` where tokenizer and model both have them.
        """
        if not texts:
            return []
        limit = self.max_length()
        self.tokenizer.truncation_side = truncation_side
        encoded = self.tokenizer(
            list(texts),
            text_pair=None if pairs is None else list(pairs),
            add_special_tokens=add_special_tokens,
            truncation="longest_first" if limit else False,
            max_length=limit,
            verbose=False,
        )
        keys = ["input_ids"] + (
            ["token_type_ids"] if "token_type_ids" in encoded and self._reads_token_types() else []
        )
        return [{key: list(encoded[key][row]) for key in keys} for row in range(len(texts))]

    def batches(self, rows: Sequence[dict[str, list[int]]]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Rows of similar length together, padded on the right, where padding changes no score.

        Args:
            rows: `input_ids`, none of them empty, and `token_type_ids` where the tokenizer has them.

        Yields:
            The rows' indices, and the model's inputs on its device: `input_ids`, `attention_mask` (1 = real token) and
            `token_type_ids`, each of shape (batch_size, longest row).
        """
        import torch

        padding = {"input_ids": self._padding_id(), "token_type_ids": 0}
        device = next(self.model.parameters()).device
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            width = len(rows[indices[-1]]["input_ids"])
            inputs = {
                key: torch.tensor([rows[i][key] + [padding[key]] * (width - len(rows[i][key])) for i in indices])
                for key in rows[indices[0]]
            }
            self._check_vocabulary(int(inputs["input_ids"].max()))
            lengths = torch.tensor([len(rows[i]["input_ids"]) for i in indices])
            inputs["attention_mask"] = (torch.arange(width) < lengths[:, None]).long()
            yield indices, {key: value.to(device) for key, value in inputs.items()}

    def _reads_token_types(self) -> bool:
        # Under an adapter the signature is that of the model below.
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return "token_type_ids" in inspect.signature(model.forward).parameters

    def _padding_id(self) -> int:
        # Classifiers on decoders find the last token as the last that is not this one, hence the model's own first.
        config, size = self.model.config.get_text_config(), self._vocabulary_size()
        known = (config.pad_token_id, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        token = next(token for token in known if token is not None and 0 <= token < size)
        config.pad_token_id = token
        return token

    def _vocabulary_size(self) -> int:
        return self.model.get_input_embeddings().weight.shape[0]

    def _check_vocabulary(self, token: int) -> None:
        if token >= (size := self._vocabulary_size()):
            raise UserError(
                f"{self.who}: the tokenizer gives token {token}, but model {self.name!r} knows {size}: it is another "
                "model's tokenizer."
            )

    def _load_tokenizer(self) -> Any:
        source = self._tokenizer_source
        if not isinstance(source, str):
            return copy.deepcopy(source)
        tokenizer = self._load("AutoTokenizer", source)
        # Without its files transformers makes a tokenizer that knows no word.
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise UserError(
                f"{self.who}: the tokenizer of model {source!r} cannot be loaded: {_advice(source)} (its "
                "vocabulary is empty.)"
            )
        return tokenizer

    def _load_model(self) -> Any:
        import torch

        model, device = self._model_source, self.device_name
        if isinstance(model, str):
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            model, loading = self._load_adapter() or self._load(self.auto_class, model, output_loading_info=True)
            # Base models come without the pooler, which no metric reads; a classifier's head may read it.
            is_base = self.auto_class == "AutoModel"
            missing = sorted(key for key in loading["missing_keys"] if not (is_base and "pooler" in key))
            if missing:
                raise UserError(
                    f"{self.who}: model {self.name!r} has no weights for {', '.join(missing[:3])}: it was not trained "
                    f"as {self.auto_class.removeprefix('AutoModelFor')}; give one that was."
                )
        return (model if device is None else model.to(device)).eval()

    def _load_adapter(self) -> tuple[Any, dict[str, Any]] | None:
        """A classifier saved as an adapter, and what is missing of it; None where the source is no adapter.

        The base model has no head, and its config another number of labels: both are the adapter's.
        """
        if "SequenceClassification" not in self.auto_class or not is_adapter(self.name):
            return None
        import peft

        try:
            weights = peft.load_peft_weights(self.name, device="cpu")
            base = peft.PeftConfig.from_pretrained(self.name).base_model_name_or_path
        except Exception as error:
            raise UserError(
                f"{self.who}: adapter {self.name!r} cannot be loaded: {_advice(self.name)} ({one_line(error, 200)})"
            ) from error
        own = {key.removeprefix("base_model.model."): value for key, value in weights.items() if "lora_" not in key}
        heads = [value for key, value in own.items() if key.endswith(_HEADS)]
        labels = {"num_labels": heads[-1].shape[0]} if heads else {}
        model, loading = self._load(self.auto_class, base, output_loading_info=True, **labels)
        loading["missing_keys"] = [key for key in loading["missing_keys"] if key not in own]
        return peft.PeftModel.from_pretrained(model, self.name), loading

    def _load(self, class_name: str, name: str, **options: Any) -> Any:
        import transformers

        try:
            return getattr(transformers, class_name).from_pretrained(name, trust_remote_code=False, **options)
        except Exception as error:
            # A name that is not there, no network, a broken file, a missing package: all are about the name.
            what = {"AutoTokenizer": "the tokenizer of model", "AutoConfig": "the config of model"}.get(class_name, "")
            reason = one_line(error, 200).rstrip(".")
            raise UserError(
                f"{self.who}: {what or 'model'} {name!r} cannot be loaded: {_advice(name)} ({reason}.)"
            ) from error


_HEADS = ("score.weight", "classifier.weight", "out_proj.weight")
"""Ends of the names of a classifier's last layer, whose rows are its labels."""


def is_adapter(source: str) -> bool:
    """Whether a local folder, or a repository on the Hub, holds an adapter instead of a model."""
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        return find_adapter_config_file(source) is not None
    except Exception:
        # What is wrong with the source is said when it is loaded as a model.
        return False


def _local_or_hub(source: Any, who: str) -> Any:
    """A folder's path, a Hub id, or what was given loaded; what looks like a path must be a folder."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    name, path = str(source), Path(source).expanduser()
    if not name.strip():
        raise UserError(f"{who}: model is empty: give a local folder or a Hub id.")
    if path.is_dir():
        return str(path)
    if isinstance(source, os.PathLike) or name.startswith((".", "~")) or path.is_absolute() or name.count("/") > 1:
        raise UserError(f"{who}: there is no folder {name!r} (looked in {Path.cwd()}).")
    return name


def _identity_of_source(source: str) -> str:
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(source, "config.json")
        # .../snapshots/<commit>/config.json
        return f"{source}@{Path(cached).parent.name}" if isinstance(cached, str) else source
    files = sorted(path for path in folder.iterdir() if path.is_file())
    known = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return f"{folder.resolve()} ({', '.join(known)})"


def _advice(name: str) -> str:
    if Path(name).is_dir():
        return "the folder must hold what save_pretrained wrote, of model and tokenizer"
    offline = " (unset HF_HUB_OFFLINE for that)" if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0") else ""
    return (
        f"there is no such folder in {Path.cwd()}; download it with `hf download {name}`{offline}, or give the path "
        "of a local folder"
    )
