"""vLLM as the engine, in the trainer's process: its logits, our sets and draws."""

from __future__ import annotations

import copy
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ... import _vllm
from ...errors import UserError, one_line
from ...models.adapters import adapter_parameters, is_adapter_model, save_adapter, takes_mixed_batches
from ...models.inputs import is_encoder_decoder
from ...models.masking_policy import MaskingPolicy
from ...models.modes import evaluation_mode
from ...naming import require_package
from ..distribution import MaskSettings, SamplingSettings
from ..draws import random_state, set_random_state
from ..generation import Sample
from .row_sampler import Place, RowSampler


WHO = "rollout_engine 'vllm'"

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM can be made for."""

_MOST_DISTANCE = 0.1
"""Total variation between policy and copy that rounding, of bfloat16 too, can explain."""

_NEUTRAL = ("use_cache", "num_beams", "num_return_sequences")
"""Fields of `generation_kwargs` that change nothing here."""


def check_engine(
    policy: Any, sampling: SamplingSettings, mask: MaskSettings, sync_steps: int | None, num_processes: int = 1
) -> None:
    """Refuse what this engine cannot do as the transformers engine does it.

    Args:
        policy: to be sampled from.
        sampling ([`SamplingSettings`]), mask ([`MaskSettings`]): of rollouts.
        sync_steps (`int`, *optional*): µ.
        num_processes (`int`): of the run.

    Raises:
        UserError: in one line.
    """
    if is_encoder_decoder(policy):
        raise UserError(f"{WHO} has no encoder-decoder models: leave rollout_engine at 'transformers'.")
    if num_processes > 1:
        raise UserError(f"{WHO} works in one process, and this run has {num_processes}: use 'transformers'.")
    fields = [name for name in sampling.generation_fields if name not in _NEUTRAL]
    if fields:
        raise UserError(
            f"{WHO} does not know generation_kwargs {', '.join(fields)}: leave out, or use 'transformers'."
        )
    base = policy.get_base_model() if is_adapter_model(policy) else policy
    if getattr(base, "is_quantized", False):
        raise UserError(f"{WHO} cannot take over the weights of a quantized model: use 'transformers'.")
    if is_adapter_model(policy):
        if not takes_mixed_batches(policy):
            raise UserError(f"{WHO} takes plain LoRA only (no DoRA, bias or modules_to_save): use 'transformers'.")
    elif mask.is_active and sync_steps != 1:
        raise UserError(
            f"{WHO} has room for one full model, and mask_sync_steps {sync_steps} makes the masking policy another: "
            "train LoRA (peft_config), set mask_sync_steps to 1, or use 'transformers'."
        )
    require_package("vllm", WHO, "vllm")


class VLLMEngine:
    """[`RolloutEngine`] with a copy of the policy in vLLM.

    Args:
        policy: a causal language model, whole or with LoRA, that `check_engine` lets pass.
        adapter (`str`): of a PEFT model, the adapter that is the policy; "" without.
        max_model_length (`int`): most tokens of prompt and completion.
        max_num_seqs (`int`): completions at a time.
        dtype (`torch.dtype`): of the copy's weights.
        gpu_memory_utilization (`float`): share of the GPU's memory for the copy and its cache.

    Raises:
        UserError: the engine does not start; with its own reason.
    """

    def __init__(
        self,
        policy: Any,
        adapter: str,
        *,
        max_model_length: int,
        max_num_seqs: int,
        dtype: torch.dtype,
        gpu_memory_utilization: float,
    ):
        self._device = next(policy.parameters()).device
        self._adapter, self._base_is_loaded = adapter, False
        # A completion may be two rows.
        self._most_rows = 2 * max_num_seqs if adapter else max_num_seqs
        self._most_tokens = max(8192, 2 * max_model_length)
        self._max_model_length = max_model_length
        self._sampler: RowSampler | None = None
        self._trial: list[torch.Tensor] | None = None
        self._masking_policy: MaskingPolicy | None = None
        self._adapters: dict[bool, Any] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="trl-nlpo-engine-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        base = policy.get_base_model() if adapter else policy
        config = copy.deepcopy(base.config)
        # An output layer of its own: a tied one that vLLM has packed for a CPU would keep the weights of the start.
        config.tie_word_embeddings = False
        config.save_pretrained(self._folder)
        lora = {}
        if adapter:
            rank = policy.peft_config[adapter].r
            lora = {"enable_lora": True, "max_loras": 2, "max_lora_rank": next((r for r in _RANKS if r >= rank), rank)}
        # The engine seeds the global generators for itself.
        state = random_state()
        try:
            self._llm = _vllm.start(
                self._folder,
                self._step,
                dtype=str(dtype).removeprefix("torch."),
                max_model_len=max_model_length,
                max_num_seqs=self._most_rows,
                max_num_batched_tokens=self._most_tokens,
                gpu_memory_utilization=gpu_memory_utilization,
                enforce_eager=self._device.type == "cpu",
                **lora,
            )
        except Exception as error:
            raise UserError(f"{WHO} does not start: {one_line(error, 400)}") from error
        finally:
            set_random_state(state)
        self._check_logits(policy)

    @torch.no_grad()
    def _check_logits(self, policy: Any) -> None:
        """Compare the next-token distributions of policy and copy: the copy began with random weights.

        Raises:
            UserError: they differ by more than rounding.
        """
        prompt = list(range(min(8, self._max_model_length - 1, policy.config.vocab_size)))
        self._trial = []
        self.sync(policy, MaskingPolicy(policy, None, masks=False))
        self._sampler = RowSampler([prompt], torch.zeros(1, 1), SamplingSettings(1), MaskSettings("none"), False)
        self._generate([0])
        with evaluation_mode(policy):
            own = policy(input_ids=torch.tensor([prompt], device=self._device)).logits[0, -1].float().softmax(-1)
        copied = self._trial[-1][0].to(own.device).softmax(-1)
        self._trial = None
        distance = 0.5 * float((own - copied).abs().sum())
        if not distance < _MOST_DISTANCE:
            raise UserError(
                f"{WHO} computes another distribution than {type(policy).__name__} (total variation {distance:.2f} on "
                "a trial prompt): its copy of this architecture is not exact; use 'transformers'."
            )

    def sync(self, policy: Any, masking_policy: MaskingPolicy) -> None:
        self._masking_policy = masking_policy
        try:
            if not self._adapter or not self._base_is_loaded:
                _vllm.load_weights(self._llm, _base_weights(policy))
                self._base_is_loaded = True
            if self._adapter:
                self._load_adapter(policy, is_mask=False)
                if not masking_policy.is_current:
                    with masking_policy.model() as model:
                        self._load_adapter(model, is_mask=True)
        except Exception as error:
            raise UserError(f"{WHO} does not take over the weights: {one_line(error, 400)}") from error

    def _load_adapter(self, model: Any, is_mask: bool) -> None:
        name = "mask" if is_mask else "policy"
        folder = self._folder / name
        save_adapter(model, self._adapter, folder)
        self._adapters[is_mask] = _vllm.load_adapter(self._llm, name, 1 + is_mask, folder)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        draws: torch.Tensor,
        sampling: SamplingSettings,
        mask: MaskSettings,
        rows_at_a_time: int,
    ) -> Iterator[Sample]:
        in_pairs = mask.is_active and self._masking_policy is not None and not self._masking_policy.is_current
        if in_pairs and not self._adapter:
            raise UserError(f"{WHO} cannot compute a masking policy that is not the policy without LoRA.")
        longest = max(map(len, prompts)) + sampling.max_new_tokens
        if longest > self._max_model_length:
            raise UserError(
                f"{WHO} was made for {self._max_model_length} tokens of prompt and completion, but a row may have "
                f"{longest}: raise vllm_max_model_length."
            )
        self._sampler = sampler = RowSampler(prompts, draws, sampling, mask, in_pairs)
        for rows in _groups(prompts, self._most_tokens, self._most_rows, 2 if in_pairs else 1):
            self._generate(rows)
        for row in sorted(sampler.broken):
            sampler.forget([row])
            self._generate([row])
        if sampler.broken:
            raise UserError(f"{WHO} has too little memory for one completion: raise vllm_gpu_memory_utilization.")
        for start in range(0, len(prompts), rows_at_a_time):
            yield sampler.sample(range(len(prompts))[start : start + rows_at_a_time], self._device)

    def _generate(self, rows: Sequence[int]) -> None:
        assert self._sampler is not None
        sampler, requests = self._sampler, []
        for row in rows:
            for is_mask in (False, True) if sampler.in_pairs else (False,):
                extra = {"row": row, "is_mask": is_mask}
                requests.append((sampler.prompts[row], extra, self._adapters.get(is_mask)))
        sampling = sampler.sampling
        try:
            _vllm.generate(self._llm, requests, sampling.stop_token_ids, sampling.max_new_tokens)
        except Exception as error:
            raise UserError(
                f"{WHO} failed in a rollout: {one_line(error, 400)}; checkpoints are whole: resume the run."
            ) from error

    def _step(self, logits: torch.Tensor, requests: list[tuple[int, dict[str, Any], int]]) -> torch.Tensor:
        assert self._sampler is not None
        if self._trial is not None:
            self._trial.append(logits.float().clone())
        return self._sampler.step(
            logits, [Place(index, extra["row"], extra["is_mask"], position) for index, extra, position in requests]
        )


def _groups(prompts: Sequence[Sequence[int]], most_tokens: int, most_rows: int, copies: int) -> Iterator[list[int]]:
    """Rows whose prompts fit into one step, so that the two of a pair begin together."""
    group: list[int] = []
    for row in range(len(prompts)):
        joined = [*group, row]
        tokens = copies * sum(len(prompts[other]) for other in joined)
        if group and (tokens > most_tokens or copies * len(joined) > most_rows):
            yield group
            joined = [row]
        group = joined
    if group:
        yield group


def _base_weights(policy: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The base model's weights by their names in a checkpoint, without adapters; a tied output layer as one more."""
    base, of_adapters = policy, set()
    if is_adapter_model(policy):
        base = policy.get_base_model()
        of_adapters = {id(p) for name in policy.peft_config for p in adapter_parameters(policy, name).values()}
    for name, parameter in base.named_parameters():
        if id(parameter) not in of_adapters:
            yield name.replace(".base_layer.", "."), parameter.detach()
    output = base.get_output_embeddings().weight
    if output is base.get_input_embeddings().weight:
        module = next(name for name, part in base.named_modules() if part is base.get_output_embeddings())
        yield f"{module}.weight", output.detach()
