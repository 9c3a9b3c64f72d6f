"""Runs of every kind are pushed and loaded again: by the lines that they print, elsewhere, in a fresh process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import yaml

from support import tiny
from support.loopback_hub import LoopbackHub, Repository
from support.small_runs import TINY
from trl_nlpo.hub.card import escaped
from trl_nlpo.models.from_scratch import build_model, train_tokenizer


KINDS = {
    f"{family}-{adaptation}-{algorithm.replace('+', '-')}": (family, adaptation, algorithm)
    for family in ("gpt2", "t5")
    for adaptation in ("full", "lora")
    for algorithm in ("nlpo", "supervised+nlpo")
}

RUN_ALL = """
import contextlib, io, json, sys
from trl_nlpo.cli import main

printed = {}
for name in sys.argv[1:]:
    sys.argv = ["trl-nlpo", "run", f"{name}.yaml"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as left:
            assert not left.code, (name, left.code, out.getvalue())
    printed[name] = out.getvalue()
print(json.dumps(printed))
"""

LOAD_ALL = """
import json, pathlib, sys
from transformers import AutoTokenizer
from trl_nlpo.data.splits import load_splits
from trl_nlpo.evaluation.policy import evaluate_policy
from trl_nlpo.recipes.recipe import load_recipe

wrong = []
for folder, lines in json.loads(sys.argv[1]).items():
    recipe = load_recipe(pathlib.Path(folder) / "recipe.yaml")
    test = load_splits(recipe.arguments, recipe.training.seed).test
    stage = recipe.algorithm.last_stage
    with open(f"{folder}/samples.jsonl") as file:
        expected = [json.loads(line)[stage]["completion"] for line in file]
    for line in lines:
        scope = {}
        exec(line, scope)
        rewards, tokenizer = recipe.arguments.reward_functions(), AutoTokenizer.from_pretrained(folder)
        found = evaluate_policy(scope["model"], tokenizer, test, rewards, recipe.training)
        if [sample["completion"] for sample in found.samples] != expected:
            wrong.append(line)
print(json.dumps(wrong))
"""


def on_the_hub(hub, name, model, tokenizer, folder):
    tiny.saved(model, tokenizer, folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repositories[name] = Repository({"main": files})


def python(code, *words, cwd, environment):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def write_recipe(folder, name):
    family, adaptation, algorithm = KINDS[name]
    lora = {"use_peft": True, "lora_r": 2, "lora_alpha": 4, "lora_target_modules": "all-linear"}
    keys = {
        **TINY, **(lora if adaptation == "lora" else {}), "algorithm": algorithm, "learning_rate": 1e-2, "seed": 5,
        "model_name_or_path": f"me/start-{family}", "push_to_hub": True, "hub_model_id": f"me/{name}",
        "eval_strategy": "no", "save_strategy": "no", "temperature": 1.0,
    }  # fmt: skip
    if algorithm != "nlpo":
        # What is greedy can be asked for again, one prompt at a time; and a template has something to say.
        keys |= {"eval_generation_kwargs": {"do_sample": False}, "prompt_template": "My aunt: {prompt}"}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(keys))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A Hub with small models, the runs of every kind, and what they printed."""
    folder = tmp_path_factory.mktemp("runs")
    with LoopbackHub() as hub:
        tokenizer = train_tokenizer(["On Sunday my aunt went to the river and met a dog."] * 2, 300)
        for family in ("gpt2", "t5"):
            model = build_model(tokenizer, family, 16, 1, 2, 192)
            on_the_hub(hub, f"me/start-{family}", model, tokenizer, folder / f"start-{family}")
        for name in KINDS:
            write_recipe(folder, name)
        ran = python(RUN_ALL, *KINDS, cwd=folder, environment=hub.environment(folder / "home"))
        assert ran.returncode == 0, ran.stderr[-3000:]
        yield hub, folder, json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow
def test_every_kind_is_loaded_by_the_lines_that_its_run_printed(world, tmp_path):
    hub, folder, printed = world
    lines = {
        str(folder / "runs" / name): re.findall(r"^ *(from \w+ import .*; model = .*)$", text, re.MULTILINE)
        for name, text in printed.items()
    }
    assert all(len(of_run) == 2 for of_run in lines.values()), printed
    assert all(f'"me/{name}"' in of_run[1] for name, of_run in zip(KINDS, lines.values(), strict=True))
    # Another directory and another cache: nothing is there but what was saved and pushed.
    loaded = python(LOAD_ALL, json.dumps(lines), cwd=tmp_path, environment=hub.environment(tmp_path / "home"))
    assert loaded.returncode == 0, loaded.stderr[-3000:]
    assert json.loads(loaded.stdout.splitlines()[-1]) == []


@pytest.mark.slow
def test_an_adapter_of_a_supervised_model_names_a_base_that_is_pushed_beside_it(world):
    hub, *_ = world
    for name, (_, adaptation, algorithm) in KINDS.items():
        has_base = adaptation == "lora" and "+" in algorithm
        assert (f"me/{name}-base" in hub.repositories) == has_base
        if has_base:
            text = hub.files(f"me/{name}-base")["README.md"].decode()
            assert f"The base of the adapter [me/{escaped(name)}](https://huggingface.co/me/{name})" in text
            assert f'from_pretrained("me/{name}-base")' in text
        if adaptation == "lora":
            base = f"me/{name}-base" if has_base else f"me/start-{KINDS[name][0]}"
            for path in ("adapter_config.json", "value_model/adapter_config.json"):
                assert json.loads(hub.files(f"me/{name}")[path])["base_model_name_or_path"] == base
            assert "model.safetensors" not in hub.files(f"me/{name}")
        assert not [path for path in hub.files(f"me/{name}") if path.startswith(("supervised", "_", "checkpoint"))]


def code_of(card, language="python"):
    return re.search(rf"^```{language}\n(.*?)^```", card, re.MULTILINE | re.DOTALL)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name.endswith("supervised-nlpo")])
def test_the_code_of_a_pushed_card_prints_what_the_run_evaluated(world, tmp_path, name):
    hub, folder, _ = world
    code = code_of(hub.files(f"me/{name}")["README.md"].decode())
    ran = python(code, cwd=tmp_path, environment=hub.environment(tmp_path / "home"))
    assert ran.returncode == 0, ran.stderr[-3000:]
    row = json.loads((folder / "runs" / name / "samples.jsonl").read_text().splitlines()[0])
    assert row["prompt"].startswith("My aunt: ")
    assert row["supervised+nlpo"]["completion"].strip()
    assert ran.stdout.strip() == row["supervised+nlpo"]["completion"].strip()


@pytest.mark.slow
def test_the_code_of_all_other_cards_runs_too(world, tmp_path):
    hub, *_ = world
    cards = [hub.files(f"me/{name}")["README.md"].decode() for name in KINDS if not name.endswith("supervised-nlpo")]
    ran = python("\n".join(map(code_of, cards)), cwd=tmp_path, environment=hub.environment(tmp_path / "home"))
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.slow
def test_a_pushed_card_says_what_is_true_of_its_kind_and_no_path(world):
    hub, folder, _ = world
    for name, (family, adaptation, algorithm) in KINDS.items():
        files = hub.files(f"me/{name}")
        card = files["README.md"].decode()
        assert "None" not in card
        assert ("encoder-decoder" in card) == (family == "t5")
        assert ("PEFT adapter" in card) == (adaptation == "lora")
        # The model that all began with, also where the reinforced one started from a folder of this machine.
        assert f"[me/start\\-{family}]" in card
        base = f"me/{name}-base" if adaptation == "lora" and "+" in algorithm else f"me/start-{family}"
        data = yaml.safe_load(card.split("---\n")[1])
        assert data["base_model"] == base
        assert "datasets" not in data
        assert str(folder) not in card
        results = json.loads(files["results.json"])["stages"][algorithm]
        (entry,) = data["model-index"][0]["results"]
        found = {metric["type"]: metric["value"] for metric in entry["metrics"]}
        assert found.keys() == results.keys() - {"seconds"}
        assert all(value == pytest.approx(results[column], rel=1e-5) for column, value in found.items())
        assert "2 updates with 8 completions in all" in card
        assert "![Learning curve](learning_curve.png)" in card
        assert files["learning_curve.png"].startswith(b"\x89PNG")
        assert "_card.json" not in files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2-full-supervised-nlpo", "t5-lora-supervised-nlpo"])
def test_the_commands_of_a_pushed_card_train_it_further(world, tmp_path, name):
    hub, *_ = world
    code = code_of(hub.files(f"me/{name}")["README.md"].decode(), "bash")
    (tmp_path / "trl-nlpo").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m trl_nlpo "$@"\n')
    (tmp_path / "trl-nlpo").chmod(0o755)
    environment = hub.environment(tmp_path / "home")
    environment["PATH"] = os.pathsep.join([str(tmp_path), os.path.dirname(sys.executable), environment["PATH"]])
    num_commits = len(hub.repositories[f"me/{name}"].commits)
    ran = subprocess.run(
        ["bash", "-e", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    results = json.loads((tmp_path / f"{name}-further" / "results.json").read_text())["stages"]
    before = json.loads(hub.files(f"me/{name}")["results.json"])["stages"]
    # It starts where the run ended.
    assert results["zero-shot"]["reward"] == pytest.approx(before["supervised+nlpo"]["reward"])
    assert results.keys() == {"zero-shot", "nlpo"}
    assert len(hub.repositories[f"me/{name}"].commits) == num_commits
