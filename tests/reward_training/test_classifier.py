"""A classifier that is trained on labelled rows."""

from __future__ import annotations

import json

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.reward_training.classifier import ClassifierArguments, train_classifier
from trl_nlpo.rewards import get_reward


@pytest.fixture
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def labelled(folder, split, number):
    rows = [
        {"text": f"it was {word} indeed {n}", "label": label}
        for n in range(number)
        for word, label in (("good", "positive"), ("bad", "negative"))
    ]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_a_classifier_of_labelled_rows_is_a_reward(working_directory):
    labelled(working_directory, "train", 40)
    labelled(working_directory, "test", 5)
    accuracy = train_classifier(
        ClassifierArguments(data=".", out="judge", text="{text}", epochs=8, vocab_size=300, learning_rate=5e-3)
    )
    assert accuracy == {"test": 1.0}
    reward = get_reward("classifier", model="judge", label="positive", include_prompt=False)
    good, bad = reward(completions=["it was good indeed 3", "it was bad indeed 3"], prompts=["", ""])
    assert good > 0.8
    assert bad < 0.2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text": "{body}"}, "has no column 'body'; it has: text, label"),
        ({"label": "stars"}, "has no column 'stars'"),
        ({"data": "nowhere"}, "nowhere is not there"),
    ],
)
def test_a_classifier_without_its_columns_is_a_users_mistake(keys, message, working_directory):
    labelled(working_directory, "train", 2)
    with pytest.raises(UserError, match=message):
        train_classifier(ClassifierArguments(**{"data": ".", "out": "judge", "text": "{text}", **keys}))
