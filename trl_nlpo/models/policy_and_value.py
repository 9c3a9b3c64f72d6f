"""Policy and value function as one module, so that they are trained, wrapped and clipped together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..functional.output_layer import OutputStates, PolicyOutput
from ..records import TokenRows
from .adapters import active_adapter, adapter_parameters
from .inputs import completion_inputs, is_encoder_decoder, joined, joined_inputs


class ValueHead(nn.Linear):
    """A scalar head on the policy's last hidden state: V(s) with no backbone of its own.

    Args:
        hidden_size (`int`): width of what the policy's output layer reads.
        initializer_range (`float`): standard deviation of the random weights (the paper starts from a random head).
    """

    def __init__(self, hidden_size: int, initializer_range: float = 0.02):
        super().__init__(hidden_size, 1)
        nn.init.normal_(self.weight, std=initializer_range)
        nn.init.zeros_(self.bias)

    @classmethod
    def for_policy(cls, policy: Any) -> ValueHead:
        """A head of the width, device and data type of `policy`'s output layer, in float32."""
        weight = output_layer(policy).weight
        hidden_size = int(getattr(output_layer(policy), "in_features", weight.shape[-1]))
        initializer_range = getattr(policy.config, "initializer_range", None) or 0.02
        return cls(hidden_size, initializer_range).to(weight.device)


class PolicyAndValue(nn.Module):
    """What the optimizer trains.

    Attributes:
        policy: the language model (or PEFT model), causal or encoder-decoder.
        value_model: a [`ValueHead`] on the policy's backbone, or a model of its own with a scalar `score` head, as
            `AutoModelForSequenceClassification` builds it.
        value_adapter (`str`, *optional*): the adapter of the policy's base model that the head reads; None: the
            policy's.
        value_trains_backbone (`bool`): whether the value loss of a head on the policy's own states reaches the
            policy.
        adapter (`str`): of a PEFT model, the adapter that is the policy; empty without one.
        fuses_output_layer (`bool`): whether the policy's logits are left to be computed with their softmax, a few at a
            time ([`OutputStates`]).
        returns_scale (`float`, *optional*): what the value function's output is multiplied by to be V; None, which is
            1, until it has been measured. Kept with its weights.
    """

    def __init__(
        self,
        policy: Any,
        value_model: Any = None,
        value_adapter: str | None = None,
        value_trains_backbone: bool = True,
        adapter: str = "",
    ):
        super().__init__()
        self.adapter = adapter
        self.value_trains_backbone = value_trains_backbone
        self.policy: Any = policy
        self.value_model: Any = ValueHead.for_policy(policy) if value_model is None else value_model
        self.value_adapter = value_adapter
        self.fuses_output_layer = False
        self.returns_scale: float | None = None
        self.config = policy.config
        check_value_model(policy, self.value_model)

    @property
    def shares_backbone(self) -> bool:
        """Whether the value function reads the policy's own hidden states, computed in the same pass."""
        return isinstance(self.value_model, ValueHead) and self.value_adapter is None

    @property
    def value_units(self) -> float:
        """V is the value function's output times this."""
        return 1.0 if self.returns_scale is None else self.returns_scale

    def critic_parameters(self) -> Iterator[nn.Parameter]:
        """The weights that are trained and are the value function's alone: head, model or adapter of its own."""
        own = list(self.value_model.parameters())
        if self.value_adapter is not None:
            own += adapter_parameters(self.policy, self.value_adapter).values()
        return (parameter for parameter in own if parameter.requires_grad)

    @property
    def parts(self) -> tuple[str, ...]:
        """What can run its forward and backward pass separately: one after the other they need half the memory."""
        return ("both",) if self.shares_backbone else ("policy", "value")

    @property
    def _no_split_modules(self) -> list[str]:
        """Classes of layers that FSDP and DeepSpeed keep in one piece; they ask for it by this name."""
        wanted: set[str] = set()
        for model in (self.policy, self.value_model):
            wanted |= set(getattr(model, "_no_split_modules", None) or ())
        return sorted(wanted & {type(module).__name__ for module in self.modules()})

    def empty_pass(self) -> None:
        """Compute nothing; see [`fsdp.Fsdp2.prepare`]."""

    def forward(self, sequences: TokenRows, part: str = "both") -> tuple[PolicyOutput | None, torch.Tensor | None]:
        """Logits `(B, T, V)`, or what they are computed from, and values `(B, T)` of the states before each token.

        Args:
            sequences ([`TokenRows`]): prompts and completions.
            part (`str`): `"both"`, or `"policy"` or `"value"` for one of them and None for the other.
        """
        if self.shares_backbone and part == "value":
            # The policy stays as it is: this trains the head alone.
            with torch.no_grad():
                hidden = completion_hidden_states(self.policy, sequences)
            return None, self._values_of(hidden)
        if self.shares_backbone:
            output, hidden = self._output_and_hidden(sequences)
            return output, self._values_of(hidden if self.value_trains_backbone else hidden.detach())
        policy_output: PolicyOutput | None = None
        values: torch.Tensor | None = None
        if part != "value":
            policy_output = completion_output(self.policy, sequences, self.fuses_output_layer)
        if part != "policy":
            with self.computing("value"):
                values = self._own_values(sequences)
        return policy_output, values

    def _output_and_hidden(self, sequences: TokenRows) -> tuple[PolicyOutput, torch.Tensor]:
        if not self.fuses_output_layer:
            return completion_logits_and_hidden(self.policy, sequences)
        states = output_states(self.policy, sequences)
        return states, states.hidden

    @contextlib.contextmanager
    def computing(self, part: str) -> Iterator[None]:
        """Have the adapter of a part switched on: in its backward pass too, where activations may be recomputed."""
        if part != "value" or self.value_adapter is None or self.policy.active_adapter == self.value_adapter:
            yield
            return
        with active_adapter(self.policy, self.value_adapter):
            yield

    def _own_values(self, sequences: TokenRows) -> torch.Tensor:
        if self.value_adapter is None:
            return completion_values(self.value_model, sequences) * self.value_units
        return self._values_of(completion_hidden_states(self.policy, sequences))

    def _values_of(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.value_model(hidden.to(self.value_model.weight.dtype)).squeeze(-1).float() * self.value_units

    def _recomputed_with_its_adapter(self) -> tuple[Any, Any]:
        """Contexts of a layer's forward pass and of its recomputation: under the same adapter."""
        adapter = self.policy.active_adapter
        return contextlib.nullcontext(), self.computing("value" if adapter == self.value_adapter else "policy")

    # What `transformers.Trainer` asks of a model.
    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute activations in the backward pass, in the policy and in a value model of its own."""
        if self.value_adapter is not None:
            adapters = {"context_fn": self._recomputed_with_its_adapter}
            gradient_checkpointing_kwargs = {**(gradient_checkpointing_kwargs or {}), **adapters}
        for model in (self.policy, self.value_model):
            if hasattr(model, "gradient_checkpointing_enable"):
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        for model in (self.policy, self.value_model):
            if hasattr(model, "gradient_checkpointing_disable"):
                model.gradient_checkpointing_disable()

    def add_model_tags(self, tags: list[str]) -> None:
        """Tags of the policy's model card on the Hub."""
        if hasattr(self.policy, "add_model_tags"):
            self.policy.add_model_tags(tags)


def output_layer(policy: Any) -> Any:
    """The layer that turns hidden states into logits.

    Raises:
        UserError: the model has none.
    """
    layer = policy.get_output_embeddings() if hasattr(policy, "get_output_embeddings") else None
    if layer is None:
        raise UserError(
            f"{type(policy).__name__} is no language model: it has no output layer over the vocabulary. Load it with "
            "AutoModelForCausalLM or AutoModelForSeq2SeqLM."
        )
    return layer


def completion_output(model: Any, sequences: TokenRows, fuses_output_layer: bool) -> PolicyOutput:
    """[`completion_logits`], or [`output_states`]."""
    return output_states(model, sequences) if fuses_output_layer else completion_logits(model, sequences)


def output_states(model: Any, sequences: TokenRows) -> OutputStates:
    """What a model's output layer would read, and the layer; see [`self_test.can_fuse_output_layer`]."""
    return OutputStates.of_layer(completion_hidden_states(model, sequences), output_layer(model))


def completion_logits(model: Any, sequences: TokenRows) -> torch.Tensor:
    """Logits `(B, T, V)` that predict each completion token, in one pass over prompt and completion."""
    return model(**completion_inputs(model, sequences)).logits[:, -sequences.width :]


def completion_logits_and_hidden(model: Any, sequences: TokenRows) -> tuple[torch.Tensor, torch.Tensor]:
    """The same logits, and the hidden states `(B, T, H)` that the output layer read; no others are kept."""
    with inputs_of(output_layer(model)) as captured:
        logits = completion_logits(model, sequences)
    return logits, captured[-1][:, -sequences.width :]


def completion_hidden_states(model: Any, sequences: TokenRows) -> torch.Tensor:
    """The hidden states `(B, T, H)` alone: the pass is left before the output layer, which costs more than a layer."""
    with inputs_of(output_layer(model), leave=True) as captured, contextlib.suppress(_Left):
        completion_logits(model, sequences)
    return captured[-1][:, -sequences.width :]


def completion_values(value_model: Any, sequences: TokenRows) -> torch.Tensor:
    """Values `(B, T)` from a model with a backbone and a scalar `score` head."""
    hidden = backbone_hidden_states(value_model, *joined(sequences))
    return value_model.score(hidden[:, -sequences.width :]).squeeze(-1).float()


def backbone_hidden_states(model: Any, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Last hidden states `(B, L, H)` of the backbone below a sequence classifier's head."""
    # A PEFT model finds its whole base model under some of these prefixes.
    classifier = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(classifier, classifier.base_model_prefix)
    return backbone(**joined_inputs(backbone, ids, attention_mask))[0]


def check_value_model(policy: Any, value_model: Any) -> None:
    """Raise a `UserError` for a value model of a kind that cannot be read, or that does not fit the policy."""
    if isinstance(value_model, ValueHead):
        return
    if is_encoder_decoder(policy):
        raise UserError(
            "value_model cannot be given with an encoder-decoder policy, whose value function is a head on its "
            "decoder: pass None."
        )
    prefix = getattr(value_model, "base_model_prefix", None)
    if not prefix or not hasattr(value_model, prefix) or not hasattr(value_model, "score"):
        raise UserError(
            f"value_model is a {type(value_model).__name__}, but must have a backbone and a `score` head: load it "
            "with AutoModelForSequenceClassification.from_pretrained(..., num_labels=1), or pass None for a head on "
            "the policy."
        )
    if value_model.score.weight.shape[0] != 1:
        raise UserError(
            f"value_model has {value_model.score.weight.shape[0]} outputs, but a value is one number: load it with "
            "num_labels=1."
        )
    sizes = [model.get_input_embeddings().weight.shape[0] for model in (policy, value_model)]
    if sizes[1] < sizes[0]:
        raise UserError(
            f"value_model knows {sizes[1]} tokens and the policy {sizes[0]}: it must have the policy's vocabulary, "
            "as it reads the policy's tokens."
        )


class _Left(Exception):  # noqa: N818
    """Leaves a forward pass whose rest is not needed; never seen outside this file."""


@contextlib.contextmanager
def inputs_of(layer: nn.Module, leave: bool = False) -> Iterator[list[torch.Tensor]]:
    """What a layer reads in the passes inside of the `with`, which it is left to fill; `leave` ends them there."""
    captured: list[torch.Tensor] = []

    def capture(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        captured.append(inputs[0])
        if leave:
            raise _Left

    handle = layer.register_forward_pre_hook(capture)
    try:
        yield captured
    finally:
        handle.remove()
