"""The contact with vLLM: everything that is no settled public name of it. Written against vLLM 0.32.

What is touched: the V1 model runner's interface of logits processors (`vllm.v1.sample.logits_processor`), the worker's
`reload_weights`, and `LLMEngine.add_lora` with `LoRARequest(load_inplace=True)`. Imported only where an engine starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch


Step = Callable[[torch.Tensor, list[tuple[int, dict[str, Any], int]]], torch.Tensor]
"""Logits `(N, V)` of a step, and of each request its index, its `extra_args` and its number of tokens so far."""


def start(folder: str | Path, step: Step, **settings: Any) -> Any:
    """An engine in this process for the model configured in `folder`, with random weights until `load_weights`.

    Args:
        folder (`str`): with a `config.json`.
        step: called with the logits of every step; leaves one token of each row.
        settings: of `vllm.LLM`.
    """
    # In this process, as the recorded sets live in the memory of our processor, and weights are handed over directly.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    # The V2 runner has another interface of processors, and none on a CPU.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    # The threads of this process are the trainer's too.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM

    return LLM(
        model=str(folder),
        load_format="dummy",
        skip_tokenizer_init=True,
        logits_processors=[_processor(step)],
        # Weights change between rollouts: nothing computed by earlier ones is ever looked up.
        enable_prefix_caching=False,
        # With it, a step's logits come before the tokens of the step before are known.
        async_scheduling=False,
        disable_log_stats=True,
        **settings,
    )


def _processor(step: Step) -> type:
    from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

    class Processor(LogitsProcessor):
        """Hands every step of the engine to `step`, with which request is where."""

        def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
            self.requests: dict[int, tuple[dict[str, Any], list[int]]] = {}

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            if batch_update is None:
                return
            for index in batch_update.removed:
                self.requests.pop(index, None)
            for index, params, _, output_ids in batch_update.added:
                # The list grows with the completion; after a preemption it is handed over as it was.
                self.requests[index] = (params.extra_args or {}, output_ids)
            for source, target, direction in batch_update.moved:
                moved, replaced = self.requests.pop(source, None), self.requests.pop(target, None)
                if moved is not None:
                    self.requests[target] = moved
                if replaced is not None and direction == MoveDirectionality.SWAP:
                    self.requests[source] = replaced

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            known = [(index, extra, len(ids)) for index, (extra, ids) in self.requests.items() if extra]
            return step(logits, known) if known else logits

    return Processor


def load_weights(llm: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Put weights, by their names in a checkpoint, in the place of the engine's."""
    # Not `model.load_weights`: on a CPU, layers have packed theirs, and there is nothing left to load into.
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})


def load_adapter(llm: Any, name: str, number: int, folder: str | Path) -> Any:
    """Load an adapter, in the place of the earlier one of this number; returns what requests name it by."""
    from vllm.lora.request import LoRARequest

    llm.llm_engine.add_lora(LoRARequest(name, number, str(folder), load_inplace=True))
    return LoRARequest(name, number, str(folder))


def generate(
    llm: Any, requests: Sequence[tuple[Sequence[int], dict[str, Any], Any]], stops: Sequence[int], longest: int
) -> None:
    """Run requests until a stop token or `longest` tokens.

    Args:
        requests: of each its prompt, its `extra_args` for the processor, and its adapter or None.
        stops: token ids.
        longest (`int`)
    """
    from vllm import SamplingParams

    params = [
        # Greedy, as `step` has left one token.
        SamplingParams(
            temperature=0.0, max_tokens=longest, stop_token_ids=list(stops), ignore_eos=True, detokenize=False,
            extra_args=extra,
        )
        for _, extra, _ in requests
    ]  # fmt: skip
    adapters = [adapter for _, _, adapter in requests]
    llm.generate(
        [{"prompt_token_ids": list(prompt)} for prompt, _, _ in requests],
        params,
        use_tqdm=False,
        lora_request=adapters if any(adapters) else None,
    )
