"""Language models with a value head on their last hidden state, under the names of the old library."""

from __future__ import annotations

import copy
import os
import tempfile
from typing import Any, ClassVar

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from ..errors import UserError, one_line
from ..models.adapters import is_adapter_model, make_loadable, make_savable, with_adapter
from ..models.inputs import decoder_start_token, is_encoder_decoder
from ..models.policy_and_value import ValueHead, inputs_of, output_layer
from .generation_arguments import sampled, sampling_settings
from .sampled_tokens import SampledTokens
from .value_head_files import read_value_head, write_value_head


_HEAD_ARGUMENTS = {
    "v_head_init_strategy": (None, "normal"),
    "summary_dropout_prob": (None, 0, 0.0),
}
"""Arguments about the value head, with the values that say what is done anyway."""

_ELSEWHERE = {
    "load_in_8bit": "pass quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True)",
    "load_in_4bit": "pass quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True)",
    "reward_adapter": "compute scores with a reward model of your own, and pass them to step()",
    "rm_adapter": "compute scores with a reward model of your own, and pass them to step()",
}


class ModelWithValueHead(nn.Module):
    """What both kinds have in common.

    Attributes:
        pretrained_model: the language model, or a PEFT model of one.
        v_head ([`ValueHead`]): a linear layer on what the output layer reads; in float32.
        sampled ([`SampledTokens`], *optional*): where `generate` notes what it samples; a trainer sets it.
    """

    auto_model: ClassVar[Any]
    auto_peft_model: ClassVar[str]

    def __init__(self, pretrained_model: Any, v_head: ValueHead | None = None):
        super().__init__()
        self.pretrained_model: Any = pretrained_model
        self.v_head: Any = ValueHead.for_policy(pretrained_model) if v_head is None else v_head
        self.config = pretrained_model.config
        self.sampled: SampledTokens | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, peft_config: Any = None, **kwargs: Any) -> Any:
        """A language model with a value head.

        Args:
            pretrained_model_name_or_path: a folder or a name on the Hub, of a model, an adapter, or what
                `save_pretrained` (or that of the old library) wrote; or a model that is loaded. The value head is
                read from there, or random, from PyTorch's global random state.
            peft_config (`peft.PeftConfig`, *optional*): put a fresh adapter on the model.
            **kwargs: of `from_pretrained` of transformers. `v_head_initializer_range` (`float`) is the standard
                deviation of a random head.

        Raises:
            UserError: it cannot be loaded, or an argument that has no counterpart.
        """
        for name, remedy in _ELSEWHERE.items():
            if kwargs.pop(name, None):
                raise UserError(f"{cls.__name__}.from_pretrained has no {name!r}: {remedy}.")
        for name, allowed in _HEAD_ARGUMENTS.items():
            if (value := kwargs.pop(name, None)) not in allowed:
                raise UserError(
                    f"{cls.__name__}.from_pretrained: {name} is {value!r}, but the value head is drawn from a normal "
                    "distribution and has no dropout: leave it out, or set model.v_head.weight yourself."
                )
        spread, is_trainable = kwargs.pop("v_head_initializer_range", None), kwargs.pop("is_trainable", True)
        name, model = pretrained_model_name_or_path, pretrained_model_name_or_path
        if isinstance(name, (str, os.PathLike)):
            model = cls._loaded(os.fspath(name), is_trainable, kwargs)
        elif kwargs:
            raise UserError(f"{cls.__name__}.from_pretrained: {', '.join(kwargs)} has no effect on a loaded model.")
        found = cls(with_adapter(model, peft_config))
        if spread is not None:
            nn.init.normal_(found.v_head.weight, std=float(spread))
        if isinstance(name, (str, os.PathLike)):
            read_value_head(found.v_head, os.fspath(name))
        return found

    @classmethod
    def _loaded(cls, name: str, is_trainable: bool, kwargs: dict[str, Any]) -> Any:
        try:
            if os.path.isfile(os.path.join(name, "adapter_config.json")):
                import peft

                return getattr(peft, cls.auto_peft_model).from_pretrained(name, is_trainable=is_trainable, **kwargs)
            return cls.auto_model.from_pretrained(name, **kwargs)
        except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
            raise UserError(f"{cls.__name__}: {name!r} cannot be loaded: {one_line(error, 300)}") from error

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Logits `(B, L, V)` in float32, the loss (None without `labels`) and values `(B, L)`."""
        with inputs_of(output_layer(self.pretrained_model)) as captured:
            output = self.pretrained_model(
                input_ids=input_ids, attention_mask=attention_mask, **{**kwargs, "return_dict": True}
            )
        values = self.v_head(captured[-1].to(self.v_head.weight.dtype)).squeeze(-1).float()
        return output.logits.float(), output.loss, values

    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Prompts and completions `(B, P + T)`; of an encoder-decoder model what the decoder has, `(B, 1 + T)`.

        Args:
            input_ids (`torch.Tensor` of shape `(B, P)`): prompts, padded on the left.
            attention_mask (`torch.Tensor` of shape `(B, P)`, *optional*): 1 = real token; None: all are.
            **kwargs: fields of `transformers.GenerationConfig`, as far as tokens are sampled those that an update can
                account for. `pad_token_id` fills rows on the right.

        Raises:
            UserError: an unknown field, or one that the update could not account for.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prompts = [row[real.bool()].tolist() for row, real in zip(input_ids, mask, strict=True)]
        settings = sampling_settings(kwargs, self.pretrained_model, input_ids.shape[1])
        sample = sampled(self.pretrained_model, prompts, settings)
        if self.sampled is not None:
            self.sampled.add(sample, settings)
        completions = sample.sequences.completion_ids
        real = sample.sequences.completion_mask
        completions = completions.masked_fill(~real, int(kwargs.get("pad_token_id") or 0))
        if is_encoder_decoder(self.pretrained_model):
            start = completions.new_full((len(completions), 1), decoder_start_token(self.pretrained_model))
            return torch.cat([start, completions], dim=1)
        return torch.cat([input_ids.to(completions.device), completions], dim=1)

    @property
    def is_peft_model(self) -> bool:
        """Whether the language model has an adapter."""
        return is_adapter_model(self.pretrained_model)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the language model (or its adapter) as `transformers` does, and the value head beside it."""
        make_savable(self.pretrained_model)
        make_loadable(self.pretrained_model)
        self.pretrained_model.save_pretrained(save_directory, **kwargs)
        write_value_head(self.v_head, save_directory)

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
        """Upload what `save_pretrained` writes to a repository on the Hub, which is made; returns its address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(folder, repo_id, private, token)


class AutoModelForCausalLMWithValueHead(ModelWithValueHead):
    """A decoder-only language model with a value head."""

    auto_model = AutoModelForCausalLM
    auto_peft_model = "AutoPeftModelForCausalLM"


class AutoModelForSeq2SeqLMWithValueHead(ModelWithValueHead):
    """An encoder-decoder language model with a value head on its decoder."""

    auto_model = AutoModelForSeq2SeqLM
    auto_peft_model = "AutoPeftModelForSeq2SeqLM"


def upload(folder: str, repo_id: str, private: bool | None, token: str | None) -> str:
    """Upload a folder to a repository on the Hub, which is made if it is not there; returns its address."""
    api = HfApi(token=token)
    address = api.create_repo(repo_id, private=private, exist_ok=True)
    api.upload_folder(folder_path=folder, repo_id=address.repo_id, commit_message="Upload model")
    return str(address)


def create_reference_model(model: Any, num_shared_layers: int | None = None, pattern: str | None = None) -> Any:
    """A frozen copy of a model, for the KL penalty to hold on to.

    Args:
        model: with a value head or without.
        num_shared_layers, pattern: not supported.

    Raises:
        UserError: layers are to be shared.
    """
    if num_shared_layers is not None or pattern is not None:
        raise UserError(
            "create_reference_model shares no layers: train an adapter (peft_config) and pass ref_model=None, which "
            "shares all of them."
        )
    return copy.deepcopy(model).requires_grad_(False).eval()


def respond_to_batch(
    model: Any, queries: torch.Tensor, txt_len: int = 20, top_k: int = 0, top_p: float = 1.0
) -> torch.Tensor:
    """Sample `txt_len` tokens after each of the queries `(B, P)`, whatever they are; `(B, txt_len)`."""
    arguments = {"max_new_tokens": txt_len, "top_k": top_k, "top_p": top_p, "do_sample": True, "eos_token_id": -1}
    found: torch.Tensor = model.generate(queries, **arguments)[:, -txt_len:]
    return found
