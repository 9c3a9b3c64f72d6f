"""Conversations in the shapes that data sets have, and templates that refuse or drop them."""

from __future__ import annotations

import numpy as np
import pytest

from support import tiny
from trl_nlpo import UserError
from trl_nlpo.prompts import PromptDataset, PromptTokenizer
from trl_nlpo.prompts.messages import read_prompt


PLAIN = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
)
USERS_ONLY = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }} {% endif %}{% endfor %}"
USER = {"role": "user", "content": "w1 w2"}
SYSTEM = {"role": "system", "content": "w3"}


def read(prompts, template=PLAIN):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    rows = [{"prompt": prompt} for prompt in prompts]
    return PromptDataset(rows, PromptTokenizer(tokenizer, None, "left", None), "train_dataset", 20)


@pytest.mark.parametrize(
    "prompt",
    [
        [{"role": "user", "content": [{"type": "text", "text": "w1 "}, {"type": "text", "text": "w2"}]}],
        [{"role": "user", "content": ["w1 w2"]}],
        [{"from": "human", "value": "w1 w2"}],
        (USER,),
        np.array([USER], dtype=object),
    ],
    ids=["parts", "texts", "sharegpt", "tuple", "array"],
)
def test_a_conversation_of_any_shape_is_read_as_messages_of_text(prompt):
    assert read_prompt(prompt) == [USER]
    rows = read([prompt])
    assert rows.prompt_ids == read([[USER]]).prompt_ids
    assert rows[0]["prompt"] == [USER]


def test_sharegpts_names_of_roles_become_the_templates_and_other_keys_stay():
    prompt = [
        {"from": "system", "value": "w0"},
        {"from": "human", "value": "w1", "weight": 1},
        {"from": "gpt", "value": "w2"},
    ]
    assert [message["role"] for message in read_prompt(prompt)] == ["system", "user", "assistant"]
    assert read_prompt(prompt)[1] == {"role": "user", "content": "w1", "weight": 1}


@pytest.mark.parametrize(
    ("prompt", "template", "says"),
    [
        ([SYSTEM, USER], NO_SYSTEM, "(roles: system, user) that the chat template does not render: System role not"),
        ([USER, SYSTEM], PLAIN, "end with one of the role 'system'"),
        ([], PLAIN, "no messages"),
        ([SYSTEM, USER], USERS_ONLY, "the role 'system' that the chat template leaves out"),
        ([{"role": "narrator", "content": "w0"}, USER], USERS_ONLY, "role 'narrator' that the chat template leaves"),
        ([{"speaker": "a", "text": "b"}], PLAIN, "message 0 with the keys speaker, text"),
        ([USER, {"role": "user", "content": [{"type": "image"}]}], PLAIN, "a part of type 'image' in message 1"),
        ([{"role": "user", "content": None}], PLAIN, "None as the content of message 0"),
        (USER, PLAIN, "a prompt of dict"),
    ],
)  # fmt: skip
def test_a_conversation_that_cannot_be_completed_is_one_line_with_its_row(prompt, template, says):
    with pytest.raises(UserError, match="train_dataset row 1 ") as caught:
        read([[USER], prompt], template)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_template_drops_of_an_assistants_words_is_its_own_affair():
    template = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }} {% endfor %}"
    thoughts = {"role": "assistant", "content": "w9</think> w3"}
    assert read([[USER, thoughts, USER]], template).prompt_ids == [[4, 5, 6, 4, 5]]
