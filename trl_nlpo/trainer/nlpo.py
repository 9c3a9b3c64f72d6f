"""`NLPOTrainer`: assembles the rooms (rollout, scoring, advantages, update) and runs them in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import textwrap
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import TrainOutput
from transformers.utils import logging

from ..algorithm import advantages, rollout, scoring, trust_region, update
from ..algorithm.distribution import MaskSettings, SamplingSettings
from ..algorithm.draws import seeded
from ..algorithm.engines import RolloutEngine
from ..algorithm.engines.generate import TransformersEngine
from ..algorithm.engines.vllm import VLLMEngine, check_engine
from ..algorithm.objective import Objective
from ..algorithm.reward_models import as_reward_functions
from ..algorithm.self_test import can_fuse_output_layer, can_use_cache, trial_rows
from ..config import NLPOConfig
from ..config.names_elsewhere import ARGUMENTS, knows_other_names
from ..errors import UserError
from ..functional.rewards import adapt_kl_coef
from ..functional.statistics import deviation, masked_mean, running_moments, running_scale
from ..launch.kinds import check_launch
from ..launch.processes import failing_together, of_all
from ..models.adapters import changes_base, is_adapter_model
from ..models.masking_policy import MaskingPolicy
from ..models.modes import evaluation_mode
from ..models.policy_and_value import PolicyAndValue
from ..models.reference import Reference
from ..prompts import PromptDataset, decoder
from ..records import Completions, Estimates, PromptBatch, Rollout, Scores, TokenRows, UpdateStats, without_skipped
from .best_metric import check_best_metric
from .evaluator import Evaluator
from .huggingface import HuggingFaceTrainer
from .inspection import inspect_models
from .prompt_sets import PromptSets
from .run_state import Run
from .saved_critics import SavedCritic
from .setup import as_nlpo_config, check_arguments, check_parts, loaded, prepare_policy


if TYPE_CHECKING:
    from peft import PeftConfig


logger = logging.get_logger(__name__)


@knows_other_names(ARGUMENTS)
class NLPOTrainer(HuggingFaceTrainer):
    """Trainer for Natural Language Policy Optimization (NLPO), and for PPO with `mask_strategy="none"`.

    NLPO is PPO over tokens in which the policy may only sample what a masking policy, a frozen copy of it that is
    synced every µ updates, thinks likely. For details see the paper: [Is Reinforcement Learning (Not) for Natural
    Language Processing?](https://huggingface.co/papers/2210.01241). It takes all that TRL's `PPOTrainer` takes, in the
    same order.

    Args:
        args ([`NLPOConfig`]):
            Training arguments. A `PPOConfig` of TRL works too and gets NLPO's defaults for what it lacks.
        processing_class ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the policy; needs a pad token, which may be the EOS token. `None` with the path of a model:
            the tokenizer that is there.
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`], or `str`):
            The policy to train, or the path or Hub id of one, which is loaded in float32.
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
        processing_class: PreTrainedTokenizerBase | None = None,
        model: PreTrainedModel | nn.Module | str | None = None,
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
        given, processing_class = loaded(model, processing_class)
        check_arguments(processing_class, given, ref_model, reward_model, reward_funcs, train_dataset)
        saved_critic = None if args.value_model is None else SavedCritic(args.value_model)
        if saved_critic is not None:
            if value_model is not None:
                raise UserError("value_model is given to the trainer and in its arguments: leave one of them out.")
            value_model = saved_critic.model()
        policy_and_value = prepare_policy(given, args, peft_config, value_model, ref_model)
        if saved_critic is not None:
            saved_critic.load_into(policy_and_value)
        policy = policy_and_value.policy
        self.sampling = SamplingSettings.from_config(args, processing_class, policy)
        self.mask_settings = MaskSettings.from_config(args, processing_class, policy, self.sampling)
        prompt_sets = PromptSets(
            args, processing_class, policy, self.sampling.max_new_tokens, train_dataset, eval_dataset, data_collator
        )
        super().__init__(
            model=policy_and_value,
            args=args,
            prompt_sets=prompt_sets,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        check_parts(args, policy_and_value, self.launch, self.plan)
        self.launch.place(policy_and_value, ref_model)
        self.reward_functions = as_reward_functions(
            reward_model if reward_funcs is None else reward_funcs,
            reward_processing_classes,
            self.accelerator.device,
            args.local_rollout_forward_batch_size,
            trained=policy_and_value,
            chat_template_kwargs=args.chat_template_kwargs,
        )
        check_best_metric(args, self.reward_functions, self.prompt_sets.held_out)
        models = policy_and_value, ref_model, self.reward_functions
        inspect_models(*models, args=args, tokenizer=processing_class, prompt_sets=self.prompt_sets)
        self._settle_sampling(policy)
        self.reward_weights = scoring.check_weights(args.reward_weights, len(self.reward_functions))
        self.reference = Reference(
            policy,
            ref_model,
            adapter=policy_and_value.adapter,
            ref_adapter=args.ref_adapter_name,
            is_fresh=peft_config is not None and not changes_base(peft_config),
            device=self.accelerator.device,
            dtype=self.launch.copies_dtype,
        )
        # A copy as an adapter is drawn at random first, and on GPUs only: the global random state must not know.
        with seeded(args.seed, self.accelerator.device):
            masking_policy = MaskingPolicy(
                policy,
                args.mask_sync_steps,
                self.mask_settings.is_active,
                policy_and_value.adapter,
                # An adapter of its own would be sharded with the policy.
                in_one_batch=self.accelerator.device.type == "cuda" and not self.launch.is_sharded,
                dtype=self.launch.copies_dtype,
            )
        self.rollout_engine = self._engine(policy_and_value)
        self.objective = Objective.from_config(args)
        within = args.policy_update == "trust_region"
        self.trust_region = trust_region.TrustRegion.from_config(args) if within else None
        self._settle_output_layer(policy_and_value)
        evaluator = Evaluator(args, processing_class, self.reward_functions, self.reference)
        self._assemble(masking_policy, evaluator, self.mask_settings.always_allowed)

    def _settle_sampling(self, policy: Any) -> None:
        """Test the policy on a few tokens, and do without its cache in rollouts and evaluations if that is wrong."""
        rows = self._trial_rows(policy)
        with seeded(self.args.seed, self.accelerator.device), evaluation_mode(policy):
            if can_use_cache(policy, rows):
                return
        if self.is_world_process_zero():
            logger.warning(
                f"{type(policy).__name__} computes other logits step by step with its cache than in one pass: every "
                "step is computed from the whole row, which is slower."
            )
        for name in ("generation_kwargs", "eval_generation_kwargs"):
            kwargs = getattr(self.args, name)
            if kwargs is not None or name == "generation_kwargs":
                setattr(self.args, name, {**(kwargs or {}), "use_cache": False})
        self.sampling = SamplingSettings.from_config(self.args, self.processing_class, policy)

    def _trial_rows(self, policy: Any) -> TokenRows:
        return trial_rows([ids for prompts in self.prompt_sets.all for ids in prompts.prompt_ids], policy)

    def _settle_output_layer(self, module: PolicyAndValue) -> None:
        """Leave the logits of policy and reference to be computed with their softmax, where that gives the same."""
        # A sharded weight is whole inside of its layer's forward pass only; second derivatives need the logits.
        if not self.args.fuse_output_layer or self.launch.is_sharded or self.trust_region is not None:
            return
        reference = self.reference
        rows = self._trial_rows(module.policy)
        with evaluation_mode(module):
            module.fuses_output_layer = can_fuse_output_layer(module.policy, rows)
            with reference.weights():
                reference.fuses_output_layer = can_fuse_output_layer(reference.any_model, rows)

    def _engine(self, module: PolicyAndValue) -> RolloutEngine:
        """What samples rollouts; vLLM is started here, so that what it cannot do is known before training.

        Raises:
            UserError: it cannot do what was asked for, or does not start.
        """
        args = self.args
        if args.rollout_engine == "transformers":
            return TransformersEngine()
        check_engine(
            module.policy, self.sampling, self.mask_settings, args.mask_sync_steps, self.accelerator.num_processes
        )
        longest = self.prompt_sets.longest_prompt + self.sampling.max_new_tokens
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return VLLMEngine(
            module.policy,
            module.adapter,
            max_model_length=args.vllm_max_model_length or longest,
            max_num_seqs=args.per_device_train_batch_size * args.gradient_accumulation_steps,
            dtype=dtypes.get(self.accelerator.mixed_precision, next(module.policy.parameters()).dtype),
            gpu_memory_utilization=args.vllm_gpu_memory_utilization,
        )

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
        with self._progress_closed():
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
            prompts = self.prompt_sets.tokenizer.batch(prompts)
        seed = self._seed_of_update()
        self.run.rollouts_since_update += 1
        with self._generation_model() as model:
            return rollout.collect_rollout(
                model,
                prompts,
                reference=self.reference.output,
                seed=seed,
                **self._of_sampling(),
                first_row=self.accelerator.process_index * len(prompts),
                bootstraps=self.args.bootstrap_at_length_limit,
            )

    def sample_completions(self, prompts: PromptBatch | list[Any], seed: int) -> Completions:
        """Sample a completion for every prompt as in a rollout, for people to read; no update's numbers change.

        Args:
            prompts ([`PromptBatch`] or `list`): as for `collect_rollout`; a prompt may occur several times.
            seed (`int`): decides the sampling, with the number of each row.

        Returns:
            [`Completions`]
        """
        if not isinstance(prompts, PromptBatch):
            prompts = self.prompt_sets.tokenizer.batch(prompts)
        with self._generation_model() as model:
            return rollout.sample_only(model, prompts, seed=seed, **self._of_sampling())

    def _of_sampling(self) -> dict[str, Any]:
        """What room 1 needs to sample, besides prompts and a seed."""
        return {
            "masking_policy": self.masking_policy,
            "sampling": self.sampling,
            "mask": self.mask_settings,
            "forward_batch_size": self.args.local_rollout_forward_batch_size,
            "pad_token_id": self.processing_class.pad_token_id,
            "decode": decoder(self.processing_class),
            "engine": self.rollout_engine,
        }

    def score_rollout(self, rollout: Rollout) -> Scores:
        """Ask the reward functions about every completion.

        Raises:
            RewardError: a function raised or returned something unusable, on this process or on another.
        """
        skips = self.args.reward_failure == "skip"
        with failing_together():
            answers = scoring.ask(
                rollout, self.reward_functions, trainer_state=self.state, skips=skips, timeout=self.args.reward_timeout
            )
        scales = self._reward_scales(answers) if self.args.normalize_rewards else None
        with failing_together():
            scores = scoring.combine(
                rollout,
                answers,
                self.reward_weights,
                missing_eos_penalty=self.args.missing_eos_penalty,
                skips=skips,
                scales=scales,
            )
        metrics: dict[str, list[float]] = {}
        for logged in of_all([scores.metrics]):
            for name, values in logged.items():
                metrics.setdefault(name, []).extend(values)
        return dataclasses.replace(scores, metrics=metrics)

    def _reward_scales(self, answers: scoring.Answers) -> list[float]:
        """Running standard deviations of the rewards, with those of this batch; the next update keeps them."""
        self.run.next_reward_moments = dict(self.run.reward_moments)
        for name, numbers in zip(answers.names, answers.numbers.double(), strict=True):
            known = ~numbers.isnan()
            sums = torch.stack([numbers[known].sum(), numbers[known].square().sum(), known.sum()])
            total, squares, count = self.launch.all_sum(sums.to(self.accelerator.device)).tolist()
            if count:
                before = self.run.next_reward_moments.get(name)
                self.run.next_reward_moments[name] = running_moments(before, total / count, squares / count)
        moments = self.run.next_reward_moments
        return [deviation(*moments[name]) if name in moments else 1.0 for name in answers.names]

    def estimate_advantages(self, rollout: Rollout, scores: Scores) -> Estimates:
        """Token rewards with the KL penalty, generalized advantages (whitened over all processes) and returns."""
        return advantages.estimate_advantages(
            rollout,
            scores,
            kl_coef=self.run.kl_coef,
            gamma=self.args.gamma,
            lam=self.args.lam,
            critic_lam=self.args.critic_lam,
            lam_alpha=self.args.lam_alpha,
            positive_threshold=self.args.positive_nll_threshold,
            kl_estimator=self.args.kl_estimator,
            whiten_rewards=self.args.whiten_rewards,
            all_sum=self.launch.all_sum,
        )

    def update_policy(self, rollout: Rollout, estimates: Estimates) -> UpdateStats:
        """`num_ppo_epochs` x `num_mini_batches` optimizer steps of the clipped objective, and one scheduler step."""
        self.run.rollouts_since_update = 0
        self.run.is_updating = True
        self.run.trained_policy = self.run.num_updates >= self.args.critic_warmup_steps
        if self.args.normalize_returns and self.policy_and_value.returns_scale is None:
            self._note_returns(rollout, estimates)
        step = update.update_policy
        if self.trust_region is not None:
            step = functools.partial(trust_region.update_in_trust_region, region=self.trust_region)
        stats = step(
            self.model_wrapped,
            rollout,
            estimates,
            module=self.policy_and_value,
            optimizer=self.optimizer,
            launch=self.launch,
            plan=self.plan,
            objective=self.objective,
            sampling=self.sampling,
            generator=torch.Generator().manual_seed(self._seed_of_update()),
            trains_policy=self.run.trained_policy,
        )
        if self.args.normalize_returns:
            self._note_returns(rollout, estimates)
        if self.run.next_reward_moments:
            self.run.reward_moments = self.run.next_reward_moments
        self.run.is_updating = False
        self.run.num_updates += 1
        if self.run.trained_policy:
            self.masking_policy.policy_moved()
        rates = self.lr_scheduler.get_last_lr()
        # The critic's groups, where it has a rate of its own, are behind the others.
        self.run.learning_rate, self.run.critic_learning_rate = rates[0], rates[-1]
        # One that waits for a plateau is stepped by evaluations instead.
        if "metrics" not in inspect.signature(self.lr_scheduler.step).parameters:
            self.lr_scheduler.step()
        return dataclasses.replace(stats, first_ratio_deviation=max(of_all([stats.first_ratio_deviation])))

    def _note_returns(self, rollout: Rollout, estimates: Estimates) -> None:
        """Bring the units of the value function up to date with the returns of an update."""
        learned = without_skipped(rollout.completion_mask, estimates.skipped)
        squares = masked_mean(estimates.returns.double().square(), learned, self.launch.all_sum)
        module = self.policy_and_value
        module.returns_scale = running_scale(module.returns_scale, float(squares))

    def adapt_kl_coef(self, estimates: Estimates) -> float:
        """Move the KL coefficient towards `kl_target`, if there is one; returns the coefficient."""
        if self.args.kl_target is not None and self.run.trained_policy:
            skipped = 0 if estimates.skipped is None else int(estimates.skipped.sum())
            sums = [float(estimates.kl.sum()), len(estimates.kl) - skipped]
            kl, count = self.launch.all_sum(
                torch.tensor(sums, dtype=torch.float64, device=estimates.kl.device)
            ).tolist()
            if not count:
                return self.run.kl_coef
            gain = 0.1 if self.args.kl_horizon is None else self.plan.batch_size / self.args.kl_horizon
            self.run.kl_coef = adapt_kl_coef(self.run.kl_coef, kl / count, self.args.kl_target, gain)
        return self.run.kl_coef

    def sync_masking_policy(self, force: bool = False) -> bool:
        """Copy the policy into the masking policy if µ updates have passed (or `force`); returns whether it did."""
        if force or self.masking_policy.sync_is_due:
            with self.launch.gathered(self.model_wrapped):
                self.masking_policy.sync()
            return True
        return False

    def _seed_of_update(self) -> int:
        """A seed for the randomness of this update, so that a run can resume from any; the same on all processes."""
        seed = self.args.seed
        for number in (self.run.num_updates, self.run.rollouts_since_update):
            seed = (seed * 1_000_003 + number + 1) % 2**63
        return seed

    # What scripts read, by TRL's names where TRL has one

    @property
    def policy_model(self) -> nn.Module:
        """The policy."""
        return self.policy_and_value.policy

    @property
    def value_model(self) -> nn.Module:
        """The value function: a model of its own, or a head on the policy's backbone."""
        return self.policy_and_value.value_model

    @property
    def ref_model(self) -> nn.Module | None:
        """The reference policy; None where it shares the policy's base model."""
        return self.reference.model

    def null_ref_context(self) -> contextlib.AbstractContextManager[None]:
        """The policy's base model as the reference: `ref_adapter_name`, the starting adapter, or no adapter on it."""
        return self.reference.weights()

    @property
    def is_peft_model(self) -> bool:
        """Whether an adapter is trained."""
        return is_adapter_model(self.policy_model)

    @property
    def trained_adapter(self) -> str:
        """The name of the adapter that is trained; empty without one."""
        return self.policy_and_value.adapter

    @property
    def model_adapter_name(self) -> str | None:
        """As in the arguments."""
        return self.args.model_adapter_name

    @property
    def ref_adapter_name(self) -> str | None:
        """As in the arguments."""
        return self.args.ref_adapter_name

    @property
    def prompts(self) -> PromptDataset:
        """The prompts to train on."""
        return self.prompt_sets.train

    @property
    def eval_prompts(self) -> dict[str, PromptDataset]:
        """Held-out prompts by the name of their data set; a single one has the name ""."""
        return self.prompt_sets.held_out

    @property
    def num_updates_done(self) -> int:
        """Updates that this trainer has taken, in `train()` or in a loop of one's own."""
        return self.run.num_updates

    @property
    def kl_coef(self) -> float:
        """The KL coefficient β as it is now."""
        return self.run.kl_coef

    @kl_coef.setter
    def kl_coef(self, value: float) -> None:
        self.run.kl_coef = float(value)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """What TRL's PPO had until 0.11.

        Raises:
            UserError: always, with what to call instead.
        """
        raise UserError(
            "NLPOTrainer has no step(queries, responses, scores): call train(), or collect_rollout, score_rollout, "
            "estimate_advantages and update_policy in a loop of your own. A script of TRL 0.7 to 0.11 runs with its "
            "names imported from trl_nlpo.legacy."
        )

    # Deprecated names, which go with 0.2

    @property
    def mask(self) -> MaskSettings:
        """Deprecated: `mask_settings`."""
        warnings.warn("NLPOTrainer.mask is now mask_settings.", FutureWarning, stacklevel=2)
        return self.mask_settings

    @property
    def progress(self) -> Run:
        """Deprecated: `run`."""
        warnings.warn("NLPOTrainer.progress is now run.", FutureWarning, stacklevel=2)
        return self.run

    def whole_weights(self) -> contextlib.AbstractContextManager[PolicyAndValue]:
        """Deprecated: `gathered_weights`."""
        warnings.warn("NLPOTrainer.whole_weights() is now gathered_weights().", FutureWarning, stacklevel=2)
        return self.gathered_weights()
