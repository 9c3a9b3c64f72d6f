"""A package that is missing is one line with the command that installs it."""

from __future__ import annotations

import sys

import pytest

from support.metric_options import OPTIONS
from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric, load
from trl_nlpo.metrics.rouge import _scorer
from trl_nlpo.metrics.sacrebleu_metric import scorer
from trl_nlpo.rewards import get_reward


@pytest.mark.parametrize(
    ("name", "module", "who", "package"),
    [
        ("meteor", "nltk.tokenize", "metric 'meteor'", "nltk"),
        ("cider", "nltk.tokenize", "metric 'cider'", "nltk"),
        ("distinct1", "nltk.tokenize", "a metric of naturalness", "nltk"),
        ("rouge1", "rouge_score.rouge_scorer", "metric 'rouge1'", "rouge-score"),
        ("bleu", "sacrebleu", "metric 'bleu'", "sacrebleu"),
        ("ter", "sacrebleu", "metric 'ter'", "sacrebleu"),
    ],
)
def test_a_metric_without_its_package_says_what_to_install(monkeypatch, name, module, who, package):
    _scorer.cache_clear()
    scorer.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as caught:
        get_metric(name, **OPTIONS.get(name, {}))
    assert (
        str(caught.value) == f'{who} needs the package {package}: install it with `pip install "trl-nlpo[metrics]"`.'
    )


@pytest.mark.parametrize("make", [lambda: load("rouge1"), lambda: get_reward("evaluate:exact_match")])
def test_modules_of_evaluate_say_so_too(monkeypatch, make):
    monkeypatch.setitem(sys.modules, "evaluate", None)
    with pytest.raises(
        UserError, match=r'needs the package evaluate: install it with `pip install "trl-nlpo\[metrics\]"`'
    ):
        make()
