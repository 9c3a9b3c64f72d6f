"""The code of a card reads a conversation as the trainer does."""

from __future__ import annotations

import pytest

from support import tiny
from trl_nlpo.hub.loading import loading_of
from trl_nlpo.hub.snippet import Reading, snippet
from trl_nlpo.prompts import PromptTokenizer


TEMPLATE = (
    "{% for m in messages %}{{ 'w1' if m['role'] == 'user' else 'w2' }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}{{ mark }}{% endif %}"
)


@pytest.mark.parametrize("max_length", [None, 3])
def test_messages_become_the_ids_that_were_trained_on(tmp_path, capsys, max_length):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tiny.saved(tiny.policy(), tokenizer, tmp_path)
    messages = [{"role": "user", "content": "w5 w6"}]
    reading = Reading(
        messages=messages, template_options={"mark": "w9"}, max_length=max_length, truncation_side="left",
        generation={"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0},
    )  # fmt: skip
    scope: dict = {}
    exec("\n".join(snippet(loading_of(tmp_path), reading)), scope)
    expected = PromptTokenizer(tokenizer, max_length, "left", {"mark": "w9"})([messages])[0]
    assert scope["inputs"].input_ids[0].tolist() == expected
    assert len(capsys.readouterr().out.split()) <= 3
