"""BLEU, chrF and TER against `sacrebleu` itself, and what is ours: uneven references, rewards, long rows of TER."""

from __future__ import annotations

import math
import pickle
import random
import sys
from collections import Counter

import nltk
import pytest
from sacrebleu.metrics import BLEU, CHRF, TER

from trl_nlpo.errors import UserError
from trl_nlpo.metrics import get_metric
from trl_nlpo.metrics.ter import Ter
from trl_nlpo.rewards import get_reward


def made_up_rows(count=40, words=30, shortest=1):
    draw = random.Random(0)

    def text():
        return " ".join(f"w{draw.randrange(words)}" for _ in range(draw.randint(shortest, 15)))

    return [text() for _ in range(count)], [[text() for _ in range(draw.randint(1, 4))] for _ in range(count)]


LIBRARY = {
    "sacrebleu": (BLEU(), BLEU(effective_order=True)),
    "chrf": (CHRF(), CHRF()),
    "chrf++": (CHRF(word_order=2), CHRF(word_order=2)),
    "ter": (TER(), TER()),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_corpus_and_sentence_scores_are_the_librarys_with_uneven_references(name):
    predictions, references = made_up_rows()
    corpus, sentence = LIBRARY[name]
    streams = [[row[index] if index < len(row) else None for row in references] for index in range(4)]
    metric = get_metric(name)
    assert metric.compute(predictions, references=references) == {
        name: pytest.approx(corpus.corpus_score(predictions, streams).score, abs=1e-9)
    }
    assert metric.score(predictions, references=references) == pytest.approx(
        [sentence.sentence_score(text, row).score for text, row in zip(predictions, references, strict=True)], abs=1e-9
    )


def test_corpus_bleu_is_nltks():
    # nltk counts one n-gram where a text is too short to have any.
    predictions, references = made_up_rows(words=4, shortest=4)
    ours = get_metric("bleu").compute(predictions, references=references)["bleu"]
    theirs = nltk.translate.bleu_score.corpus_bleu(
        [[text.split() for text in row] for row in references], [text.split() for text in predictions]
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert ours > 0.1


def test_a_corpus_number_leaves_out_rows_without_references_and_needs_one():
    metric = get_metric("bleu", max_order=1)
    assert metric.compute(["a dog", "x"], references=[["a dog"], []]) == {"bleu": pytest.approx(1.0)}
    with pytest.raises(UserError, match="'bleu' applies to no row: references are empty"):
        metric.compute(["a dog"], references=[None])


def test_a_short_text_has_a_reward_although_it_has_no_four_grams():
    assert get_reward("bleu")(completions=["a dog"], references=[["a dog"]]) == [pytest.approx(1.0)]
    assert get_reward("bleu", smoothing="none")(completions=["a dog barks now"], references=[["a dog ran now"]]) == [0]


def test_rewards_of_percentages_are_fractions_and_ter_is_turned_around():
    rows = {"completions": ["a dog sat", "x y z v w"], "references": [["a dog sat"], ["q"]]}
    for name in ("sacrebleu", "chrf", "chrf++"):
        assert get_reward(name)(**rows) == [pytest.approx(1.0), 0.0]
    assert get_reward("ter")(**rows) == [1.0, -4.0]


def test_words_are_cut_at_white_space_for_bleu_and_by_13a_for_sacrebleu():
    texts = {"predictions": ["the dog."], "references": [["the dog ."]]}
    assert get_metric("bleu", max_order=1).score(**texts) == [pytest.approx(0.5 * 2.718281828 ** (1 - 3 / 2))]
    assert get_metric("sacrebleu").score(**texts) == [pytest.approx(100.0)]


def test_long_rows_of_ter_are_counted_without_shifts_and_said_once():
    shifted = {"predictions": ["c d a b", "b a"], "references": ["a b c d", "a b"]}
    assert Ter().score(**shifted) == [25.0, 50.0]
    metric = Ter(max_words=3)
    with pytest.warns(UserWarning, match="more than 3 words"):
        assert metric.score(**shifted) == [100.0, 50.0]
    assert metric.compute(**shifted) == {"ter": pytest.approx(100 * (4 + 1) / 6)}


@pytest.mark.filterwarnings("ignore:metric 'ter'. a text or reference has more than")
def test_edits_without_shifts_are_nltks_edit_distance():
    predictions, references = made_up_rows(words=6)
    ours = Ter(max_words=0).score(predictions, references=references)
    for score, text, row in zip(ours, predictions, references, strict=True):
        edits = min(nltk.edit_distance(text.split(), other.split()) for other in row)
        assert score == pytest.approx(100 * edits / (sum(len(other.split()) for other in row) / len(row)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bleu", {"smoothing": "expo"}, "'bleu': unknown smoothing 'expo', did you mean 'exp'"),
        ("bleu3", {"tokenize": "13b"}, "'bleu3': unknown tokenizer '13b', did you mean '13a'"),
        ("bleu", {"max_order": 0}, "max_order must be a whole number from 1, not 0"),
        ("bleu4", {"max_order": 2}, "'bleu4' has no option 'max_order'"),
        ("chrf++", {"word_order": 1}, "has no option 'word_order', did you mean 'char_order'"),
    ],
)
def test_a_wrong_option_is_one_line(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        get_metric(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LIBRARY)
def test_they_can_be_pickled_and_say_what_to_install(name, monkeypatch):
    metric = pickle.loads(pickle.dumps(get_metric(name)))
    assert metric.score([""], references=[[]]) == [None]
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    from trl_nlpo.metrics import sacrebleu_metric

    sacrebleu_metric.scorer.cache_clear()
    with pytest.raises(UserError, match=r'pip install "trl-nlpo\[metrics\]"'):
        get_metric(name)


def bleu_with_shortest(texts, references, order=4):
    """BLEU written out, with the brevity penalty of the shortest references."""
    matches, totals, length, wanted = [0] * order, [0] * order, 0, 0
    for text, row in zip(texts, references, strict=True):
        words = text.split()
        length, wanted = length + len(words), wanted + min(len(other.split()) for other in row)
        for n in range(1, order + 1):
            own = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
            most = Counter()
            for other in row:
                others = other.split()
                most |= Counter(tuple(others[i : i + n]) for i in range(len(others) - n + 1))
            matches[n - 1] += (own & most).total()
            totals[n - 1] += own.total()
    if not all(matches):
        return 0.0
    precision = math.exp(sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / order)
    return precision * min(1.0, math.exp(1 - wanted / length))


def test_the_shortest_reference_may_be_the_length_that_a_text_is_measured_against():
    texts, references = made_up_rows()
    metric = get_metric("bleu", reference_length="shortest")
    assert metric.compute(texts, references=references)["bleu"] == pytest.approx(bleu_with_shortest(texts, references))
    # Six words; eight are two away, three are three away.
    text, rows = ["a b c d e f"], [["a b c d e f g h", "a b c"]]
    closest, shortest = (get_metric("bleu", reference_length=kind) for kind in ("closest", "shortest"))
    assert closest.compute(text, references=rows)["bleu"] == pytest.approx(math.exp(1 - 8 / 6))
    assert shortest.compute(text, references=rows)["bleu"] == pytest.approx(1.0)
    assert shortest.score(text, references=rows) == [pytest.approx(1.0)]
    with pytest.raises(UserError, match="unknown reference_length 'shortes', did you mean 'shortest'"):
        get_metric("bleu", reference_length="shortes")
