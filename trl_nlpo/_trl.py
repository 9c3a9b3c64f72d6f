"""The contact room: the only file that touches private or experimental names of TRL.

Written against TRL 1.0.0, 1.12.0 and 1.16.0. TRL has `PPOConfig` and `PPOTrainer` up to 1.12 and not from 1.13 on.
Where they exist they are the base classes here, so that `isinstance` holds and a script that passes a `PPOConfig`
works; the constructor and `train()` of TRL are never run. Where they do not exist, `PPOConfig` below has the same
fields, and the trainer stands on TRL's trainer base.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trl.trainer.base_config import _BaseConfig
from trl.trainer.base_trainer import _BaseTrainer


# TRL warns on every import of an experimental module; whoever imports this package has chosen to.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

if TYPE_CHECKING:
    from peft import PeftConfig
    from trl import ModelConfig

HAS_PPO: bool
"""Whether the installed TRL still has its own PPO (`trl<1.13`)."""

try:
    from trl.experimental.ppo import PPOConfig, PPOTrainer
except ImportError:
    HAS_PPO = False

    @dataclass
    class PPOConfig(_BaseConfig):  # type: ignore[no-redef]
        """The fields that `trl.experimental.ppo.PPOConfig` had in TRL 1.0 to 1.12, with the same defaults."""

        learning_rate: float = field(default=3e-6, metadata={"help": "Initial learning rate of the optimizer."})
        dataset_num_proc: int | None = field(
            default=None, metadata={"help": "Number of processes that preprocess the data set."}
        )
        num_mini_batches: int = field(
            default=1, metadata={"help": "Minibatches (optimizer steps) that one batch is split into, per PPO epoch."}
        )
        total_episodes: int | None = field(
            default=None,
            metadata={"help": "Completions to sample in the whole run. None: num_train_epochs passes over the data."},
        )
        local_rollout_forward_batch_size: int = field(
            default=64, metadata={"help": "Rows per forward pass without gradient in the rollout, per process."}
        )
        num_sample_generations: int = field(
            default=10, metadata={"help": "How often during the run sample completions are printed. 0: never."}
        )
        response_length: int = field(default=53, metadata={"help": "Most tokens in a completion."})
        stop_token: Literal["eos"] | None = field(
            default=None,
            metadata={"help": "'eos' ends a completion at the tokenizer's EOS token. Excludes `stop_token_id`."},
        )
        stop_token_id: int | None = field(
            default=None, metadata={"help": "Id of the token that ends a completion. Excludes `stop_token`."}
        )
        temperature: float = field(default=0.7, metadata={"help": "Sampling temperature of the policy."})
        missing_eos_penalty: float | None = field(
            default=None, metadata={"help": "Taken from the score of a completion that has no EOS token. Positive."}
        )
        sft_model_path: str = field(
            default="EleutherAI/pythia-160m", metadata={"help": "Path of the supervised model, for scripts."}
        )
        world_size: int | None = field(default=None, metadata={"help": "Number of processes; filled in."})
        num_total_batches: int | None = field(default=None, metadata={"help": "Number of updates; filled in."})
        micro_batch_size: int | None = field(
            default=None, metadata={"help": "Rows per backward pass over all processes; filled in."}
        )
        local_batch_size: int | None = field(
            default=None, metadata={"help": "Completions per update and process; filled in."}
        )
        batch_size: int | None = field(default=None, metadata={"help": "Completions per update; filled in."})
        local_mini_batch_size: int | None = field(
            default=None, metadata={"help": "Completions per optimizer step and process; filled in."}
        )
        mini_batch_size: int | None = field(
            default=None, metadata={"help": "Completions per optimizer step; filled in."}
        )
        push_to_hub: bool = field(default=False, metadata={"help": "Push the model to the Hub after training."})
        reward_model_path: str = field(
            default="EleutherAI/pythia-160m", metadata={"help": "Path of the reward model, for scripts."}
        )
        model_adapter_name: str | None = field(
            default=None, metadata={"help": "Name of the PEFT adapter to train, when the model has several."}
        )
        ref_adapter_name: str | None = field(
            default=None, metadata={"help": "Name of the PEFT adapter that is the reference policy."}
        )
        num_ppo_epochs: int = field(default=4, metadata={"help": "Passes over each batch of rollouts."})
        whiten_rewards: bool = field(default=False, metadata={"help": "Scale the token rewards to unit variance."})
        kl_coef: float = field(default=0.05, metadata={"help": "Coefficient of the KL penalty (beta)."})
        kl_estimator: Literal["k1", "k3"] = field(
            default="k1",
            metadata={
                "help": "Estimator of the KL penalty: 'k1' is log pi - log ref, unbiased; 'k3' is never negative and "
                "has less variance (http://joschu.net/blog/kl-approx.html)."
            },
        )
        cliprange: float = field(default=0.2, metadata={"help": "Clip range of the importance ratio."})
        vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
        cliprange_value: float = field(default=0.2, metadata={"help": "Clip range of the value function."})
        gamma: float = field(default=1.0, metadata={"help": "Discount factor."})
        lam: float = field(default=0.95, metadata={"help": "Lambda of generalized advantage estimation."})
        ds3_gather_for_generation: bool = field(
            default=True,
            metadata={"help": "Without effect: under ZeRO-3 weights are always gathered for rollouts."},
        )

    TrainerBase: type = _BaseTrainer
else:
    HAS_PPO = True
    TrainerBase = PPOTrainer


def init_transformers_trainer(trainer: Any, **kwargs: Any) -> None:
    """Run the constructor of `transformers.Trainer` (through TRL's trainer base), which `PPOTrainer` skips."""
    _BaseTrainer.__init__(trainer, **kwargs)


def peft_config_from(model_args: ModelConfig) -> PeftConfig | None:
    """TRL's reading of `use_peft`, `lora_r`, … (`trl.get_peft_config`)."""
    from trl import get_peft_config

    return get_peft_config(model_args)


def quantization_config_from(model_args: ModelConfig) -> Any:
    """TRL's reading of `load_in_4bit`, `load_in_8bit`, … (`trl.get_quantization_config`)."""
    from trl import get_quantization_config

    return get_quantization_config(model_args)


@contextlib.contextmanager
def without_zero3_hooks(engine: Any) -> Iterator[None]:
    """Keep DeepSpeed's hooks off the layers of an engine, by TRL's functions for it."""
    from trl.models.utils import add_hooks, remove_hooks

    remove_hooks(engine)
    try:
        yield
    finally:
        add_hooks(engine)
