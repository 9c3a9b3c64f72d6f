"""A YAML file of RL4LMs, the library of the paper, as one of our recipes: `trl-nlpo convert`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..display import printable
from ..errors import UserError, one_line
from ..naming import did_you_mean
from ..secrets import is_secret_name
from .files import read_yaml
from .rl4lms_functions import METRICS, REWARDS
from .values import WrongValueError, as_yaml, convert


_TASKS = {
    "cnn_daily_mail": "cnndm",
    "commongen": "commongen",
    "daily_dialog": "dailydialog",
    "imdb": "imdb",
    "imdb_seq2seq": "imdb",
    "iwslt2017en_de": "iwslt",
    "narrative_qa": "narrativeqa",
    "totto": "totto",
}
"""Data pool -> our task with the same data."""

_ALGORITHMS = ("ppo", "nlpo", "a2c", "trpo", "supervised")

_DEFAULTS: dict[str, dict[str, float]] = {
    "a2c": {"n_steps": 5, "learning_rate": 7e-4, "gae_lambda": 1.0},
    "trpo": {"learning_rate": 1e-3, "batch_size": 128},
}
"""RL4LMs' defaults of `alg.args` by algorithm, where they are not PPO's."""

_NOT_HERE: dict[str, str] = {
    "tokenizer.padding_side": "prompts are padded as the model needs it",
    "tokenizer.pad_token_as_eos_token": "a tokenizer without a padding token pads with what cannot be mistaken",
    "tokenizer.max_length": "lengths are max_prompt_length and response_length",
    "env.args.context_start_token": "the model's own decoder start token is taken",
    "alg.args.verbose": "metrics are logged at every update (logging_steps)",
    "alg.args.device": "an accelerator is taken where there is one (use_cpu: true for none)",
    "alg.args.normalize_advantage": "advantages are normalized over the batch always",
    "alg.kl_div.norm_reward": "see whiten_rewards and normalize_rewards, which are something else",
    "alg.policy.args.apply_model_parallel": "to use several GPUs, launch several processes "
    "(docs/several_processes.md)",
    "alg.policy.args.load_in_8bit": "set load_in_8bit, with use_peft",
    "alg.training_args.output_dir": "output_dir is runs/<recipe> unless you set it",
    "alg.training_args.evaluation_strategy": "the supervised stage is evaluated when it is done",
    "alg.training_args.eval_steps": "the supervised stage is evaluated when it is done",
    "alg.training_args.save_steps": "the supervised stage leaves its model alone",
    "alg.training_args.save_strategy": "the supervised stage leaves its model alone",
    "alg.training_args.save_total_limit": "the supervised stage leaves its model alone",
    "alg.training_args.logging_steps": "the supervised stage logs on its own",
    "alg.training_args.seed": "set seed",
    "alg.model_type": "the model says what it is",
    "datapool.args.truncate_article": "max_prompt_length truncates",
    "datapool.args.prompt_concept_separator": "set prompt_template",
    "datapool.args.concept_separator_token": "concepts are separated by spaces: set prompt_template otherwise",
    "datapool.args.context_size": "the task takes five turns",
    "datapool.args.seed": "the task's data has an order of its own",
    "datapool.args.positive_ratio": "set supervised_where: {label: 1} for the supervised stage",
}
"""Settings of RL4LMs that have no key here, and what there is instead."""

_MISSING = object()


@dataclass
class Conversion:
    """A recipe that was made from another library's file.

    Attributes:
        name (`str`): of the file.
        entries (`list[tuple[str, Any, str]]`): keys of the recipe, their values, and what is to be known of each.
        notes (`list[str]`): what of the file is not in the recipe, and why.
    """

    name: str
    entries: list[tuple[str, Any, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The recipe, with comments."""
        lines = [f"# {printable(self.name)}, converted from RL4LMs", "#"]
        if self.notes:
            lines.append("# Not in this recipe, or otherwise:")
            for note in self.notes:
                lines += _comment(f"- {note}", "#   ")
        else:
            lines.append("# Everything that the file says is in this recipe.")
        lines.append("")
        for key, value, comment in self.entries:
            lines += _comment(comment, "# ") if comment else []
            lines.append(f"{key}: {as_yaml(value)}")
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        """Write the recipe; what is there stays.

        Raises:
            UserError: there is a file already, or it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(self.text())
        except FileExistsError:
            raise UserError(f"{path} is there already: give another --out, or remove it.") from None
        except OSError as error:
            raise UserError(f"{path} cannot be written: {one_line(error)}.") from None


def convert_file(path: Path) -> Conversion:
    """The recipe that does what a YAML file of RL4LMs says, as far as there is a key for it.

    Args:
        path (`Path`): the file.

    Raises:
        UserError: it is no YAML, none of RL4LMs, or has a value that cannot be meant.
    """
    source = _Source(path, read_yaml(path))
    if not source.has("alg"):
        has = ", ".join(source.content) or "nothing"
        raise UserError(f"{path} is no file of RL4LMs: it has no `alg`; it has {has}.")
    made = Conversion(path.name)
    algorithm = source.text("alg.id")
    if algorithm not in _ALGORITHMS:
        raise UserError(
            f"{path}: alg.id is {algorithm!r}{did_you_mean(str(algorithm), _ALGORITHMS) or ','} but must be one of "
            f"{', '.join(_ALGORITHMS)}."
        )
    steps = [_data, _supervised, _evaluation] if algorithm == "supervised" else [
        _data, _start, _lengths, _rewards, _sampling, _batches, _optimization, _kl, _mask, _evaluation,
    ]  # fmt: skip
    for step in steps:
        step(source, made)
    made.notes += source.left()
    return made


def _data(source: _Source, made: Conversion) -> None:
    pool = source.text("datapool.id")
    task = _TASKS.get(str(pool))
    if task is not None:
        made.entries.append(("task", task, f"datapool {pool}: data, prompt and metrics are the task's."))
    else:
        made.entries.append(
            ("dataset_name", f"data/{pool}", f"There is no task for the datapool {pool!r}: put train.jsonl, "
             "validation.jsonl and test.jsonl with `prompt` and `references` there, or name your data.")
        )  # fmt: skip
        made.notes.append(f"datapool.id {pool!r}: no task has this data; name yours as dataset_name")
    algorithm = source.text("alg.id")
    comment = "supervised+... trains a supervised model first; RL4LMs takes one that is named as the model."
    made.entries.append(("algorithm", algorithm, "" if algorithm == "supervised" else comment))
    prefix, suffix = (source.take(f"datapool.args.prompt_{end}", "") for end in ("prefix", "suffix"))
    end = source.take("datapool.args.concept_end_token", "")
    if prefix or suffix or end:
        written = [str(part).replace("{", "{{").replace("}", "}}") for part in (prefix, suffix, end)]
        made.entries.append(("prompt_template", f"{written[0]}{{prompt}}{written[1]}{written[2]}", ""))
    if (most := source.number("datapool.args.max_size", None)) is not None:
        made.entries.append(("max_train_samples", int(most), ""))
    if algorithm == "supervised":
        made.entries.append(("supervised_all_references", True, "One example per reference, as RL4LMs does."))


def _start(source: _Source, made: Conversion) -> None:
    name = source.text("alg.policy.args.model_name")
    comment = "All weights are trained, as in RL4LMs; use_peft: true trains an adapter."
    made.entries.append(("model_name_or_path", name, comment))
    tokenizer = source.take("tokenizer.model_name", name)
    if tokenizer != name:
        made.notes.append(f"tokenizer.model_name {tokenizer!r}: the tokenizer is that of the model, {name!r}")
    policy = str(source.take("alg.policy.id", ""))
    if policy and "lm_actor_critic_policy" not in policy:
        made.notes.append(f"alg.policy.id {policy!r}: the policy is what model_name_or_path names")
    made.notes.append(
        "the value function: RL4LMs trains a second copy of the model; here it is a head on the policy's own states, "
        "unless value_model names a saved one"
    )


def _lengths(source: _Source, made: Conversion) -> None:
    if (most := source.number("env.args.max_prompt_length", None)) is not None:
        made.entries.append(("max_prompt_length", int(most), ""))
    sides = {
        path: side
        for path in ("env.args.prompt_truncation_side", "alg.policy.args.prompt_truncation_side",
                     "tokenizer.truncation_side")
        if (side := source.take(path, None)) is not None
    }  # fmt: skip
    if sides:
        first, side = next(iter(sides.items()))
        if side not in ("left", "right"):
            raise UserError(f"{source.path}: {first} is {side!r}, but must be left or right.")
        made.entries.append(("prompt_truncation_side", side, ""))
        made.notes += [
            f"{path} {other!r}: there is one side for all, {side!r} of {first}"
            for path, other in sides.items()
            if other != side
        ]
    if source.take("env.args.terminate_on_eos", True) is not True:
        made.notes.append("env.args.terminate_on_eos false: a completion ends at its EOS token always")
    length = source.response_length()
    made.entries.append(("response_length", length, "Most tokens of a completion."))
    episode = source.whole("env.args.max_episode_length", 100)
    if episode != length or not source.has("alg.policy.args.generation_kwargs.max_new_tokens"):
        made.notes.append(
            f"max_new_tokens and env.args.max_episode_length {episode}: one length, {length}; in RL4LMs a completion "
            "that ended without EOS before the episode earned nothing"
        )


def _rewards(source: _Source, made: Conversion) -> None:
    name = source.take("reward_fn.id", None)
    options = source.mapping("reward_fn.args")
    rewards, notes = _named("reward_fn", name, options, REWARDS)
    made.notes += notes
    if rewards:
        made.entries.append(("rewards", rewards, ""))
    elif not any(key == "task" for key, _, _ in made.entries):
        made.entries.append(("rewards", ["rougeL"], f"In the place of {name!r}, which is not here: name your reward."))


def _named(
    where: str, name: Any, options: dict[str, Any], known: dict[str, Callable[..., Any]]
) -> tuple[list[Any], list[str]]:
    """The functions that stand for one of RL4LMs, and what is to be said of it."""
    if name is None:
        return [], []
    if str(name) not in known:
        return [], [f"{where} {name!r}: there is nothing like it here"]
    taken: dict[str, Any] = {}

    def option(key: str, default: Any = None) -> Any:
        taken[key] = True
        return options.get(key, default)

    found, notes = known[str(name)](option)
    notes = [f"{where} {name}: {note}" for note in notes]
    unknown = {key: value for key, value in options.items() if key not in taken}
    notes += [f"{where} {name}, option {key} {value!r}: not known, left out" for key, value in unknown.items()]
    return found, notes


def _sampling(source: _Source, made: Conversion) -> None:
    keywords = source.mapping("alg.policy.args.generation_kwargs")
    temperature = keywords.pop("temperature", 1.0)
    made.entries.append(("temperature", temperature, "RL4LMs' default, where the file says nothing, is 1.0."))
    if keywords.pop("do_sample", True) is not True:
        made.notes.append("alg.policy.args.generation_kwargs.do_sample false: rollouts sample always")
    kept, comment = _generation(keywords), ""
    if "top_k" not in kept:
        kept["top_k"] = 50
        comment = "The file says no top_k: transformers took 50 then. 0 is all tokens."
    made.entries.append(("generation_kwargs", kept, comment))


def _generation(keywords: dict[str, Any]) -> dict[str, Any]:
    """Options of `generate` with our names: the length is a key of its own, and minima are of new tokens."""
    kept = {key: value for key, value in keywords.items() if key not in ("max_new_tokens", "max_length", "min_length")}
    if "min_length" in keywords:
        kept["min_new_tokens"] = keywords["min_length"]
    return kept


def _evaluated(keywords: dict[str, Any], made: Conversion) -> dict[str, Any]:
    """Options of evaluations, with what transformers takes where the file says nothing."""
    kept, ours = _generation(keywords), {key: value for key, value, _ in made.entries}
    length = keywords.get("max_new_tokens", ours.get("response_length"))
    if length != ours.get("response_length"):
        made.notes.append(
            f"max_new_tokens {length!r} of evaluations: completions are as long as in rollouts (response_length)"
        )
    if not kept.setdefault("do_sample", False):
        return kept
    del kept["do_sample"]
    if "top_k" not in kept:
        kept["top_k"] = 50
    if "temperature" not in kept and ours.get("temperature", 0.7) != 1.0:
        kept["temperature"] = 1.0
    return kept


def _batches(source: _Source, made: Conversion) -> None:
    algorithm = source.text("alg.id")
    defaults = {"n_steps": 2048, "batch_size": 64, **_DEFAULTS.get(algorithm, {})}
    environments, steps = source.whole("env.n_envs", 1), source.whole("alg.args.n_steps", int(defaults["n_steps"]))
    tokens, length = environments * steps, source.response_length()
    minibatch = source.whole("alg.args.batch_size", int(defaults["batch_size"]))
    rows = max(1, round(minibatch / length))
    batches = max(1, -(-tokens // (length * rows)))
    made.entries += [
        ("max_steps", source.whole("train_evaluation.n_iters", 100), "n_iters: a rollout and an update each."),
        (
            "per_device_train_batch_size",
            rows,
            f"batch_size counts tokens in RL4LMs: {minibatch} are about {rows} completions of {length} tokens. For "
            "larger passes multiply this and divide the next two by the same.",
        ),
        (
            "gradient_accumulation_steps",
            batches,
            f"n_envs x n_steps = {environments} x {steps} = {tokens:,} tokens of a rollout are about "
            f"{batches * rows} completions.",
        ),
    ]
    # A2C takes one step a batch.
    if algorithm != "a2c":
        made.entries.append(("num_mini_batches", batches, "Optimizer steps of a pass."))
        made.entries.append(("num_ppo_epochs", source.whole("alg.args.n_epochs", 10), ""))


def _optimization(source: _Source, made: Conversion) -> None:
    alg = "alg.args."
    default = "RL4LMs' default, which the file does not change."
    algorithm = source.text("alg.id")
    defaults = {"learning_rate": 3e-4, "gae_lambda": 0.95, **_DEFAULTS.get(algorithm, {})}
    made.entries.append(("learning_rate", source.number(f"{alg}learning_rate", defaults["learning_rate"]), ""))
    if algorithm == "a2c":
        made.notes.append("the optimizer: RL4LMs' A2C has RMSprop where the file does not say otherwise; see optim")
    made.entries.append(("lr_scheduler_type", "constant", ""))
    optimizer = source.mapping("alg.policy.args.optimizer_kwargs")
    made.entries.append(("weight_decay", optimizer.pop("weight_decay", 1e-6), ""))
    made.notes += [
        f"alg.policy.args.optimizer_kwargs.{key} {value!r}: see adam_beta1 and the like"
        for key, value in optimizer.items()
    ]
    for key, theirs, value in (
        ("gamma", "gamma", 0.99),
        ("lam", "gae_lambda", defaults["gae_lambda"]),
        ("cliprange", "clip_range", 0.2),
        ("vf_coef", "vf_coef", 0.5),
        ("max_grad_norm", "max_grad_norm", 0.5),
        ("entropy_coef", "ent_coef", 0.0),
    ):
        said = "" if source.has(alg + theirs) else default
        if key == "gamma" and said:
            said = "RL4LMs' default, which the file does not change (the paper says 0.95)."
        made.entries.append((key, source.number(alg + theirs, value), said))
    clip = source.number(f"{alg}clip_range_vf", None)
    unlimited = ("cliprange_value", float("inf"), "No limit, as in RL4LMs.")
    made.entries.append(unlimited if clip is None else ("cliprange_value", clip, ""))
    if (seed := source.number(f"{alg}seed", None)) is not None:
        made.entries.append(("seed", int(seed), ""))
    if algorithm == "trpo":
        for key, theirs, value in (
            ("trpo_kl", "target_kl", 0.01), ("trpo_cg_steps", "cg_max_steps", 15), ("trpo_damping", "cg_damping", 0.1),
        ):  # fmt: skip
            made.entries.append((key, source.number(alg + theirs, value), ""))
    elif (limit := source.take(f"{alg}target_kl", None)) is not None:
        made.notes.append(
            f"alg.args.target_kl {limit!r}: no pass over a batch is cut short; kl_target is something else"
        )


def _kl(source: _Source, made: Conversion) -> None:
    if (coefficient := source.number("alg.kl_div.coeff", None)) is not None:
        made.entries.append(("kl_coef", coefficient, ""))
    target = source.number("alg.kl_div.target_kl", None)
    if target is None:
        made.entries.append(("kl_target", None, "No target: the coefficient is fixed."))
        return
    length = source.response_length()
    comment = f"RL4LMs' target is of a token, ours of a completion: {target:g} x {length}."
    made.entries.append(("kl_target", round(target * length, 10), comment))


def _mask(source: _Source, made: Conversion) -> None:
    if source.text("alg.id") != "nlpo":
        return

    def at(name: str) -> str:
        """Where the file has a setting of the mask, which is the algorithm's or the policy's."""
        places = [f"alg.{part}.{name}" for part in ("args", "policy.args")]
        return next((place for place in places if source.has(place)), places[0])

    kind, top = source.take(at("mask_type"), "learned_top_k"), source.number(at("top_mask"), None)
    least, updates = source.whole(at("min_tokens_to_keep"), 100), source.whole(at("target_update_iterations"), 1000)
    if kind == "learned_top_p":
        made.entries += [("mask_strategy", "top_p", ""), ("mask_top_p", 0.9 if top is None else top, "")]
    else:
        number = source.whole(at("top_mask"), 100)
        made.entries += [("mask_strategy", "top_k", ""), ("mask_top_k", number, "")]
        if kind != "learned_top_k":
            made.notes.append(
                f"mask_type {kind!r}: there is no mask by the policy's own scores (top_k in generation_kwargs is "
                "that); the recipe masks by the masking policy's"
            )
    made.entries += [
        ("mask_min_tokens", least, "RL4LMs' floor; the paper has none (1)."),
        (
            "mask_sync_steps",
            updates,
            "target_update_iterations. In RL4LMs' published code the renewed masking policy never reaches the "
            "sampler: it ran as with null. This is what the file asks for, and what the paper says.",
        ),
    ]
    made.notes.append("the mask in evaluations: RL4LMs masks there too, here evaluation is without the mask")


def _evaluation(source: _Source, made: Conversion) -> None:
    part = "train_evaluation."
    if source.has(f"{part}eval_batch_size"):
        made.entries.append(("per_device_eval_batch_size", source.whole(f"{part}eval_batch_size", 8), ""))
    if source.has(f"{part}eval_every"):
        made.entries.append(("eval_strategy", "steps", ""))
        made.entries.append(("eval_steps", source.whole(f"{part}eval_every", 1), ""))
    if source.has(f"{part}save_every"):
        made.entries.append(("save_steps", source.whole(f"{part}save_every", 1), ""))
    source.take("train_evaluation.n_iters", None)
    keywords = source.mapping(f"{part}generation_kwargs") or source.mapping("alg.generation_kwargs")
    if keywords:
        made.entries.append(("eval_generation_kwargs", _evaluated(keywords, made), ""))
    listed = source.take(f"{part}metrics", None)
    if listed is None:
        return
    if not isinstance(listed, list):
        raise UserError(f"{source.path}: train_evaluation.metrics is {listed!r}, but must be a list of {{id: ...}}.")
    metrics: list[Any] = []
    for entry in listed:
        if not isinstance(entry, dict) or "id" not in entry:
            raise UserError(f"{source.path}: train_evaluation.metrics has {entry!r}, but must be {{id: ...}}.")
        found, notes = _named("train_evaluation.metrics", entry["id"], dict(entry.get("args") or {}), METRICS)
        metrics += [metric for metric in found if metric not in metrics]
        made.notes += notes
        unknown = [key for key in entry if key not in ("id", "args")]
        made.notes += [f"train_evaluation.metrics {entry['id']}.{key}: not known, left out" for key in unknown]
    if metrics:
        made.entries.append(("metrics", metrics, ""))


def _supervised(source: _Source, made: Conversion) -> None:
    name = source.text("alg.model_name")
    made.entries.append(("model_name_or_path", name, "All weights are trained, as in RL4LMs."))
    tokenizer = source.take("tokenizer.model_name", name)
    if tokenizer != name:
        made.notes.append(f"tokenizer.model_name {tokenizer!r}: the tokenizer is that of the model, {name!r}")
    if (side := source.take("tokenizer.truncation_side", None)) is not None:
        made.entries.append(("prompt_truncation_side", side, ""))
    if (most := source.number("tokenizer.max_length", None)) is not None:
        made.entries.append(("max_prompt_length", int(most), "The tokenizer's max_length."))
    arguments = "alg.training_args."
    for key, theirs, default in (
        ("supervised_batch_size", "per_device_train_batch_size", 8),
        ("supervised_num_train_epochs", "num_train_epochs", 3.0),
        ("supervised_learning_rate", "learning_rate", 5e-5),
        ("supervised_weight_decay", "weight_decay", 0.0),
    ):
        made.entries.append((key, source.number(arguments + theirs, default), ""))
    made.entries.append(("supervised_lr_scheduler_type", source.take(f"{arguments}lr_scheduler_type", "linear"), ""))
    if source.has(f"{arguments}per_device_eval_batch_size"):
        made.entries.append(
            ("per_device_eval_batch_size", source.whole(f"{arguments}per_device_eval_batch_size", 8), "")
        )
    keywords = source.mapping("alg.generation_kwargs", keep=True)
    if "max_new_tokens" in keywords:
        made.entries.append(("response_length", keywords["max_new_tokens"], ""))
    if not any(key == "task" for key, _, _ in made.entries):
        made.entries.append(("rewards", ["rougeL"], "What completions are reported by: name your own."))


class _Source:
    """The content of a file, of which it is known what was read.

    Args:
        path (`Path`): for messages.
        content (`dict`)
    """

    def __init__(self, path: Path, content: dict[str, Any]):
        self.path, self.content = path, content
        self._read: set[str] = set()

    def has(self, dotted: str) -> bool:
        """Whether the file says anything there."""
        return self._at(dotted) is not _MISSING

    def take(self, dotted: str, default: Any) -> Any:
        """What stands at `a.b.c`, which counts as read; where there is nothing, the default."""
        self._read.add(dotted)
        found = self._at(dotted)
        return default if found is _MISSING else found

    def text(self, dotted: str) -> str:
        """A text that has to be there."""
        found = self.take(dotted, None)
        if not isinstance(found, str) or not found.strip():
            raise UserError(f"{self.path}: {dotted} is {found!r}, but must be a name.")
        return found

    def number(self, dotted: str, default: Any) -> Any:
        """A number, or the default: `null` counts as nothing."""
        return self._converted(dotted, default, float)

    def whole(self, dotted: str, default: int) -> int:
        """A whole number above 0."""
        found: int = self._converted(dotted, default, int)
        if found < 1:
            raise UserError(f"{self.path}: {dotted} is {found}, but must be at least 1.")
        return found

    def _converted(self, dotted: str, default: Any, kind: type) -> Any:
        found = self.take(dotted, None)
        if found is None:
            return default
        try:
            return convert(found, kind)
        except WrongValueError as error:
            raise UserError(f"{self.path}: {dotted} is {found!r}, but must be {error}.") from None

    def mapping(self, dotted: str, keep: bool = False) -> dict[str, Any]:
        """A mapping, empty where there is none; `keep` leaves it to be read again."""
        found = self._at(dotted)
        if not keep:
            self._read.add(dotted)
        if found is _MISSING or found is None:
            return {}
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: {dotted} is {found!r}, but must be a mapping.")
        return {str(key): value for key, value in found.items()}

    def response_length(self) -> int:
        """Most tokens of a completion: what `generate` may make, as far as an episode lasts."""
        episode = self.whole("env.args.max_episode_length", 100)
        made = self.whole("alg.policy.args.generation_kwargs.max_new_tokens", episode)
        return min(episode, made)

    def left(self) -> list[str]:
        """What was not read, and why there is no key for it, or that it is not known."""
        return [self._about(dotted, value) for dotted, value in self._leaves(self.content, "")]

    def _about(self, dotted: str, value: Any) -> str:
        reason = _NOT_HERE.get(dotted)
        if reason is None and is_secret_name(dotted.rpartition(".")[2]):
            value = "<hidden>"
        said = f"{dotted} {value!r}"
        return f"{said}: {reason}" if reason else f"{said}: not known, left out"

    def _leaves(self, content: dict[Any, Any], before: str) -> Iterator[tuple[str, Any]]:
        for key, value in content.items():
            dotted = f"{before}{key}"
            if dotted in self._read:
                continue
            if isinstance(value, dict) and value:
                yield from self._leaves(value, f"{dotted}.")
            else:
                yield dotted, value

    def _at(self, dotted: str) -> Any:
        found: Any = self.content
        for part in dotted.split("."):
            if not isinstance(found, dict) or part not in found:
                return _MISSING
            found = found[part]
        return found


def _comment(text: str, prefix: str) -> list[str]:
    lines = textwrap.wrap(printable(text), 115, break_long_words=False, break_on_hyphens=False)
    hanging = "  " if text.startswith("- ") else ""
    return [f"{prefix}{hanging if number else ''}{line}" for number, line in enumerate(lines)]
