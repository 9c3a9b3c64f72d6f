"""Model cards: true facts, texts that stay texts, metadata that the Hub takes."""

from __future__ import annotations

import yaml

from trl_nlpo.hub.card import CardFacts, escaped, hub_id, model_card
from trl_nlpo.hub.loading import loading, loading_of


PAPER = {"title": "NLPO", "id": "2210.01241", "citation": "@misc{x}"}


def card(**facts):
    given = {
        "model_name": "words", "loading": loading("me/words", False), "base_model": None, "dataset_name": None,
        "method": "NLPO", "paper": PAPER, "tags": ["trl"], "versions": {"trl": "1"},
    }  # fmt: skip
    return model_card(CardFacts(**{**given, **facts}))


def test_names_of_people_are_texts_and_not_markup():
    text = card(model_name="*a* <b>|x\n# y", dataset_name="[click](javascript:x)<script>", base_model="me/base")
    body = text.split("---\n", 2)[2]
    assert "# \\*a\\* &lt;b>\\|x \\# y\n" in body
    assert "\\[click\\]\\(javascript:x\\)&lt;script>" in body
    assert "[me/base](https://huggingface.co/me/base)" in body
    assert escaped("a_b`c") == "a\\_b\\`c"
    assert escaped("https://me:pw@host/x") == "https://&lt;hidden>@host/x"


def test_metadata_names_only_what_can_be_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "rows").mkdir(parents=True)
    assert hub_id("data/rows") is None
    assert hub_id("/data/rows.jsonl") is None
    assert hub_id("me/rows") == "me/rows"
    for name in ("data/rows", "/data/rows.jsonl"):
        text = card(dataset_name=name)
        assert "datasets" not in yaml.safe_load(text.split("---\n")[1])
        assert "huggingface.co/datasets" not in text
    data = yaml.safe_load(card(dataset_name="me/rows", base_model="me/base").split("---\n")[1])
    assert (data["datasets"], data["base_model"], data["library_name"]) == ("me/rows", "me/base", "transformers")


def test_nothing_is_said_of_a_base_that_is_not_known():
    text = card()
    assert "None" not in text
    assert "started from" not in text


def test_chat_models_are_asked_by_their_template():
    assert "apply_chat_template" in card(has_template=True)
    assert "apply_chat_template" not in card()


def test_the_line_is_valid_python_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / 'a "b" \\ é'
    folder.mkdir()
    (folder / "config.json").write_text('{"is_encoder_decoder": true}')
    line = loading_of(folder).line
    compile(line, "line", "exec")
    assert "AutoModelForSeq2SeqLM" in line
    scope: dict = {}
    exec(f"path = {line[line.index('(') + 1 : -1]}", scope)
    assert scope["path"] == str(folder)
