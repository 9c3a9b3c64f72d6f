"""The penalty for repeating the prompt."""

from __future__ import annotations

import pytest

from trl_nlpo.errors import UserError
from trl_nlpo.rewards import get_reward


PROMPT = "generate a sentence with: dog catch ball."
CONCEPTS = ["dog", "catch", "ball"]


def penalty(completion, prompt=PROMPT, concepts=CONCEPTS, **options):
    reward = get_reward("prompt_repetition", **options)
    return reward(prompts=[prompt], completions=[completion], concepts=[concepts])[0]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("A dog catches a ball.", 0.0),
        ("The ball, the dog: catch!", 0.0),
        ("", 0.0),
        ("Dog catch ball.", -1.0),
        ("I see a dog, catch, ball in it.", -1.0),
        ("Write a sentence about dogs.", -1.0),
        ("They generate balls.", -1.0),
        ("A dog with sentences.", 0.0),
    ],
)
def test_concepts_in_a_row_and_words_of_the_instruction_cost_a_point(completion, expected):
    assert penalty(completion) == expected


def test_the_words_before_the_concepts_may_not_be_repeated_in_a_row():
    assert penalty("Now say this: a dog", prompt="say this: dog catch ball") == -1.0
    assert penalty("This I say: a dog", prompt="say this: dog catch ball") == 0.0


def test_words_that_the_prompt_does_not_have_or_that_are_concepts_cost_nothing():
    assert penalty("A sentence on dogs.", prompt="dog catch ball") == 0.0
    assert penalty("A long sentence.", prompt="generate a sentence with: sentence long", concepts=["sentence"]) == 0.0
    assert (
        penalty("Please catch it", prompt="please use: dog ball", words=["please"], concepts=["dog", "ball"]) == -1.0
    )


def test_a_single_concept_is_no_repetition_and_none_does_not_apply():
    assert penalty("a dog", prompt="dog", concepts="dog") == 0.0
    assert penalty("a dog", concepts=[]) is None


def test_conversations_are_read_by_their_last_message():
    prompt = [{"role": "user", "content": PROMPT}]
    assert penalty([{"role": "assistant", "content": "dog catch ball"}], prompt=prompt) == -1.0


def test_the_column_is_needed():
    with pytest.raises(UserError, match="'prompt_repetition' needs a column 'concepts'"):
        get_reward("prompt_repetition")(prompts=["a"], completions=["b"])
