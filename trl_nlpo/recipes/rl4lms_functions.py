"""RL4LMs' rewards and metrics, by their ids, as ours.

Each entry takes a function that gives an option of the file by name (and a default), and returns what a recipe lists
and what is to be said of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


Option = Callable[..., Any]
Found = tuple[list[Any], list[str]]

_NOT_PRINTED = "RL4LMs gave it the printed list of references, so its figures are lower"
_ENCODER = {"name": "bertscore", "model": "FacebookAI/roberta-large", "layer": 17}
_MULTILINGUAL = {"name": "bertscore", "model": "google-bert/bert-base-multilingual-cased", "layer": 9}
_INTENT = {"name": "intent", "model": "rajkumarrrk/roberta-daily-dialog-intent-classifier"}
_NLI = "tals/albert-xlarge-vitaminc-mnli"


def _plain(name: str, *notes: str, **options: Any) -> Callable[[Option], Found]:
    return lambda option: ([{"name": name, **options} if options else name], list(notes))


def _with_penalty(found: list[Any], option: Option) -> Found:
    """With what shapes a reward: a penalty that is added to it."""
    shaping = option("shaping_fn")
    if isinstance(shaping, dict):
        shaping = shaping.get("id")
    if shaping is None:
        return found, []
    if str(shaping).startswith("common_gen_repeat_penalty"):
        return [*found, "prompt_repetition"], []
    return found, [f"shaping_fn {shaping!r} is not here"]


def _meteor_reward(option: Option) -> Found:
    found, notes = _with_penalty(["meteor"], option)
    return found, [*notes, _NOT_PRINTED]


def _rouge_reward(option: Option) -> Found:
    found, notes = _with_penalty([str(option("rouge_type", "rouge1"))], option)
    if option("use_single_ref", True):
        notes.append("use_single_ref true took the first reference only; here it is the best of all")
    return found, notes


def _rouge_metric(option: Option) -> Found:
    single = option("use_single_ref", True)
    note = "use_single_ref true took the first reference only; here it is the best of all"
    return ["rouge"], [note] if single else []


def _rouge_combined(option: Option) -> Found:
    names = ("rouge1", "rouge2", "rougeL")
    return _with_penalty([{"name": name, "weight": 0.3333} for name in names], option)


def _rouge_l_max(option: Option) -> Found:
    for name in ("metrics", "limit_length", "length_limit", "length_limit_type", "apply_avg", "apply_best", "alpha",
                 "weight_factor", "stemming", "max_n"):  # fmt: skip
        option(name)
    return ["rougeL"], ["the options of py-rouge are not here: all words of the text count, by rouge-score"]


def _bert_score(option: Option) -> Found:
    language = option("language", "en")
    if language == "en":
        return [dict(_ENCODER)], []
    return [dict(_MULTILINGUAL)], [f"for the language {language!r} the multilingual BERT is taken"]


def _sacrebleu(option: Option) -> Found:
    inner = dict(option("args") or {})
    options = {name: option(name, inner.pop(name, None)) for name in ("tokenize", "lowercase")}
    kept = {key: value for key, value in options.items() if value is not None}
    return [{"name": "sacrebleu", **kept} if kept else "sacrebleu"], [
        f"option {key} {value!r} is left out" for key, value in inner.items()
    ]


def _learned(option: Option) -> Found:
    model, label = option("model_name"), option("label_ix", 1)
    if not model:
        return [], ["it names no model (model_name)"]
    prompt = bool(option("include_prompt_for_eval", True))
    option("batch_size")
    return [{"name": "classifier", "model": model, "label": label, "include_prompt": prompt}], []


def _bleurt(option: Option) -> Found:
    checkpoint = option("config_name") or option("checkpoint")
    return [], [f"checkpoint {checkpoint!r} has to be converted to PyTorch: {{name: bleurt, model: FOLDER}}"]


def _spider(option: Option) -> Found:
    spice, cider = float(option("spice_coeff", 1.0)), float(option("cider_coeff", 1.0))
    # Our reward from CIDEr is a tenth of it.
    found: list[Any] = [{"name": "cider", "weight": 10 * cider}]
    found, notes = _with_penalty(found, option)
    notes.append(
        f"SPICE needs a parser or Java: add {{name: spice, weight: {spice:g}, jars: FOLDER}}; CIDEr's weights are "
        "those of the train split's references, not of the batch"
    )
    return found, notes


def _intent_reward(option: Option) -> Found:
    intent, other = float(option("intent_coeff", 1.0)), float(option("auto_coeff", 1.0))
    option("concat_tokens")
    found: list[Any] = [{**_INTENT, "weight": intent}]
    if other:
        found.append({"name": "meteor", "weight": other})
    return found, ["RL4LMs' METEOR there is a running mean over all replies; here it is the reply's own"]


def _intent_metric(option: Option) -> Found:
    option("concat_tokens")
    return [dict(_INTENT)], []


def _perplexity(option: Option) -> Found:
    model, stride = option("tokenizer_id", "gpt2"), option("stride")
    option("model_type")
    option("use_text_from_meta_data")
    metric = {"name": "perplexity", "model": model, "as": "perplexity_of_judge"}
    note = "RL4LMs has the trained model's perplexity of the references; here it is the completions' under this model"
    return [{**metric, "stride": stride} if stride else metric], [note]


def _summac(variant: str) -> Callable[[Option], Found]:
    def made(option: Option) -> Found:
        for name in ("granularity", "models", "imager_load_cache", "use_con", "bins", "nli_labels", "device",
                     "start_file", "agg"):  # fmt: skip
            option(name)
        if variant == "conv":
            return [], ["it needs trained weights: {name: summac, model: ..., variant: conv, conv_weights: FILE}"]
        return [{"name": "summac", "model": _NLI}], []

    return made


REWARDS: dict[str, Callable[[Option], Found]] = {
    "bert_score": _bert_score,
    "bleu": _plain("bleu", "RL4LMs' is not smoothed, so that nearly every sentence earns 0"),
    "bleurt": _bleurt,
    "chrf": _plain("chrf"),
    "intent_accuracy": _intent_reward,
    "learned_reward": _learned,
    "meteor": _meteor_reward,
    "parent": _plain("parent", totto=True),
    "rouge": _rouge_reward,
    "rouge_combined": _rouge_combined,
    "rouge_l_max": _rouge_l_max,
    "sacre_bleu": _sacrebleu,
    "spider": _spider,
    "ter": _plain("ter"),
}
"""Reward's id -> ours."""

METRICS: dict[str, Callable[[Option], Found]] = {
    "bert_score": _bert_score,
    "bleu": _plain("bleu"),
    "bleu_totto": _plain("bleu", "of all rows; RL4LMs runs ToTTo's script"),
    "bleurt": _bleurt,
    "causal_perplexity": _perplexity,
    "chrf": _plain("chrf"),
    "cider": _plain("cider"),
    "diversity": _plain("diversity"),
    "intent_accuracy": _intent_metric,
    "learned_reward": _learned,
    "meteor": _plain("meteor", _NOT_PRINTED),
    "parent_totto": _plain("parent", totto=True),
    "rouge": _rouge_metric,
    "rouge_l_max": _rouge_l_max,
    "sacre_bleu": _sacrebleu,
    "spice": lambda option: ([], ["it needs a parser or Java: {name: spice, jars: FOLDER}"]),
    "summaCZS": _summac("zs"),
    "summaCConv": _summac("conv"),
    "ter": _plain("ter"),
}
"""Metric's id -> ours."""
