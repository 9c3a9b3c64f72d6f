"""What counts as secret, and what is left of it."""

from __future__ import annotations

import dataclasses
import io
import json
import sys

import pytest
import yaml
from trl import ModelConfig

from trl_nlpo import NLPOConfig, secrets
from trl_nlpo.errors import UserError
from trl_nlpo.recipes.arguments import RecipeArguments
from trl_nlpo.secrets import (
    HIDDEN,
    is_secret_name,
    note_secrets,
    note_words,
    redacted,
    redacted_output,
    redacted_words,
    without_secret_keys,
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(secrets, "_known", set())


@pytest.mark.parametrize(
    "name",
    [
        "hub_token", "push_to_hub_token", "HF_TOKEN", "MY_PAT", "DB_PASSWD", "mySecretThing", "MYTOKEN", "apiKey",
        "api_key", "OPENAI_KEY", "token", "password", "Authorization", "GITHUB_TOKEN_RO", "API_TOKENS", "x-api-key",
        "AWS_SECRET_ACCESS_KEY", "client_secret", "MYSQL_PWD", "SENTRY_DSN", "basic_auth",
    ],
)  # fmt: skip
def test_names_of_secrets(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "stop_token", "stop_token_id", "mask_min_tokens", "max_new_tokens", "TOKENIZERS_PARALLELISM", "eos_token_id",
        "tokenizer", "PATH", "val/num_eos_tokens", "num_key_value_heads", "keyword", "monkey", "suppress_tokens",
        "token_type_ids", "pattern", "author", "compass", "pathology",
    ],
)  # fmt: skip
def test_names_of_other_things(name):
    assert not is_secret_name(name)


def test_of_all_keys_of_a_recipe_one_is_secret():
    names = {field.name for cls in (NLPOConfig, ModelConfig, RecipeArguments) for field in dataclasses.fields(cls)}
    assert {name for name in names if is_secret_name(name)} - {"push_to_hub_token"} == {"hub_token"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("api_key: 4711abc is wrong", "api_key: <hidden> is wrong"),
        ('{"api_key": "x y", "n": 1}', '{"api_key": <hidden>, "n": 1}'),
        ("{'HF_TOKEN': 'abc'}", "{'HF_TOKEN': <hidden>}"),
        ("--hub_token abc --stop_token eos", "--hub_token <hidden> --stop_token eos"),
        ("--hub-token=abc", "--hub-token=<hidden>"),
        ("GET https://me:pw@host/x?token=1a&n=2", "GET https://<hidden>@host/x?token=<hidden>&n=2"),
        ("Bearer abcdefgh, hf_abcdefghijklmnopqrst", "Bearer <hidden>, <hidden>"),
        ("unknown key 'api_key': it is not one", "unknown key 'api_key': it is not one"),
        ("max_new_tokens: 5; learning_rate: 1 -> 2", "max_new_tokens: 5; learning_rate: 1 -> 2"),
        ("https://host/a@b", "https://host/a@b"),
    ],
)  # fmt: skip
def test_secrets_in_a_text_are_hidden_and_nothing_else(text, shown):
    assert redacted(text) == shown
    assert str(UserError(text)) == shown


def test_what_was_once_secret_is_hidden_wherever_it_turns_up(monkeypatch):
    monkeypatch.setenv("SERVICE_PAT", "from-the-environment")
    note_secrets(
        {"rewards": [{"name": "judge", "api_key": 'quo"ted\u00e9', "headers": {"auth": ["first1", "second2"]}}]}
    )
    note_secrets("https://me:swordfish@host")
    note_words(
        ["run", "--hub_token", "given1", "--rewards", '{"name": "x", "api_key": "inside1"}', "--x_token=equals1"]
    )
    for secret in ("from-the-environment", "first1", "second2", "swordfish", "given1", "inside1", "equals1"):
        assert redacted(f"a{secret}b", known_only=True) == f"a{HIDDEN}b"
    for line in (json.dumps({"a": 'quo"ted\u00e9'}), json.dumps({"a": 'quo"ted\u00e9'}, ensure_ascii=False)):
        assert "ted" not in redacted(line, known_only=True)
    # A short value is a part of too much.
    note_secrets("abc", "password")
    assert redacted("abcdef", known_only=True) == "abcdef"
    assert redacted({"password": "abc"}) == {"password": HIDDEN}


def test_data_that_looks_secret_is_left_as_it_is():
    row = {"prompt": "My password: swordfish7, https://me:pw@host"}
    assert json.loads(redacted(json.dumps(row), known_only=True)) == row


def test_a_command_keeps_its_words():
    words = ["grue", "--hub_token", "x", "--rewards", '[{"name": "a", "api_key": "q"}]', "--seeds", "3", "--a_key=b"]
    assert redacted_words(words) == [
        "grue", "--hub_token", HIDDEN, "--rewards", '[{"name": "a", "api_key": "<hidden>"}]', "--seeds", "3",
        "--a_key=<hidden>",
    ]  # fmt: skip


def test_what_is_to_be_used_again_loses_its_secret_entries():
    recipe = {
        "hub_token": "abc", "stop_token": "eos", "prompt_template": "password: {prompt}",
        "rewards": [{"name": "judge", "api_key": "x", "weight": 2}], "env": {"PROXY": "http://me:pw@p", "A_PAT": "z"},
    }  # fmt: skip
    assert without_secret_keys(recipe) == {
        "stop_token": "eos", "prompt_template": "password: {prompt}", "rewards": [{"name": "judge", "weight": 2}],
        "env": {"PROXY": "http://<hidden>@p"},
    }  # fmt: skip
    assert yaml.safe_dump(without_secret_keys(recipe))


def test_everything_that_is_printed_goes_through_it(monkeypatch):
    note_secrets("swordfish", "password")
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with redacted_output():
        print("a swordfish")
        sys.stdout.writelines(["swordfish\n"])
    print("a swordfish")
    assert out.getvalue() == "a <hidden>\n<hidden>\na swordfish\n"
