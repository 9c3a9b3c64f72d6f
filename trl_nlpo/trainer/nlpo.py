"""`NLPOTrainer`: assembles the rooms (rollout, scoring, advantages, update) and carries the Hugging Face plumbing."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from accelerate import PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..algorithm import advantages, rollout, scoring, update
from ..algorithm.batch_plan import BatchPlan
from ..algorithm.distribution import MaskSettings, SamplingSettings
from ..algorithm.objective import Objective
from ..algorithm.reward_models import as_reward_functions
from ..config import NLPOConfig
from ..errors import UserError
from ..functional.rewards import adapt_kl_coef
from ..launch.fsdp import computing_dtype, configure_fsdp, start_fsdp
from ..launch.launch import check_is_whole, is_cut, whole_to_compute, whole_to_hold
from ..launch.processes import check_launch, failing_together, of_all, start_equal
from ..launch.zero import cast_like_zero, configure_zero
from ..models.adapters import (
    VALUE_ADAPTER,
    active_adapter,
    add_value_adapter,
    can_hold_several,
    is_adapter_model,
    set_up_trained_adapter,
    with_adapter,
    without_adapter,
)
from ..models.copies import frozen_adapter, frozen_copy, swapped_weights, with_dtype
from ..models.dropout import disable_dropout
from ..models.inputs import longest_prompt
from ..models.masking_policy import MaskingPolicy
from ..models.policy_and_value import PolicyAndValue, check_value_model, completion_logits, output_layer
from ..models.quantized import prepare_quantized
from ..prompts import PromptDataset, collate_prompts, decoder, prompt_tokenizer
from ..records import Estimates, PromptBatch, Rollout, Scores, Sequences, UpdateStats
from .huggingface import TrainerPlumbing


if TYPE_CHECKING:
    from peft import PeftConfig


class NLPOTrainer(TrainerPlumbing):
    """Trainer for Natural Language Policy Optimization (NLPO), and for PPO with `mask_strategy="none"`.

    NLPO is PPO over tokens in which the policy may only sample what a masking policy, a frozen copy of it that is
    synced every µ updates, thinks likely. For details see the paper: [Is Reinforcement Learning (Not) for Natural
    Language Processing?](https://huggingface.co/papers/2210.01241). It takes all that TRL's `PPOTrainer` takes, in the
    same order.

    Args:
        args ([`NLPOConfig`]):
            Training arguments. A `PPOConfig` of TRL works too and gets NLPO's defaults for what it lacks.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the policy; needs a pad token, which may be the EOS token.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The policy to train.
        ref_model ([`~transformers.PreTrainedModel`], *optional*):
            Reference policy of the KL penalty. `None`: a copy of the policy; with PEFT, the policy without its
            adapter.
        reward_model (*optional*):
            The same as `reward_funcs`, by TRL's name.
        train_dataset ([`~datasets.Dataset`]):
            Rows with `prompt` (text or messages) or `input_ids`. All other columns reach the reward functions.
        value_model ([`~transformers.PreTrainedModel`], *optional*):
            Value function: a sequence classifier with one label. `None`: a scalar head on the policy's backbone.
        data_collator (*optional*):
            For tokenized data sets; its padding is taken off again.
        eval_dataset ([`~datasets.Dataset`] or `dict` of these, *optional*):
            Held-out prompts in the same format.
        optimizers (`tuple`, *optional*): optimizer and scheduler of your own; the scheduler steps once per update.
        callbacks (`list` of [`~transformers.TrainerCallback`], *optional*)
        peft_config ([`~peft.PeftConfig`], *optional*): train an adapter on `model`.
        reward_funcs (*optional*):
            A function with TRL's GRPO signature, a model, a path of one, or a list of these. Functions return a
            number, a list with one number per token, or None for each completion.
        reward_processing_classes (*optional*):
            Tokenizers of reward models that do not share the policy's; one per reward, None for functions.

    Raises:
        UserError: something that cannot work, in one line, before training starts.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "nlpo", "trl-nlpo"]
    _name = "NLPO"
    _paper: ClassVar[dict[str, str]] = {
        "title": "Is Reinforcement Learning (Not) for Natural Language Processing: Benchmarks, Baselines, and "
        "Building Blocks for Natural Language Policy Optimization",
        "id": "2210.01241",
        "citation": textwrap.dedent("""\
            @inproceedings{ramamurthy2023is,
                title        = {{Is Reinforcement Learning (Not) for Natural Language Processing: Benchmarks, Baselines, and Building Blocks for Natural Language Policy Optimization}},
                author       = {Rajkumar Ramamurthy and Prithviraj Ammanabrolu and Kiant{\\'e} Brantley and Jack Hessel and Rafet Sifa and Christian Bauckhage and Hannaneh Hajishirzi and Yejin Choi},
                booktitle    = {The Eleventh International Conference on Learning Representations},
                year         = 2023,
                eprint       = {arXiv:2210.01241}
            }"""),  # noqa: E501
    }

    def __init__(
        self,
        args: NLPOConfig,
        processing_class: PreTrainedTokenizerBase,
        model: PreTrainedModel | nn.Module,
        ref_model: PreTrainedModel | nn.Module | None = None,
        reward_model: Any = None,
        train_dataset: Any = None,
        value_model: PreTrainedModel | nn.Module | None = None,
        data_collator: Any = None,
        eval_dataset: Any = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LRScheduler | None] = (None, None),
        callbacks: list[TrainerCallback] | None = None,
        peft_config: PeftConfig | None = None,
        reward_funcs: Any = None,
        reward_processing_classes: Any = None,
    ) -> None:
        args = as_nlpo_config(args)
        check_launch(args)
        args.world_size = PartialState().num_processes
        _check_arguments(processing_class, model, ref_model, reward_model, reward_funcs, train_dataset)
        output_layer(model)
        policy = with_adapter(model, peft_config)
        self.is_peft_model = is_adapter_model(policy)
        prepare_quantized(policy, self.is_peft_model)
        self.trained_adapter = ""
        self.model_adapter_name, self.ref_adapter_name = args.model_adapter_name, args.ref_adapter_name
        value_adapter = self._set_up_adapters(policy, value_model) if self.is_peft_model else None
        if value_model is not None:
            check_value_model(policy, value_model)
        for module in (policy, ref_model, value_model):
            if module is not None:
                disable_dropout(module)

        self.sampling = SamplingSettings.from_config(args, processing_class)
        self.mask = MaskSettings.from_config(args, processing_class, policy, self.sampling)
        self._prompt_tokenizer = prompt_tokenizer(args, processing_class)
        self._longest_prompt = longest_prompt(policy, self.sampling.max_new_tokens)
        self._user_collator = data_collator
        self.prompts = self._tokenized(train_dataset, "train_dataset")[""]
        self.eval_prompts = {} if eval_dataset is None else self._tokenized(eval_dataset, "eval_dataset")
        if args.gradient_checkpointing:
            args.gradient_checkpointing_kwargs = {"use_reentrant": False, **(args.gradient_checkpointing_kwargs or {})}

        super().__init__(
            model=PolicyAndValue(policy, value_model, value_adapter, args.value_trains_backbone),
            args=args,
            data_collator=collate_prompts,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # Microbatches are accumulated in the update itself, by tokens; accelerate must not divide a second time.
        self.accelerator.gradient_accumulation_steps = 1
        configure_zero(self.accelerator, args)
        configure_fsdp(self.accelerator, args)
        self.plan = BatchPlan.from_config(args, self.accelerator.num_processes, len(self.prompts))
        _fill_in_batch_sizes(args, self.plan)
        self._place(ref_model)
        self.reward_functions = as_reward_functions(
            reward_model if reward_funcs is None else reward_funcs,
            reward_processing_classes,
            self.accelerator.device,
            args.local_rollout_forward_batch_size,
        )
        self.reward_weights = scoring.check_weights(args.reward_weights, len(self.reward_functions))
        self._set_up_copies(policy, ref_model, is_fresh=peft_config is not None)
        self.kl_coef = float(args.kl_coef)
        self.objective = Objective(
            args.cliprange, args.cliprange_value, args.vf_coef, args.entropy_coef, args.max_grad_norm
        )
        self.num_updates_done = 0
        """Updates that this trainer has taken, in `train()` or in a loop of one's own."""
        self._rollouts_since_update = 0
        self.state = self._new_state()
        self._prepare()

    def _set_up_adapters(self, policy: Any, value_model: Any) -> str | None:
        """Check the adapters of a PEFT model and add one for the value function; returns that one's name."""
        self.trained_adapter = self.model_adapter_name or policy.active_adapter
        set_up_trained_adapter(policy, self.trained_adapter, self.ref_adapter_name)
        if value_model is not None or not can_hold_several(policy):
            return None
        add_value_adapter(policy, self.trained_adapter)
        return VALUE_ADAPTER

    def _place(self, ref_model: Any) -> None:
        """The policy on its device, equal on all processes and in the engine's precision, before copies are made."""
        check_is_whole(self.model, ref_model)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            # These place a model themselves, but only when they prepare it.
            self.model.to(self.accelerator.device)
        start_equal(self.model)
        for module in (self.model, ref_model):
            cast_like_zero(self.accelerator, module)

    def _set_up_copies(self, policy: Any, ref_model: Any, is_fresh: bool) -> None:
        """Reference policy (a model, or the weights of the adapter that the policy starts with) and masking policy."""
        self._copies_dtype = computing_dtype(self.accelerator)
        if ref_model is None and not self.is_peft_model:
            ref_model = frozen_copy(policy)
        self.ref_model = None if ref_model is None else with_dtype(ref_model, self._copies_dtype)
        if self.ref_model is not None:
            self.ref_model.to(self.accelerator.device).eval()
        # The policy that a user has warmed up is the reference, with its adapter; a fresh adapter is none.
        starts_warm = self.is_peft_model and not is_fresh and self.ref_adapter_name is None and ref_model is None
        self._reference_weights = (
            frozen_adapter(policy, self.trained_adapter, self._copies_dtype) if starts_warm else {}
        )
        self.masking_policy = MaskingPolicy(
            policy,
            self.args.mask_sync_steps,
            self.mask.is_active,
            self.trained_adapter,
            # An adapter of its own would be cut with the policy.
            in_one_batch=self.accelerator.device.type == "cuda" and not is_cut(self.accelerator),
            dtype=self._copies_dtype,
        )

    def _renew_scheduler(self) -> None:
        """Begin a second `train()` with the learning rate of the first, as `transformers.Trainer` does."""
        if self._made_scheduler and self.lr_scheduler.last_epoch > 0:
            optimizer, self.lr_scheduler = self.lr_scheduler.optimizer, None
            self.create_scheduler(self.plan.num_updates, optimizer)

    def _prepare(self) -> None:
        """Optimizer and scheduler, and model and optimizer as accelerate wants them."""
        if self.args.gradient_checkpointing or getattr(self.args, "activation_checkpointing", False):
            self.model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        self._made_scheduler = self.lr_scheduler is None
        self.create_optimizer_and_scheduler(num_training_steps=self.plan.num_updates)
        _check_optimizer(self.optimizer, self.model)
        self.accelerator.ddp_handler = _ddp_settings(self.args)
        self.model_wrapped, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        start_fsdp(self.accelerator, self.model_wrapped)
        self.model.add_model_tags(self._tag_names)

    def _tokenized(self, dataset: Any, name: str) -> dict[str, PromptDataset]:
        """Data sets by name; a single one has the name ""."""
        named = dict(dataset) if isinstance(dataset, dict) else {"": dataset}
        return {
            key: PromptDataset(rows, self._prompt_tokenizer, name, self._longest_prompt, self._user_collator)
            for key, rows in named.items()
        }

    @property
    def policy_and_value(self) -> PolicyAndValue:
        """The trained module, unwrapped: `.policy` and `.value_model`."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def policy_model(self) -> nn.Module:
        """The policy, by TRL's name."""
        return self.policy_and_value.policy

    @property
    def value_model(self) -> nn.Module:
        """The value function: a model of its own, or a head on the policy's backbone."""
        return self.policy_and_value.value_model

    # The algorithm

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train: collect, score, estimate, update, sync (paper, section 4).

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint folder, or True for the newest one under
                `output_dir`.
            trial, ignore_keys_for_eval: taken for the signature's sake of `transformers.Trainer`.

        Returns:
            `TrainOutput` with the number of updates, the mean policy loss and run-time metrics.
        """
        start = self._begin_training(resume_from_checkpoint)
        with self._kept_safe():
            for batch in self.get_train_dataloader():
                self._begin_update()
                rollout = self.collect_rollout(batch)
                scores = self.score_rollout(rollout)
                estimates = self.estimate_advantages(rollout, scores)
                stats = self.update_policy(rollout, estimates)
                self.adapt_kl_coef(estimates)
                self.sync_masking_policy()
                self._end_update(rollout, scores, estimates, stats)
                if self.control.should_training_stop:
                    break
        return self._end_training(start)

    def collect_rollout(self, prompts: PromptBatch | list[Any]) -> Rollout:
        """Sample a completion for every prompt from the policy under the mask.

        Args:
            prompts ([`PromptBatch`] or `list`): a batch of the data loader, or prompts as text or messages.

        Returns:
            [`Rollout`]: tokens, old and reference log-probabilities, values and masks.
        """
        if not isinstance(prompts, PromptBatch):
            prompts = PromptBatch(self._prompt_tokenizer(prompts), list(prompts))
        seed = self._seed_of_update()
        self._rollouts_since_update += 1
        with self._generation_model() as model:
            return rollout.collect_rollout(
                model,
                prompts,
                reference_logits=self._reference_logits,
                masking_policy=self.masking_policy,
                sampling=self.sampling,
                mask=self.mask,
                seed=seed,
                forward_batch_size=self.args.local_rollout_forward_batch_size,
                pad_token_id=self.processing_class.pad_token_id,
                decode=decoder(self.processing_class),
                first_row=self.accelerator.process_index * len(prompts),
            )

    def score_rollout(self, rollout: Rollout) -> Scores:
        """Ask the reward functions about every completion.

        Raises:
            RewardError: a function raised or returned something unusable, on this process or on another.
        """
        with failing_together():
            scores = scoring.score_rollout(
                rollout,
                self.reward_functions,
                self.reward_weights,
                missing_eos_penalty=self.args.missing_eos_penalty,
                trainer_state=self.state,
                failure=self.args.reward_failure,
                timeout=self.args.reward_timeout,
            )
        metrics: dict[str, list[float]] = {}
        for logged in of_all([scores.metrics]):
            for name, values in logged.items():
                metrics.setdefault(name, []).extend(values)
        return dataclasses.replace(scores, metrics=metrics)

    def estimate_advantages(self, rollout: Rollout, scores: Scores) -> Estimates:
        """Token rewards with the KL penalty, generalized advantages (whitened over all processes) and returns."""
        return advantages.estimate_advantages(
            rollout,
            scores,
            kl_coef=self.kl_coef,
            gamma=self.args.gamma,
            lam=self.args.lam,
            kl_estimator=self.args.kl_estimator,
            whiten_rewards=self.args.whiten_rewards,
            all_sum=self._all_sum,
        )

    def update_policy(self, rollout: Rollout, estimates: Estimates) -> UpdateStats:
        """`num_ppo_epochs` x `num_mini_batches` optimizer steps of the clipped objective, and one scheduler step."""
        self._rollouts_since_update = 0
        self._is_updating = True
        stats = update.update_policy(
            self.model_wrapped,
            rollout,
            estimates,
            module=self.policy_and_value,
            optimizer=self.optimizer,
            accelerator=self.accelerator,
            plan=self.plan,
            objective=self.objective,
            sampling=self.sampling,
            all_sum=self._all_sum,
            generator=torch.Generator().manual_seed(self._seed_of_update()),
        )
        self._is_updating = False
        self.num_updates_done += 1
        self.masking_policy.policy_moved()
        self._learning_rate = self.lr_scheduler.get_last_lr()[0]
        # A scheduler that waits for a plateau is stepped by evaluations instead.
        if not isinstance(self.lr_scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.lr_scheduler.step()
        return dataclasses.replace(stats, first_ratio_deviation=max(of_all([stats.first_ratio_deviation])))

    def adapt_kl_coef(self, estimates: Estimates) -> float:
        """Move the KL coefficient towards `kl_target`, if there is one; returns the coefficient."""
        if self.args.kl_target is not None:
            skipped = 0 if estimates.skipped is None else int(estimates.skipped.sum())
            sums = [float(estimates.kl.sum()), len(estimates.kl) - skipped]
            kl, count = self._all_sum(torch.tensor(sums, dtype=torch.float64, device=estimates.kl.device)).tolist()
            if not count:
                return self.kl_coef
            gain = 0.1 if self.args.kl_horizon is None else self.plan.batch_size / self.args.kl_horizon
            self.kl_coef = adapt_kl_coef(self.kl_coef, kl / count, self.args.kl_target, gain)
        return self.kl_coef

    def sync_masking_policy(self, force: bool = False) -> bool:
        """Copy the policy into the masking policy if µ updates have passed (or `force`); returns whether it did."""
        if force or self.masking_policy.sync_is_due:
            with whole_to_hold(self.model_wrapped, self.accelerator):
                self.masking_policy.sync()
            return True
        return False

    def _reference_logits(self, sequences: Sequences) -> torch.Tensor:
        if self.ref_model is not None:
            return completion_logits(self.ref_model, sequences)
        with self.null_ref_context():
            return completion_logits(self.policy_model, sequences)

    @contextlib.contextmanager
    def null_ref_context(self) -> Iterator[None]:
        """The policy's base model as the reference: `ref_adapter_name`, the starting adapter, or no adapter on it."""
        policy: Any = self.policy_model
        if not self.is_peft_model:
            context: Any = contextlib.nullcontext()
        elif self.ref_adapter_name:
            context = active_adapter(policy, self.ref_adapter_name)
        elif self._reference_weights:
            context = swapped_weights(policy, self._reference_weights)
        else:
            context = without_adapter(policy)
        with context:
            yield

    @contextlib.contextmanager
    def whole_weights(self) -> Iterator[PolicyAndValue]:
        """Policy and value function with whole weights, to compute with; all processes enter and leave together.

        Under FSDP2 and DeepSpeed ZeRO-3 a process has a share of them at other times. Changes to them are lost.
        """
        with whole_to_compute(self.model_wrapped, self.accelerator):
            yield self.policy_and_value

    @contextlib.contextmanager
    def _generation_model(self) -> Iterator[PolicyAndValue]:
        """Policy and value function in the precision of the update, so that the first ratio is 1."""
        # FSDP casts the weights instead.
        precision = self.accelerator.autocast() if self._copies_dtype is None else contextlib.nullcontext()
        with self.whole_weights() as module, precision:
            yield module

    def _all_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(tensor, reduction="sum")

    def _seed_of_update(self) -> int:
        """A seed for the randomness of this update, so that a run can go on from any; the same on all processes."""
        seed = self.args.seed
        for number in (self.num_updates_done, self._rollouts_since_update):
            seed = (seed * 1_000_003 + number + 1) % 2**63
        return seed


def as_nlpo_config(args: Any) -> NLPOConfig:
    """`args` as it is, or a `PPOConfig` of TRL with NLPO's defaults for what it lacks.

    Raises:
        UserError: neither.
    """
    if isinstance(args, NLPOConfig):
        return args
    if not dataclasses.is_dataclass(args) or not hasattr(args, "num_ppo_epochs"):
        raise UserError(f"args must be an NLPOConfig (or TRL's PPOConfig), not {type(args).__name__}.")
    known = {field.name for field in dataclasses.fields(NLPOConfig) if field.init}
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(args) if field.init}
    # TRL's PPO on a CPU computes in float32, whatever its default of bf16 says.
    values["bf16"] = (values.get("bf16") and torch.cuda.is_available()) or None
    if not values["bf16"] and getattr(args, "bf16", False):
        # With transformers 4 that configuration has told accelerate already, by a variable that outlives it.
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
    return NLPOConfig(**{name: value for name, value in values.items() if name in known and not name.startswith("_")})


def _check_arguments(
    processing_class: Any, model: Any, ref_model: Any, reward_model: Any, reward_funcs: Any, train_dataset: Any
) -> None:
    if train_dataset is None:
        raise UserError("`train_dataset` is required.")
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model must be a loaded model, not {type(model).__name__}: use AutoModelForCausalLM.from_pretrained."
        )
    if ref_model is model:
        raise UserError(
            "`model` and `ref_model` cannot be the same object: pass None for a copy of the model, or make a "
            "copy of your own."
        )
    if reward_model is None and reward_funcs is None:
        raise UserError("No reward: pass reward_funcs (a function, a model, or a list of these) or reward_model.")
    if reward_model is not None and reward_funcs is not None:
        raise UserError("reward_model and reward_funcs are two names of one thing: pass one of them.")
    if getattr(processing_class, "pad_token_id", None) is None:
        raise UserError(
            "The tokenizer has no pad token: set one before training, for example "
            "tokenizer.pad_token = tokenizer.eos_token."
        )


def _check_optimizer(optimizer: torch.optim.Optimizer, model: PolicyAndValue) -> None:
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if model.shares_backbone and not any(id(parameter) in trained for parameter in model.value_model.parameters()):
        raise UserError(
            "The optimizer given does not train the value head, which the trainer made: pass a value_model of your "
            "own and its parameters, or leave `optimizers` out."
        )


def _ddp_settings(args: NLPOConfig) -> DistributedDataParallelKwargs:
    """The `ddp_*` arguments that are set, as `transformers.Trainer` reads them."""
    settings = {
        "find_unused_parameters": args.ddp_find_unused_parameters,
        "bucket_cap_mb": args.ddp_bucket_cap_mb,
        "broadcast_buffers": args.ddp_broadcast_buffers,
    }
    return DistributedDataParallelKwargs(**{name: value for name, value in settings.items() if value is not None})


def _fill_in_batch_sizes(args: NLPOConfig, plan: BatchPlan) -> None:
    """TRL's PPO writes the sizes it works out into its configuration, where scripts read them."""
    args.world_size = plan.num_processes
    args.num_total_batches = plan.num_updates
    args.total_episodes = args.total_episodes or plan.num_updates * plan.batch_size
    args.local_batch_size, args.batch_size = plan.local_batch_size, plan.batch_size
    args.micro_batch_size = plan.microbatch_size * plan.num_processes
    args.local_mini_batch_size = plan.local_minibatch_size
    args.mini_batch_size = plan.local_minibatch_size * plan.num_processes
