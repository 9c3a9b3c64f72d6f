"""A thousand damaged recipes: each is accepted, or refused in one line that names what is wrong; never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from unittest import mock

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trl import ModelConfig

from trl_nlpo import cli
from trl_nlpo.config import NLPOConfig
from trl_nlpo.recipes.arguments import RecipeArguments
from trl_nlpo.recipes.files import shipped_recipes
from trl_nlpo.recipes.keys import recipe_fields


pytestmark = pytest.mark.slow

QUICKSTART = yaml.safe_load(shipped_recipes()["quickstart"].read_text(encoding="utf-8"))
OTHERS = {
    "env": {"WANDB_PROJECT": "mine"}, "model_name_or_path": "some/model", "use_peft": True, "lora_r": 4,
    "generation_kwargs": {"top_k": 5}, "kl_target": 3, "load_best_model_at_end": True, "stop_token_id": 1,
    "report_to": "none", "reward_weights": [1.0], "batch_size": 8, "lr_scheduler_kwargs": {}, "optim": "sgd",
}  # fmt: skip


FIELDS = dict(sorted(recipe_fields((RecipeArguments, NLPOConfig, ModelConfig)).items()))


words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", "none", "None", "null", "true", "no", "nan", "-inf", "1e999", "1_0", "0x10", "[", "{",
                     "[1", '{"a": 1}', "[1, 2]", "rougeL", "rougel", "os.path", ".", "..", "a..b", ".a", "a.", "a/b",
                     "über", "数据", "x" * 500, "a\nb", "%s", "{prompt", "{}", "--", "\\", "\t", "2024-01-01"]),
)  # fmt: skip
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([10**30, -(10**30), 2**63, 1e308, 1e-320]),
    st.floats(), words, st.dates(), st.binary(max_size=3),
)  # fmt: skip
keys = st.one_of(words, st.integers(-2, 2), st.none(), st.booleans(), st.floats())
junk = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
numbers = st.one_of(st.integers(-2, 100), st.floats(0, 2), st.sampled_from(["1e-4", 0.25, 10**6]))


def values(key):
    """A value for a key: of its type more often than not, so that what looks deeper is reached."""
    hint, choices = FIELDS.get(key, (None, None))
    literals = [value for value in getattr(hint, "__args__", ()) if isinstance(value, str)]
    fitting = st.sampled_from(list(choices or literals)) if choices or literals else numbers
    return st.one_of(fitting, numbers, st.booleans(), words, junk)


rewards = st.one_of(
    junk,
    st.lists(
        st.fixed_dictionaries(
            {"name": st.one_of(st.sampled_from(["rougeL", "grammatical", "os.path.join", "math.pi", "json"]), words)},
            optional={"weight": scalars, "use_stemmer": scalars, "fn": junk, "self": scalars, "kind": scalars},
        ),
        max_size=3,
    ),
)


@st.composite
def mutations(draw):
    """What is done to the recipe: pairs of a key and a new value, `DROP`, or a misspelt key."""
    kind = draw(st.sampled_from(["value", "value", "add", "add", "add", "drop", "misspell", "rewards", "key"]))
    if kind == "rewards":
        return "set", "rewards", draw(rewards)
    if kind == "add":
        key = draw(st.sampled_from([*FIELDS, *OTHERS]))
        return "set", key, draw(values(key))
    if kind == "key":
        return "set", draw(keys), draw(junk)
    key = draw(st.sampled_from(sorted(QUICKSTART)))
    if kind == "misspell":
        place = draw(st.integers(0, len(key) - 1))
        return "rename", key, key[:place] + draw(st.sampled_from(["", "_", "x", "É"])) + key[place + 1 :]
    return ("drop", key, None) if kind == "drop" else ("set", key, draw(values(key)))


def mutated(changes):
    recipe = dict(QUICKSTART)
    for kind, key, value in changes:
        if kind == "rename":
            recipe[value] = recipe.pop(key, None)
        elif kind == "drop":
            recipe.pop(key, None)
        else:
            recipe[key] = value
    return recipe


DAMAGE = [
    "\t", ":", "- ", "{", "]", "&a", "*a", "!!python/object:os", "|", "\x00", "? ", "---\n", "%", "@", "`", "'", '"',
    "<<: 1\n",
]  # fmt: skip


@st.composite
def damage(draw):
    """A place in the text, how much to cut out there, and what to put in."""
    inserted = st.one_of(st.text(max_size=4), st.sampled_from(DAMAGE))
    return draw(st.integers(0, 5000)), draw(st.integers(0, 5)), draw(inserted)


@st.composite
def overrides(draw):
    """Words of a command line behind the recipe; none of the command's own options."""
    found = []
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        key = draw(st.one_of(st.sampled_from([*FIELDS, "learnin_rate", "é"]), st.sampled_from(["rewards", "seed"])))
        given = [str(value) for value in draw(st.lists(st.one_of(words, numbers), max_size=2))]
        given = [word for word in given if not word.startswith("-") and "\0" not in word]
        found += [f"--{key}={given[0]}"] if given and draw(st.booleans()) else [f"--{key}", *given]
    return found


@st.composite
def cases(draw):
    """The text of a recipe and the overrides of it."""
    changes = [draw(mutations()) for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2, 3])))]
    text = yaml.safe_dump(mutated(changes), sort_keys=False, allow_unicode=draw(st.booleans()))
    if draw(st.integers(0, 4)) == 0:
        place, length, inserted = draw(damage())
        place %= len(text)
        text = text[:place] + inserted + text[place + length :]
    named = [str(name) for _, key, value in changes for name in (key, value if isinstance(value, str) else key)]
    return text, draw(overrides()), named


def dry_run(path, words):
    """Exit code, output and error output of `trl-nlpo run PATH --dry-run ...`."""
    out, err = io.StringIO(), io.StringIO()
    arguments = ["trl-nlpo", "run", "--dry-run", str(path), *words]
    with (
        mock.patch.object(sys, "argv", arguments),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main()
    return stop.value.code, out.getvalue(), err.getvalue()


@given(case=cases())
@settings(
    max_examples=1000,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_a_damaged_recipe_is_accepted_or_refused_in_a_line_that_names_what_is_wrong(tmp_path_factory, case):
    text, words, named = case
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    code, out, err = dry_run(path, words)
    assert code in (0, 2), (err, text)
    if code == 0:
        assert isinstance(yaml.safe_load(out), dict)
        assert err == ""
        return
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("trl-nlpo: ")
    assert names_something(err, text, words, named), (err, words, named)


def names_something(line, text, words, named):
    """Whether the line names a key that was touched, the file with a line, or what a recipe cannot do without."""
    if any(part in line for part in ("fuzzed.yaml, line ", "fuzzed.yaml must hold a mapping", "unknown key ")):
        return True
    given = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    return any(name in line for name in [*FIELDS, *given, *OTHERS]) or any(
        repr(name) in line or name in line for name in named if name
    )
