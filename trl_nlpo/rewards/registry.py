"""Reward functions by name: every metric, a few of our own, and anything importable by its dotted path."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..metrics.base import Metric
from ..metrics.registry import check_metric, get_metric, metric_names
from ..naming import check_attribute, check_options, did_you_mean, import_attribute, instantiate
from .metric_reward import MetricReward


# Rewards that are no metrics; dotted paths, so that naming one imports no other.
_BUILT_IN: dict[str, str] = {
    "grammatical": "trl_nlpo.tasks.quickstart.Grammatical",
    "pleasant_sentence": "trl_nlpo.tasks.quickstart.PleasantSentence",
    "positive_words": "trl_nlpo.tasks.imdb.PositiveWords",
    "prompt_repetition": "trl_nlpo.rewards.prompt_repetition.PromptRepetition",
}
_EVALUATE = "evaluate:"


def built_in_names() -> list[str]:
    """Names that [`get_reward`] knows, sorted."""
    return sorted({*_BUILT_IN, *metric_names()})


def reward_class(name: str) -> type:
    """The class of a built-in reward that is no metric."""
    found: type = import_attribute(_BUILT_IN[name], f"reward {name!r}")
    return found


def get_reward(name: str, **options: Any) -> Callable[..., list[float | None]]:
    """A reward function by its name or dotted path.

    Args:
        name (`str`): a built-in (`built_in_names()`); `my_module.my_reward`: a function with TRL's signature, a class
            whose instances are one, or a [`Metric`]; or `evaluate:name` for a module of Hugging Face's `evaluate`.
            Modules in the working directory are found, as in TRL's scripts.
        options: arguments of the class, or fixed keywords of the function.

    Returns:
        A callable with TRL's signature: it takes `prompts`, `completions` and the columns of the data set by keyword
        and returns one number per completion, or None where it does not apply.

    Raises:
        UserError: nothing of that name, no such option, or not callable.

    Example:
        >>> get_reward("rouge1")(prompts=["say"], completions=["a cat sat"], references=[["the cat sat", "a dog"]])
        [0.6666666666666666]
    """
    if name in _BUILT_IN:
        return _from_class(reward_class(name), name, options)
    if name in metric_names():
        return MetricReward(get_metric(name, **options))
    if name.startswith(_EVALUATE):
        from .evaluate_reward import EvaluateReward

        return EvaluateReward(name.removeprefix(_EVALUATE), **options)
    _check_is_path(name)
    return _from_path(name, options)


def check_reward(name: str, options: dict[str, Any]) -> None:
    """Check name and options of a reward as far as that can be done without running anything that it names.

    Raises:
        UserError: nothing of that name, or a built-in has no such option.
    """
    if name in _BUILT_IN:
        check_options(reward_class(name), name, options, {}, "reward")
    elif name in metric_names():
        check_metric(name, options)
    elif not name.startswith(_EVALUATE):
        _check_is_path(name)
        check_attribute(name, f"reward {name!r}")


def _check_is_path(name: str) -> None:
    if "." not in name:
        hint = did_you_mean(name, built_in_names()) or "."
        raise UserError(
            f"unknown reward {name!r}{hint} Take one of "
            f"{', '.join(built_in_names())}; the dotted path of a function, such as my_module.my_reward; or "
            "evaluate:name for a module of the package evaluate."
        )


def _from_path(name: str, options: dict[str, Any]) -> Any:
    found = import_attribute(name, f"reward {name!r}")
    if inspect.isclass(found):
        # Before one is made: making one may do anything.
        if not issubclass(found, Metric) and not any("__call__" in vars(base) for base in found.__mro__):
            raise UserError(f"reward {name!r} is a class whose instances are no functions: it needs a `__call__`.")
        return _from_class(found, name, options)
    if not callable(found):
        raise UserError(f"reward {name!r} is {type(found).__name__}, not a function.")
    return functools.partial(found, **options) if options else found


def _from_class(cls: type, name: str, options: dict[str, Any]) -> Any:
    made = instantiate(cls, name, options, {}, "reward")
    return MetricReward(made) if isinstance(made, Metric) else made
