"""Model cards: true facts, texts that stay texts, metadata that the Hub takes."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from trl_nlpo.errors import UserError
from trl_nlpo.hub.card import RECORD_NAME, CardFacts, escaped, hub_id, in_cell, model_card
from trl_nlpo.hub.loading import loading, loading_of
from trl_nlpo.hub.snippet import Reading, snippet


PAPER = {"title": "NLPO", "id": "2210.01241", "citation": "@misc{x}"}
EVIL = "a | b <img src=x onerror=go()> ![p](http://x/y) [l](http://z) www.w.org me@x.org\n# T\n```\n:smile: **b** <!--"


def facts(**more):
    given = {"model_name": "words", "method": "NLPO", "paper": PAPER, "tags": ["trl"], "versions": {"trl": "1"}}
    return CardFacts(**{**given, **more})


def card(**more):
    return model_card(facts(**more), loading("me/words", False))


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def results(**more):
    return {
        "results": {"zero-shot": {"reward": 0.5, "perplexity": 3.0}, "nlpo": {"reward": 0.75, "perplexity": 2.0}},
        "better": {"reward": "higher", "perplexity": "lower"}, "num_rows": 6, "before": "zero-shot", **more,
    }  # fmt: skip


def test_names_of_people_are_texts_and_not_markup():
    text = card(model_name="*a* <b>|x\n# y", base_model="me/base", data="[click](javascript:x)<script>")
    body = text.split("---\n", 2)[2]
    assert "# \\*a\\* &lt;b>\\|x \\# y\n" in body
    assert "\\[click\\]\\(javascript:x\\)&lt;script>" in body
    assert "[me/base](https://huggingface.co/me/base)" in body
    assert escaped("a_b`c") == "a\\_b\\`c"
    assert escaped("https://me:pw@host/x") == "https://&lt;hidden>@host/x"


def test_a_models_text_in_a_sample_is_neither_link_nor_picture_nor_html():
    markdown = pytest.importorskip("markdown_it")
    row = {"prompt": EVIL, "before": EVIL, "after": EVIL}
    body = card(**results(samples=[row])).split("---\n", 2)[2]
    section = body[body.index("## Samples") : body.index("## Training it further")]
    tokens = markdown.MarkdownIt("gfm-like", {"linkify": False}).parse(section)
    inline = [child for token in tokens for child in token.children or []]
    assert {token.type for token in inline} == {"text"}
    assert {token.type for token in tokens} & {"html_block", "fence", "heading_open"} == {"heading_open"}
    cells = [token for token in tokens if token.type == "inline"][-3:]
    assert {"".join(child.content for child in cell.children) for cell in cells} == {" ".join(EVIL.split())}
    # What the Hub makes links and emoji of without any markup.
    assert not re.search(r"http:|www\.|\w@\w|:smile:", section)


def test_long_samples_are_truncated_before_they_are_escaped():
    shown = in_cell("<" * 1000)
    assert shown == "&lt;" * 400 + "…"
    assert in_cell(" ") == "*(nothing)*"
    assert "\x1b" not in in_cell("\x1b[31mred")


def test_metadata_names_only_what_can_be_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "rows").mkdir(parents=True)
    assert hub_id("data/rows") is None
    assert hub_id("/data/rows.jsonl") is None
    assert hub_id("me/rows") == "me/rows"
    data = metadata(card(dataset_name="me/rows", base_model="me/base"))
    assert (data["datasets"], data["base_model"], data["library_name"]) == ("me/rows", "me/base", "transformers")
    assert "[me/rows](https://huggingface.co/datasets/me/rows)" in card(dataset_name="me/rows")
    assert not {"datasets", "base_model"} & set(metadata(card(data="rows that are not on the Hub")))


def test_an_adapters_base_and_the_model_that_all_began_with_are_both_named():
    text = card(base_model="me/base", adapter_base="me/words-base", supervised={"supervised_batch_size": 8})
    assert metadata(text)["base_model"] == "me/words-base"
    assert "that started from [me/base]" in text
    assert "the supervised stage, [me/words\\-base](https://huggingface.co/me/words-base)" in text
    assert "trained on references first (supervised) and then reinforced" in text


def test_results_are_the_models_own_in_the_metadata_and_every_stages_in_the_table(tmp_path):
    text = card(**results(task="commongen", dataset_name="me/rows", split="held_out"))
    (tmp_path / "README.md").write_text(text)
    found = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert {result.metric_type: result.metric_value for result in found} == {"reward": 0.75, "perplexity": 2.0}
    assert {(result.dataset_type, result.dataset_name, result.dataset_split) for result in found} == {
        ("me/rows", "commongen", "held_out")
    }
    assert (
        "|  | zero\\-shot | nlpo |\n| --- | --- | --- |\n| reward ↑ | 0.5 | 0.75 |\n| perplexity ↓ | 3 | 2 |" in text
    )
    assert "model-index" not in metadata(card())
    assert "## Results" not in card()


def test_nothing_is_said_of_a_base_that_is_not_known():
    text = card()
    assert "None" not in text
    assert "started from" not in text


def test_conversations_are_asked_by_the_chat_template():
    messages = [{"role": "user", "content": "Hello."}]
    code = "\n".join(snippet(loading("me/x", False), Reading(messages=messages, template_options={"style": "short"})))
    assert "tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, style='short')" in code
    assert "add_special_tokens=False" in code
    begun = Reading(messages=[*messages, {"role": "assistant", "content": "Well"}])
    assert "continue_final_message=True" in "\n".join(snippet(loading("me/x", False), begun))
    assert "apply_chat_template" not in card()


def test_a_template_is_in_the_code_and_makes_the_prompt():
    reading = Reading(
        template='say "{{" {question}: {prompt}\n', example={"prompt": "it's \\ \"odd\"", "question": "é\n"},
        max_length=7, truncation_side="left", generation={"max_new_tokens": 3, "do_sample": False},
    )  # fmt: skip
    code = snippet(loading("me/x", True), reading)
    compile("\n".join(code), "card", "exec")
    scope = {}
    exec("\n".join(line for line in code if line.startswith(("template =", "prompt ="))), scope)
    assert scope["prompt"] == 'say "{" é\n: it\'s \\ "odd"\n'
    assert {'tokenizer.truncation_side = "left"', "    max_new_tokens=3,", "    do_sample=False,"} <= set(code)
    assert any("truncation=True, max_length=7" in line for line in code)


def test_the_record_of_a_card_gives_the_same_card(tmp_path):
    first = facts(
        **results(), rewards=[("length", 2.0)], settings={"kl_coef": 0.05, "cliprange_value": float("inf")},
        reading=Reading(messages=[{"role": "user", "content": "x"}]),
    )  # fmt: skip
    (tmp_path / RECORD_NAME).write_text(first.as_json())
    again = CardFacts.read(tmp_path)
    assert model_card(again, loading("me/x", False)) == model_card(first, loading("me/x", False))


@pytest.mark.parametrize(("content", "says"), [("{", "damaged"), ("{}", "damaged"), (None, "has no _card.json")])
def test_a_record_that_is_not_there_or_damaged_is_a_line(tmp_path, content, says):
    if content is not None:
        (tmp_path / RECORD_NAME).write_text(content)
    with pytest.raises(UserError, match=says):
        CardFacts.read(tmp_path)


def test_the_line_is_valid_python_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / 'a "b" \\ é'
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"is_encoder_decoder": True}))
    line = loading_of(folder).line
    compile(line, "line", "exec")
    assert "AutoModelForSeq2SeqLM" in line
    scope: dict = {}
    exec(f"path = {line[line.index('(') + 1 : -1]}", scope)
    assert scope["path"] == str(folder)
