"""`PPOTrainer`: generate, score in a script, `step`; TRL's loop until 0.11."""

from __future__ import annotations

import contextlib
import gc
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch.utils.data import DataLoader
from transformers import set_seed
from transformers.utils import logging

from ..algorithm.batch_plan import BatchPlan
from ..algorithm.distribution import MaskSettings, SamplingSettings
from ..algorithm.generation import Sample
from ..algorithm.objective import Objective
from ..algorithm.rollout import evaluate_samples
from ..config.names_elsewhere import knows_other_names
from ..errors import UserError
from ..functional.sequences import left_pad
from ..launch.kinds import launch_of
from ..launch.launch import Launch
from ..models.adapters import changes_base, is_adapter_model
from ..models.checks import check_separate
from ..models.inputs import decoder_start_token, is_encoder_decoder
from ..models.masking_policy import MaskingPolicy
from ..models.modes import evaluation_mode
from ..models.reference import Reference
from ..records import PromptBatch, Rollout, TokenRows
from ..trainer.setup import prepare_policy
from .config import PPOConfig
from .generation_arguments import NO_MASK, sampled, sampling_settings
from .kl_controller import KLController
from .running_scores import RunningScores
from .sampled_tokens import SampledTokens, joined_drift, joined_sets
from .step_advantages import estimate_over
from .step_rows import StepRows, check_tokens, step_rows
from .step_statistics import StatisticSteps, step_statistics
from .value_head_models import ModelWithValueHead, upload


logger = logging.get_logger(__name__)


OTHER_ARGUMENTS: dict[str, str] = {
    "args": "use config",
    "processing_class": "use tokenizer",
    "policy": "use model",
    "train_dataset": "use dataset",
    "eval_dataset": "loop over it with generate(), in the script",
    "optimizers": "use optimizer and lr_scheduler",
    "peft_config": "pass it to from_pretrained of the model",
    "reward_model": "compute scores in the script, and pass them to step()",
    "reward_funcs": "compute scores in the script, and pass them to step()",
}
"""Arguments of newer trainers: what to write instead."""


@knows_other_names(OTHER_ARGUMENTS)
class PPOTrainer:
    """PPO over queries and responses that a script samples and scores itself.

    Deprecated from the start: it is for scripts that exist. New ones train with [`NLPOTrainer`], or with its steps in
    a loop of their own (`examples/own_loop.py`). What differs from TRL 0.11 is in `docs/migration.md`.

    Args:
        config ([`PPOConfig`])
        model ([`AutoModelForCausalLMWithValueHead`] or [`AutoModelForSeq2SeqLMWithValueHead`]): what is trained.
        ref_model (*optional*): the reference of the KL penalty, with a value head or without. None: a frozen copy, or
            with an adapter the model without it.
        tokenizer (*optional*): written by `save_pretrained`; its EOS token stays legal under a mask.
        dataset (*optional*): rows for `dataloader`; all columns are kept.
        optimizer (`torch.optim.Optimizer`, *optional*): None: Adam over all weights that take a gradient.
        data_collator (*optional*): for `dataloader`.
        num_shared_layers (*optional*): refused.
        lr_scheduler (*optional*): stepped once at the end of each `step`.
        training_data_collator (*optional*): refused: rows are padded by their lengths.

    Raises:
        UserError: an argument that cannot work, or has no counterpart; several processes.
    """

    def __init__(
        self,
        config: PPOConfig | None = None,
        model: Any = None,
        ref_model: Any = None,
        tokenizer: Any = None,
        dataset: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        data_collator: Callable[..., Any] | None = None,
        num_shared_layers: int | None = None,
        lr_scheduler: Any = None,
        training_data_collator: Callable[..., Any] | None = None,
    ) -> None:
        warnings.warn(
            "trl_nlpo.legacy.PPOTrainer is for scripts of TRL 0.7 to 0.11: train new ones with trl_nlpo.NLPOTrainer, "
            "or with its steps in a loop of your own (docs/migration.md, examples/own_loop.py).",
            FutureWarning,
            stacklevel=3,
        )
        config = PPOConfig() if config is None else config
        _check_arguments(config, model, ref_model, num_shared_layers, training_data_collator)
        set_seed(config.seed)
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.accelerator = Accelerator(
            log_with=config.log_with,
            project_config=ProjectConfiguration(**dict(config.project_kwargs or {})),  # type: ignore[arg-type]
            **dict(config.accelerator_kwargs or {}),  # type: ignore[arg-type]
        )
        self.launch = launch_of(self.accelerator)
        if type(self.launch) is not Launch or self.accelerator.num_processes > 1:
            raise UserError(
                "trl_nlpo.legacy.PPOTrainer runs in one process: train with trl_nlpo.NLPOTrainer, which also runs "
                "under DDP, FSDP2 and DeepSpeed."
            )
        policy = model.pretrained_model
        self.is_encoder_decoder, self.is_peft_model = is_encoder_decoder(policy), is_adapter_model(policy)
        config.is_encoder_decoder, config.is_peft_model = self.is_encoder_decoder, self.is_peft_model
        given_reference = getattr(ref_model, "pretrained_model", ref_model)
        self.policy_and_value = prepare_policy(policy, _as_arguments(config), None, model.v_head, given_reference)
        self.policy_and_value.to(self.accelerator.device)
        if config.gradient_checkpointing:
            self.policy_and_value.gradient_checkpointing_enable({"use_reentrant": False})
        self.reference = Reference(
            policy,
            given_reference,
            adapter=self.policy_and_value.adapter,
            # As the old library: the model without its adapter, also where that was trained before.
            is_fresh=not self.is_peft_model or not changes_base(policy.peft_config[policy.active_adapter]),
            device=self.accelerator.device,
        )
        check_separate(self.policy_and_value, {"ref_model": given_reference})
        self.ref_model = ref_model if ref_model is not None else self.reference.model
        self.mask = _mask_settings(config, policy, tokenizer)
        self.masking_policy = MaskingPolicy(
            policy, config.mask_sync_steps, self.mask.is_active, self.policy_and_value.adapter or None
        )
        self.sampled = model.sampled = SampledTokens()
        self.optimizer, self.lr_scheduler = self._optimizer(optimizer), lr_scheduler
        self.model_wrapped, self.optimizer = self.launch.prepare(self.policy_and_value, self.optimizer)
        self.kl_ctl = KLController(config.init_kl_coef, config.target if config.adap_kl_ctrl else None, config.horizon)
        self.running_scores = RunningScores()
        self.current_step = 0
        self.dataset, self.data_collator = dataset, data_collator
        self.dataloader = None if dataset is None else self.prepare_dataloader(dataset, data_collator)
        self._plan = BatchPlan(
            num_processes=1,
            microbatch_size=config.mini_batch_size,
            local_batch_size=config.batch_size,
            num_mini_batches=config.batch_size // config.backward_batch_size,
            num_ppo_epochs=config.ppo_epochs,
            num_updates=1,
        )
        self._objective = _objective(config)
        self._order = torch.Generator().manual_seed(config.seed)
        self._has_warned = False
        self.accelerator.init_trackers(
            config.tracker_project_name,
            config={"trl_ppo_trainer_config": {key: str(value) for key, value in config.to_dict().items()}},
            init_kwargs=dict(config.tracker_kwargs or {}),  # type: ignore[arg-type]
        )

    def _optimizer(self, given: torch.optim.Optimizer | None) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.policy_and_value.parameters() if parameter.requires_grad]
        if given is None:
            return torch.optim.Adam(trained, lr=self.config.learning_rate)
        known = {id(parameter) for group in given.param_groups for parameter in group["params"]}
        missing = sum(id(parameter) not in known for parameter in self.policy_and_value.critic_parameters())
        if missing or not any(id(parameter) in known for parameter in trained):
            raise UserError(
                "The optimizer given does not train the model with its value head: make it of model.parameters() "
                "after the model is made, or leave it out."
            )
        return given

    def prepare_dataloader(self, dataset: Any, data_collator: Callable[..., Any] | None = None) -> Any:
        """Batches of `batch_size` rows, shuffled by `seed`; the last one is dropped where it is smaller.

        Raises:
            UserError: fewer rows than a batch.
        """
        if len(dataset) < self.config.batch_size:
            raise UserError(f"dataset has {len(dataset)} rows, but batch_size is {self.config.batch_size}.")
        loader = DataLoader(
            dataset,
            batch_size=self.config.batch_size,
            collate_fn=data_collator,
            shuffle=True,
            drop_last=True,
            generator=torch.Generator().manual_seed(self.config.seed),
        )
        return self.accelerator.prepare(loader)

    @property
    def current_device(self) -> torch.device:
        """Where the model is."""
        return self.accelerator.device

    # Sampling

    def generate(
        self,
        query_tensor: torch.Tensor | list[torch.Tensor],
        length_sampler: Callable[[], int] | None = None,
        batch_size: int = 4,
        return_prompt: bool = True,
        generate_ref_response: bool = False,
        **generation_kwargs: Any,
    ) -> Any:
        """Sample a response to a query, or to each of a list, under the mask where the configuration has one.

        Args:
            query_tensor (`torch.Tensor` of shape `(P,)`, or a list of these): token ids.
            length_sampler (*optional*): gives `max_new_tokens`, for each `batch_size` queries anew.
            batch_size (`int`): queries at a time.
            return_prompt (`bool`): False leaves the query out. An encoder-decoder model's responses never have it, but
                begin with the token that its decoder starts from.
            generate_ref_response (`bool`): whether the reference responds as well, without the mask.
            **generation_kwargs: fields of `transformers.GenerationConfig` that an update can account for. What is not
                given is off, whatever the model's own settings are; without `do_sample=True` it is greedy.

        Returns:
            For a single query a tensor `(1, L)`, for a list a list of tensors `(L,)` without padding; with
            `generate_ref_response` two of these.

        Raises:
            UserError: a query of another shape, an unknown field, or one that the update could not account for.
        """
        is_list = isinstance(query_tensor, (list, tuple))
        queries: list[Any] = list(query_tensor) if is_list else [query_tensor]
        if any(not isinstance(query, torch.Tensor) or query.dim() != 1 for query in queries):
            raise UserError("generate: a query is a tensor of shape (P,), and several are a list of these.")
        prompts = [query.tolist() for query in queries]
        check_tokens("generate: query", prompts, self.model.pretrained_model)
        chunks = [prompts[start : start + batch_size] for start in range(0, len(prompts), batch_size)]
        responses: list[list[torch.Tensor]] = [[], []]
        for chunk in chunks:
            arguments = dict(generation_kwargs)
            if length_sampler is not None:
                arguments["max_new_tokens"] = length_sampler()
            settings = sampling_settings(arguments, self.model.pretrained_model, max(map(len, chunk)))
            # A search takes the likeliest: it is for people to read, and the mask is for exploring.
            mask = NO_MASK if settings.is_left_to_generate or not self.mask.is_active else self.mask
            sample = sampled(self.model.pretrained_model, chunk, settings, mask, self.masking_policy)
            self.sampled.add(sample, settings)
            responses[0] += self._with_prompts(chunk, sample, return_prompt)
            if generate_ref_response:
                with self.reference.weights():
                    other = sampled(self.reference.any_model, chunk, settings)
                responses[1] += self._with_prompts(chunk, other, return_prompt)
        found = [rows if is_list else rows[0][None] for rows in responses if rows]
        return tuple(found) if generate_ref_response else found[0]

    def _with_prompts(self, prompts: list[list[int]], sample: Sample, return_prompt: bool) -> list[torch.Tensor]:
        completions = sample.sequences.completion_ids
        lengths = sample.sequences.completion_mask.sum(-1).tolist()
        before = prompts if return_prompt else [[] for _ in prompts]
        if self.is_encoder_decoder:
            before = [[decoder_start_token(self.model.pretrained_model)] for _ in prompts]
        return [
            torch.cat([completions.new_tensor(front), row[:length]])
            for front, row, length in zip(before, completions, lengths, strict=True)
        ]

    # Learning

    def step(self, queries: Any, responses: Any, scores: Any, response_masks: Any = None) -> dict[str, Any]:
        """`ppo_epochs` passes of the clipped objective over `batch_size` completions.

        Responses that `generate` of this trainer or of its model sampled since the last step are evaluated as they
        were sampled: under the same temperature and, where top-k, top-p or a mask forbade tokens, over what was left.
        The ratio of new to old probabilities is 1 before the first optimizer step. Others are taken as sampled from
        the whole vocabulary at `config.temperature`, which a warning says at the first step.

        Args:
            queries (list of `torch.Tensor` of shape `(P,)`), responses (of shape `(T,)`): token ids without padding;
                every token counts, whatever its value.
            scores (list of `torch.Tensor` with one number): one per response.
            response_masks (list of `torch.Tensor` of shape `(T,)`, *optional*): 0 for tokens of a response that are
                not the policy's, such as what an environment answered: nothing is learned from them.

        Returns:
            statistics, by the names of the old library.

        Raises:
            UserError: what was given does not fit together, or was sampled at several temperatures.
        """
        started = time.perf_counter()
        start_token = decoder_start_token(self.model.pretrained_model) if self.is_encoder_decoder else None
        rows = step_rows(queries, responses, scores, response_masks, self.config.batch_size, start_token, self.sampled)
        sampling = self._sampling(rows)
        self._warn_once(rows, sampling)
        check_tokens("step: query", rows.queries, self.model.pretrained_model)
        check_tokens("step: response", rows.responses, self.model.pretrained_model)
        if not self.is_encoder_decoder:
            whole = [query + response for query, response in zip(rows.queries, rows.responses, strict=True)]
            check_tokens("step: query with response", whole, self.model.pretrained_model)
        times = {"forward_pass": time.perf_counter()}
        rollout, learned = self._rollout(rows, sampling)
        times["compute_advantages"] = time.perf_counter()
        final_scores = self._scores(rows.scores).to(learned.device)
        estimates = estimate_over(
            rollout,
            learned,
            final_scores,
            kl_coef=self.kl_ctl.value,
            gamma=self.config.gamma,
            lam=self.config.lam,
            kl_estimator="k3" if self.config.kl_penalty == "k3" else "k1",
            whiten_rewards=self.config.whiten_rewards,
        )
        times["optimize_step"] = time.perf_counter()
        steps = StatisticSteps(
            self.model_wrapped,
            rollout,
            estimates,
            self.policy_and_value,
            self.optimizer,
            self.launch,
            self._plan,
            self._objective,
            sampling,
            learned=learned,
        )
        self._optimize(steps, rollout)
        times["calc_stats"] = time.perf_counter()
        all_sum = self.launch.all_sum
        stats = step_statistics(
            rows,
            rollout,
            learned,
            estimates,
            final_scores,
            steps.totals.stats(all_sum),
            steps.totals.means(all_sum),
            self.config.vf_coef,
        )
        self._after_update(stats)
        times["total"] = time.perf_counter()
        stats.update(_durations(started, times))
        return stats

    def _sampling(self, rows: StepRows) -> SamplingSettings:
        """Temperature and repetition penalty of the responses."""
        used = {
            (piece.row.sampling.temperature, piece.row.sampling.repetition_penalty)
            for row in rows.pieces
            for piece in row
        }
        if len(used) > 1:
            raise UserError(
                "step: these responses were sampled with several settings (temperature, repetition_penalty): "
                f"{', '.join(map(str, sorted(used)))}; one step takes one."
            )
        own = self.config.temperature
        temperature, penalty = used.pop() if used else (1.0 if own is None else own, 1.0)
        if rows.num_foreign and own is not None and own != temperature:
            raise UserError(
                f"step: config.temperature is {own}, but some of these responses were sampled by generate() at "
                f"{temperature}; one step takes one."
            )
        return SamplingSettings(max_new_tokens=1, temperature=temperature, repetition_penalty=penalty)

    def _warn_once(self, rows: StepRows, sampling: SamplingSettings) -> None:
        if self._has_warned:
            return
        if rows.num_foreign:
            self._has_warned = True
            logger.warning(
                f"{rows.num_foreign} of {rows.num_learned} tokens of this step were not sampled by generate() of the "
                "trainer or its model, or were changed: they are taken as sampled from the whole vocabulary at "
                f"temperature {sampling.temperature}. If top_k, top_p or another temperature was used, the update is "
                "of another distribution: set config.temperature, or sample with trainer.generate()."
            )
        if rows.num_greedy:
            self._has_warned = True
            logger.warning(
                f"{rows.num_greedy} of {rows.num_learned} tokens of this step were generated greedily or with beams, "
                "but PPO learns from samples: call generate() with do_sample=True."
            )

    def _rollout(self, rows: StepRows, sampling: SamplingSettings) -> tuple[Rollout, torch.Tensor]:
        """What all models say of the responses, and which tokens are learned from, `(B, T)`."""
        device = self.current_device
        batch = PromptBatch(rows.queries, [None] * len(rows.queries))
        samples = [
            self._sample(rows, slice(start, start + self.config.mini_batch_size), device)
            for start in range(0, len(rows.queries), self.config.mini_batch_size)
        ]
        with evaluation_mode(self.policy_and_value), self.launch.autocast():
            rollout = evaluate_samples(
                self.policy_and_value,
                batch,
                samples,
                reference=self.reference.output,
                sampling=sampling,
                pad_token_id=0,
                decode=lambda _, completions: [None] * len(completions),
            )
        learned = torch.zeros_like(rollout.completion_mask)
        for index, own in enumerate(rows.learned):
            learned[index, : len(own)] = torch.tensor(own, device=learned.device)
        return rollout, learned

    def _sample(self, rows: StepRows, part: slice, device: torch.device) -> Sample:
        prompt_ids, prompt_mask = (tensor.to(device) for tensor in left_pad(rows.queries[part], 0))
        # Padded on the right: turned round, padded on the left, and turned round again.
        turned = left_pad([row[::-1] for row in rows.responses[part]], 0)
        completion_ids, completion_mask = (tensor.flip(1).to(device) for tensor in turned)
        width, pieces = completion_ids.shape[1], rows.pieces[part]
        vocab_size = self._vocab_size(rows)
        sequences = TokenRows(
            prompt_ids,
            prompt_mask,
            completion_ids,
            completion_mask,
            self.is_encoder_decoder,
            joined_sets(pieces, width, vocab_size, device),
            vocab_size,
        )
        return Sample(
            sequences, torch.ones(len(pieces), dtype=torch.bool, device=device), joined_drift(pieces, width, device)
        )

    def _vocab_size(self, rows: StepRows) -> int:
        sets = (piece.row.sets for row in rows.pieces for piece in row if piece.row.sets is not None)
        return next((found.vocab_size for found in sets), 0)

    def _scores(self, scores: torch.Tensor) -> torch.Tensor:
        """Scaled and clipped as the configuration says."""
        config = self.config
        if config.use_score_scaling:
            scores = self.running_scores.scaled(scores, config.use_score_norm).to(scores.dtype)
        if config.score_clip is not None:
            scores = scores.clamp(-config.score_clip, config.score_clip)
        return scores

    def _optimize(self, steps: StatisticSteps, rollout: Rollout) -> None:
        """All epochs, or those until one moved the policy too far."""
        lengths = (rollout.prompt_mask.sum(-1) + rollout.completion_mask.sum(-1)).cpu()
        for _ in range(self.config.ppo_epochs):
            before = steps.totals.sums.clone()
            for microbatches in self._plan.minibatches(len(rollout), self._order, lengths):
                steps.take(microbatches)
            moved = steps.totals.policy_kl_since(before)
            if self.config.early_stopping and moved > 1.5 * self.config.target_kl:
                break

    def _after_update(self, stats: dict[str, Any]) -> None:
        stats["ppo/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self.kl_ctl.update(stats["objective/kl"], self.config.batch_size)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        self.masking_policy.policy_moved()
        if self.masking_policy.sync_is_due:
            self.masking_policy.sync()
        self.sampled.clear()
        if self.config.optimize_device_cache and self.current_device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    # Logging and saving

    def log_stats(
        self,
        stats: dict[str, Any],
        batch: dict[str, Any],
        rewards: Sequence[Any] | torch.Tensor,
        columns_to_log: Sequence[str] = ("query", "response"),
    ) -> None:
        """Log statistics, the rewards, and the texts of a batch where a tracker takes tables.

        Args:
            stats (`dict`): of `step`. Entries that are arrays are left to trackers that take them.
            batch (`dict`): columns of the batch.
            rewards: a number or a tensor with one per row.
            columns_to_log: columns of the table.

        Raises:
            UserError: `batch` lacks one of the columns, and a tracker takes tables.
        """
        numbers = [float(torch.as_tensor(reward).reshape(-1)[0]) for reward in rewards]
        reward = torch.tensor(numbers)
        logs = {
            **stats,
            "env/reward_mean": float(reward.mean()),
            "env/reward_std": float(reward.std()) if len(reward) > 1 else 0.0,
            "env/reward_dist": reward.numpy(),
        }
        self.current_step += 1
        for tracker in self.accelerator.trackers:
            takes_arrays = tracker.name == "wandb"
            tracker.log(
                {name: value for name, value in logs.items() if takes_arrays or isinstance(value, (int, float))},
                step=self.current_step,
            )
            if hasattr(tracker, "log_table"):
                missing = [name for name in columns_to_log if name not in batch]
                if missing:
                    raise UserError(f"log_stats: the batch has no column {missing[0]!r}; it has {', '.join(batch)}.")
                columns = [batch[name] for name in columns_to_log]
                table = [list(row) for row in zip(*columns, numbers, strict=True)]
                tracker.log_table("game_log", columns=[*columns_to_log, "reward"], data=table, step=self.current_step)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Write the model (or its adapter), the value head and the tokenizer; `from_pretrained` of the model reads it.

        Args:
            save_directory: a folder, which is made.
            **kwargs: of `save_pretrained` of transformers.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, private: bool | None = None, token: str | None = None) -> str:
        """Upload what `save_pretrained` writes to a repository on the Hub, which is made; returns its address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload(folder, repo_id, private, token)

    @contextlib.contextmanager
    def optional_peft_ctx(self) -> Iterator[None]:
        """The policy's base model as the reference while inside; no change where that is a model of its own."""
        with self.reference.weights():
            yield


def _check_arguments(
    config: Any, model: Any, ref_model: Any, num_shared_layers: Any, training_data_collator: Any
) -> None:
    if not isinstance(config, PPOConfig):
        raise UserError(
            f"config must be a trl_nlpo.legacy.PPOConfig, not {type(config).__name__}: for an NLPOConfig or TRL's "
            "newer PPOConfig use trl_nlpo.NLPOTrainer."
        )
    if not isinstance(model, ModelWithValueHead):
        raise UserError(
            f"model must have a value head, not be a {type(model).__name__}: wrap it with "
            "AutoModelForCausalLMWithValueHead.from_pretrained(model)."
        )
    if ref_model is model:
        raise UserError("ref_model is the model that is trained: pass None, or create_reference_model(model).")
    if num_shared_layers is not None:
        raise UserError(
            "num_shared_layers is not supported: train an adapter (peft_config of from_pretrained), with which the "
            "reference shares all layers."
        )
    if training_data_collator is not None:
        raise UserError("training_data_collator is not supported: leave it out, rows are padded by their lengths.")


def _as_arguments(config: PPOConfig) -> Any:
    """What [`prepare_policy`] reads of an [`NLPOConfig`]."""
    return SimpleNamespace(
        seed=config.seed,
        model_adapter_name=None,
        ref_adapter_name=None,
        disable_dropout=True,
        value_trains_backbone=True,
        process_index=0,
    )


def _mask_settings(config: PPOConfig, policy: Any, tokenizer: Any) -> MaskSettings:
    ends = {
        getattr(tokenizer, "eos_token_id", None),
        *_as_list(getattr(getattr(policy, "generation_config", None), "eos_token_id", None)),
    }
    size = policy.get_output_embeddings().weight.shape[0]
    return MaskSettings(
        config.mask_strategy,
        config.mask_top_p,
        config.mask_top_k,
        config.mask_min_tokens,
        tuple(sorted(end for end in ends if end is not None and 0 <= end < size)),
        config.mask_anchor_coef > 0.0,
    )


def _as_list(value: int | list[int] | None) -> list[int]:
    return [value] if isinstance(value, int) else list(value or [])


def _objective(config: PPOConfig) -> Objective:
    return Objective(
        cliprange=config.cliprange,
        cliprange_value=config.cliprange_value,
        vf_coef=config.vf_coef,
        entropy_coef=config.entropy_coef,
        max_grad_norm=config.max_grad_norm or 0.0,
        cliprange_high=config.cliprange_high,
        dual_clip=config.dual_clip,
        is_truncation=config.is_truncation,
        mask_anchor_coef=config.mask_anchor_coef,
    )


def _durations(started: float, times: dict[str, float]) -> dict[str, float]:
    """Seconds from each time to the next; the last is the whole."""
    names, moments = list(times), list(times.values())
    found = {f"time/ppo/{name}": moments[index + 1] - moments[index] for index, name in enumerate(names[:-1])}
    return {**found, "time/ppo/total": moments[-1] - started}
