"""Names, dotted paths and options of rewards, and what is said when they are wrong."""

from __future__ import annotations

import pickle

import pytest

from support.metric_options import OPTIONS
from trl_nlpo.errors import UserError
from trl_nlpo.rewards import built_in_names, get_reward


MODULE = """
import json

LIMIT = 3

def my_reward(completions, bonus=0.0, **kwargs):
    return [float(len(text)) + bonus for text in completions]

class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, completions, **kwargs):
        return [self.scale * len(text) for text in completions]

class Command:
    def __init__(self, args):
        open(args, "w")
"""


# They cannot do without a model; tests/metrics has them.
NEED_MODEL = {"perplexity", "classifier", "intent", "preference", "bertscore", "bleurt", "summac"}
WITHOUT_MODEL = sorted(set(built_in_names()) - NEED_MODEL)
# Words, bits and counts; MSTTR is None for a text shorter than its window.
OWN_SCALE = {"mean_length", "msttr", "entropy1", "entropy2", "unique1", "unique2"}


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(MODULE)
    (tmp_path / "broken_rewards.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    return "own_rewards"


@pytest.mark.parametrize("name", WITHOUT_MODEL)
def test_every_built_in_has_its_name_and_can_be_pickled(name):
    reward = get_reward(name, **OPTIONS.get(name, {}))
    assert reward.__name__ == name
    assert pickle.loads(pickle.dumps(reward)).__name__ == name


@pytest.mark.filterwarnings("ignore:metric 'cider'. there are no document frequencies")
@pytest.mark.parametrize("name", sorted(set(WITHOUT_MODEL) - OWN_SCALE))
def test_every_built_in_gives_one_number_up_to_1_for_empty_text_and_several_references(name):
    rows = {
        "prompts": ["On Sunday my aunt went to the river", "On Sunday my aunt went to the river"],
        "completions": ["", " and met a loyal dog, but the sky was mild, so she was happy."],
        "completion_ids": [[], [1, 2]],
        "references": [["a dog", "a cat"], ["a dog", "a cat"]],
        "concepts": [["dog", "cat"], ["dog", "cat"]],
        "table": [[["animal"], ["dog"]], [["animal"], ["dog"]]],
        "trainer_state": None,
    }
    values = get_reward(name, **OPTIONS.get(name, {}))(**rows)
    assert len(values) == 2
    # A text that judges nothing is neither positive nor negative.
    assert values[0] == (0.5 if name == "positive_words" else 0.0)
    assert values[1] <= 1.0
    # More edits than the references have words; a penalty.
    assert values[1] >= 0.0 or name in {"ter", "prompt_repetition"}


def test_a_dotted_path_finds_a_function_in_the_working_directory(own_module):
    assert get_reward("own_rewards.my_reward")(completions=["abc"]) == [3.0]


def test_options_are_passed_to_functions_and_classes(own_module):
    assert get_reward("own_rewards.my_reward", bonus=1.0)(completions=["abc"]) == [4.0]
    assert get_reward("own_rewards.Scaled", scale=2)(completions=["abc"]) == [6]
    assert get_reward("rougeL", use_stemmer=False)(completions=["kill"], references=[["killed"]]) == [0.0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rougel", {}, "unknown reward 'rougel', did you mean 'rougeL'"),
        ("concept_covrage", {}, "did you mean 'concept_coverage'"),
        ("xyz", {}, "unknown reward 'xyz'.*concept_coverage, .*rougeL"),
        ("rougeL", {"stemer": True}, "has no option 'stemer'.*use_stemmer"),
        ("rougeL", {"kind": "rouge1"}, "has no option 'kind'"),
        ("no_such_module.reward", {}, "there is no module 'no_such_module'"),
        (".reward", {}, "this is no path of a module and a name in it, such as my_module.my_name"),
        ("my..reward", {}, "this is no path of a module"),
        ("own_rewards.my_rewad", {}, "own_rewards has no 'my_rewad', did you mean 'my_reward'"),
        ("own_rewards.LIMIT", {}, "is int, not a function"),
        ("own_rewards.Scaled", {}, "needs an option: write .*scale"),
    ],
)
def test_a_wrong_name_or_option_is_one_line_that_says_what_to_do(own_module, name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        get_reward(name, **options)
    assert "\n" not in str(caught.value)


def test_a_module_that_a_users_module_misses_keeps_its_traceback(own_module):
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        get_reward("broken_rewards.reward")


def test_a_class_whose_instances_are_no_functions_is_refused_before_one_is_made(own_module, tmp_path):
    with pytest.raises(UserError, match=r"'own_rewards\.Command' is a class whose instances are no functions"):
        get_reward("own_rewards.Command", args=str(tmp_path / "made"))
    assert not (tmp_path / "made").exists()
