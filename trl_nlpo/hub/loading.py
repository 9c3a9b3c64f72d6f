"""The lines of Python that load a model or an adapter from a folder or from the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True)
class Loading:
    """How a saved model is loaded.

    Attributes:
        imports (`tuple[str, ...]`): lines that import what `call` names.
        call (`str`): an expression that gives the model.
        tokenizer_call (`str`): one that gives its tokenizer; `AutoTokenizer` is transformers'.
        is_encoder_decoder (`bool`)
        is_adapter (`bool`)
        name (`str`): the folder or the repository.
        revision (`str`, *optional*): of the repository.
    """

    imports: tuple[str, ...]
    call: str
    tokenizer_call: str
    is_encoder_decoder: bool
    is_adapter: bool
    name: str
    revision: str | None = None

    @property
    def line(self) -> str:
        """Both in one line, which leaves the model in `model`."""
        return "; ".join((*self.imports, f"model = {self.call}"))


def loading(
    name: str,
    is_encoder_decoder: bool,
    adapter: str | None = None,
    base: str | None = None,
    revision: str | None = None,
    names_task: bool = True,
) -> Loading:
    """How a model of a kind is loaded.

    Args:
        name (`str`): a folder, or a repository on the Hub.
        is_encoder_decoder (`bool`)
        adapter (`str`, *optional*): the name of the adapter that it is; None: a complete model.
        base (`str`, *optional*): the adapter's base model.
        revision (`str`, *optional*): of the repository.
        names_task (`bool`): whether the adapter says what task it is for.
    """
    words = [_quoted(name)] + ([] if revision is None else [f"revision={_quoted(revision)}"])
    auto_model = "AutoModelForSeq2SeqLM" if is_encoder_decoder else "AutoModelForCausalLM"
    tokenizer_call = f"AutoTokenizer.from_pretrained({', '.join(words)})"
    if adapter is None:
        imports: tuple[str, ...] = (f"from transformers import {auto_model}",)
        call = f"{auto_model}.from_pretrained({', '.join(words)})"
    elif adapter == "default" and names_task:
        loader = auto_model.replace("AutoModel", "AutoPeftModel")
        imports, call = (f"from peft import {loader}",), f"{loader}.from_pretrained({', '.join(words)})"
    else:
        # PEFT's automatic classes find an adapter only at the top of a folder, and only one that names its task. One
        # that is not called "default" is in a folder of its name.
        words += [] if adapter == "default" else [f"subfolder={_quoted(adapter)}"]
        imports = ("from peft import PeftModel", f"from transformers import {auto_model}")
        made_base = f"{auto_model}.from_pretrained({_quoted(base or 'BASE MODEL')})"
        call = f"PeftModel.from_pretrained({made_base}, {', '.join(words)})"
    return Loading(imports, call, tokenizer_call, is_encoder_decoder, adapter is not None, name, revision)


def loading_of(folder: Path, name: str | None = None, revision: str | None = None, base: str | None = None) -> Loading:
    """How the model in a folder is loaded, by what its files say.

    Args:
        folder (`Path`): with a model or an adapter, as `save_pretrained` writes it.
        name (`str`, *optional*): of the repository on the Hub that holds the same files. None: the folder itself, by
            its complete path, which holds in every working directory.
        revision (`str`, *optional*): of the repository.
        base (`str`, *optional*): an adapter's base model. None: the one that it names.
    """
    name = name or str(folder.resolve())
    adapter = adapter_folder(folder)
    if adapter is None:
        return loading(name, bool(_read(folder / CONFIG_FILE).get("is_encoder_decoder")), revision=revision)
    config = _read(adapter / ADAPTER_CONFIG_FILE)
    return loading(
        name,
        config.get("task_type") == "SEQ_2_SEQ_LM",
        "default" if adapter == folder else adapter.name,
        base or config.get("base_model_name_or_path"),
        revision,
        config.get("task_type") is not None,
    )


def holds_model(folder: Path) -> bool:
    """Whether a model or an adapter is in a folder."""
    return adapter_folder(folder) is not None or (folder / CONFIG_FILE).is_file()


def adapter_folder(folder: Path) -> Path | None:
    """Where the adapter is; PEFT writes one that is not called "default" into a folder of its name."""
    if (folder / ADAPTER_CONFIG_FILE).is_file():
        return folder
    if (folder / CONFIG_FILE).is_file():
        return None
    found = sorted(
        path.parent for path in folder.glob(f"*/{ADAPTER_CONFIG_FILE}") if path.parent.name != "value_model"
    )
    return found[0] if found else None


def adapter_base(folder: Path) -> str | None:
    """The base model that the adapter in a folder names; None for a complete model, or where it names none."""
    found = adapter_folder(folder)
    return None if found is None else _read(found / ADAPTER_CONFIG_FILE).get("base_model_name_or_path")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
