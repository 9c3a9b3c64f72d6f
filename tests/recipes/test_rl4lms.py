"""A file of RL4LMs becomes a recipe that loads; what has no counterpart is said, and nothing is dropped silently."""

from __future__ import annotations

import copy

import pytest
import yaml

from support.commands import run_cli
from trl_nlpo.errors import UserError
from trl_nlpo.recipes.recipe import load_recipe
from trl_nlpo.recipes.rl4lms import _NOT_HERE, _TASKS, convert_file
from trl_nlpo.recipes.rl4lms_functions import METRICS, REWARDS
from trl_nlpo.tasks import task_names


OLD = {
    "tokenizer": {"model_name": "my/model", "padding_side": "left", "pad_token_as_eos_token": False},
    "reward_fn": {"id": "meteor", "args": {"shaping_fn": "common_gen_repeat_penalty"}},
    "datapool": {"id": "commongen", "args": {"prompt_prefix": "use {all}: ", "concept_end_token": "."}},
    "env": {
        "n_envs": 4,
        "args": {
            "max_prompt_length": 24, "max_episode_length": 20, "terminate_on_eos": True,
            "prompt_truncation_side": "right", "context_start_token": 0,
        },
    },
    "alg": {
        "id": "nlpo",
        "args": {
            "n_steps": 100, "batch_size": 40, "verbose": 1, "learning_rate": 3e-6, "n_epochs": 4, "ent_coef": 0.01,
            "target_update_iterations": 7,
        },
        "kl_div": {"coeff": 0.002, "target_kl": 1.5},
        "policy": {
            "id": "maskable_seq2seq_lm_actor_critic_policy",
            "args": {
                "model_name": "my/model", "apply_model_parallel": True, "prompt_truncation_side": "right",
                "mask_type": "learned_top_p", "top_mask": 0.8,
                "generation_kwargs": {"do_sample": True, "top_k": 40, "min_length": 4, "max_new_tokens": 18},
            },
        },
    },
    "train_evaluation": {
        "eval_batch_size": 50, "n_iters": 30, "eval_every": 6, "save_every": 3,
        "metrics": [{"id": "meteor", "args": {}}, {"id": "sacre_bleu", "args": {"tokenize": "intl"}}],
        "generation_kwargs": {"num_beams": 3, "min_length": 4, "max_new_tokens": 18},
    },
}  # fmt: skip


def changed(*changes):
    """The file with other values at `a.b.c`; None takes a part away."""
    content = copy.deepcopy(OLD)
    for dotted, value in changes:
        *parts, last = dotted.split(".")
        place = content
        for part in parts:
            place = place[part]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return content


def converted(folder, *changes):
    path = folder / "old.yml"
    path.write_text(yaml.safe_dump(changed(*changes)))
    return convert_file(path)


def values(made):
    return yaml.safe_load(made.text())


def loaded(folder, made):
    path = folder / "recipe.yaml"
    path.write_text(made.text())
    return load_recipe(path, ["--use_cpu", "true"])


def test_every_setting_that_has_a_counterpart_is_in_the_recipe_with_our_meaning(tmp_path):
    assert values(converted(tmp_path)) == {
        "task": "commongen",
        "algorithm": "nlpo",
        "prompt_template": "use {{all}}: {prompt}.",
        "model_name_or_path": "my/model",
        "max_prompt_length": 24,
        "prompt_truncation_side": "right",
        # The shorter of the two lengths.
        "response_length": 18,
        "rewards": ["meteor", "prompt_repetition"],
        "temperature": 1.0,
        "generation_kwargs": {"top_k": 40, "min_new_tokens": 4},
        "max_steps": 30,
        # 4 x 100 tokens in minibatches of 40: about 2 completions of 18 tokens each, and 12 of those.
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 12,
        "num_mini_batches": 12,
        "num_ppo_epochs": 4,
        "learning_rate": 3e-6,
        "lr_scheduler_type": "constant",
        "weight_decay": 1e-6,
        "gamma": 0.99,
        "lam": 0.95,
        "cliprange": 0.2,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "entropy_coef": 0.01,
        "cliprange_value": float("inf"),
        "kl_coef": 0.002,
        "kl_target": 27.0,
        "mask_strategy": "top_p",
        "mask_top_p": 0.8,
        "mask_min_tokens": 100,
        "mask_sync_steps": 7,
        "per_device_eval_batch_size": 50,
        "eval_strategy": "steps",
        "eval_steps": 6,
        "save_steps": 3,
        "eval_generation_kwargs": {"num_beams": 3, "min_new_tokens": 4, "do_sample": False},
        "metrics": ["meteor", {"name": "sacrebleu", "tokenize": "intl"}],
    }


@pytest.mark.parametrize("algorithm", ["ppo", "nlpo", "a2c", "trpo"])
@pytest.mark.parametrize("pool", sorted(_TASKS))
def test_the_recipe_loads_for_every_task_and_algorithm(tmp_path, pool, algorithm):
    recipe = loaded(tmp_path, converted(tmp_path, ("alg.id", algorithm), ("datapool", {"id": pool})))
    assert recipe.arguments.task == _TASKS[pool]
    assert recipe.algorithm.name == algorithm
    recipe.arguments.check_functions()
    assert recipe.training.mask_strategy == ("top_p" if algorithm == "nlpo" else "none")


def test_all_of_our_tasks_have_a_data_pool():
    assert {*_TASKS.values()} == {*task_names()} & {*_TASKS.values()}
    assert {"imdb", "commongen", "cnndm", "totto", "iwslt", "narrativeqa", "dailydialog"} == {*_TASKS.values()}


def test_a_supervised_file_becomes_a_supervised_recipe(tmp_path):
    alg = {
        "id": "supervised",
        "training_args": {
            "per_device_train_batch_size": 6, "num_train_epochs": 2, "learning_rate": 0.0002, "weight_decay": 0.1,
            "lr_scheduler_type": "cosine", "save_strategy": "epoch", "fp64": True,
        },
        "model_type": "seq2seq",
        "model_name": "my/model",
        "generation_kwargs": {"num_beams": 4, "max_new_tokens": 18},
    }  # fmt: skip
    made = converted(tmp_path, ("alg", alg), ("env", None), ("reward_fn", None), ("train_evaluation", None))
    recipe = loaded(tmp_path, made)
    assert recipe.algorithm.name == "supervised"
    arguments = recipe.arguments
    assert (arguments.supervised_batch_size, arguments.supervised_num_train_epochs) == (6, 2.0)
    assert (arguments.supervised_learning_rate, arguments.supervised_weight_decay) == (2e-4, 0.1)
    assert (arguments.supervised_lr_scheduler_type, arguments.supervised_all_references) == ("cosine", True)
    assert recipe.training.response_length == 18
    assert recipe.training.eval_generation_kwargs == {"num_beams": 4, "do_sample": False}
    assert [note for note in made.notes if "fp64" in note] == ["alg.training_args.fp64 True: not known, left out"]


def test_no_setting_is_dropped_silently(tmp_path):
    """Whatever a file has, a mark in it is in the recipe or in the notes."""

    def leaves(content, before=""):
        for key, value in content.items():
            if isinstance(value, dict) and value:
                yield from leaves(value, f"{before}{key}.")
            else:
                yield f"{before}{key}"

    base = converted(tmp_path)
    # Values that two places give, of which one counts, and those whose meaning is what is done anyway.
    alike = {
        "alg.id", "alg.policy.id", "alg.policy.args.generation_kwargs.do_sample", "alg.policy.args.mask_type",
        "alg.policy.args.prompt_truncation_side", "datapool.id", "env.args.prompt_truncation_side",
        "env.args.terminate_on_eos", "reward_fn.id", "reward_fn.args.shaping_fn", "tokenizer.model_name",
        "train_evaluation.metrics", "train_evaluation.generation_kwargs.max_new_tokens",
    }  # fmt: skip
    for dotted in leaves(OLD):
        without = converted(tmp_path, (dotted, None)) if dotted not in alike | {"alg.policy.args.model_name"} else None
        assert without is None or (values(without), without.notes) != (values(base), base.notes), dotted
    for dotted, other in [
        ("env.args.prompt_truncation_side", "left"),
        ("alg.policy.args.prompt_truncation_side", "left"),
        ("alg.policy.args.generation_kwargs.do_sample", False),
        ("env.args.terminate_on_eos", False),
        ("tokenizer.model_name", "another"),
        ("train_evaluation.generation_kwargs.max_new_tokens", 30),
        ("alg.policy.id", "my_policy"),
        ("reward_fn.args.shaping_fn", "my_shape"),
    ]:
        assert set(converted(tmp_path, (dotted, other)).notes) - set(base.notes), dotted


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (("surprise", {"a": {"b": 3}}), "surprise.a.b 3: not known, left out"),
        (("alg.args.clip_rnage", 0.3), "alg.args.clip_rnage 0.3: not known, left out"),
        (("alg.policy.args.value_model", "x"), "alg.policy.args.value_model 'x': not known, left out"),
        (("wandb", {"api_key": "hush"}), "wandb.api_key '<hidden>': not known, left out"),
        (("reward_fn", {"id": "increasing_numbers"}), "reward_fn 'increasing_numbers': there is nothing like it here"),
        (("reward_fn.args.colour", "blue"), "reward_fn meteor, option colour 'blue': not known, left out"),
        (("train_evaluation.metrics", [{"id": "luck"}]), "train_evaluation.metrics 'luck': there is nothing like it"),
        (("alg.args.target_kl", 0.1), "alg.args.target_kl 0.1: no pass over a batch is cut short"),
        (("datapool.id", "wmt16"), "datapool.id 'wmt16': no task has this data"),
    ],
)
def test_what_has_no_counterpart_is_said_in_the_recipe_and_beside_it(tmp_path, change, note):
    made = converted(tmp_path, change)
    assert [said for said in made.notes if said.startswith(note)]
    comments = " ".join(line.lstrip("# ") for line in made.text().splitlines() if line.startswith("#"))
    assert note in comments
    loaded(tmp_path, made)


def test_a_mask_of_the_policys_own_scores_is_said_to_be_none_here(tmp_path):
    path = "alg.policy.args."
    made = converted(tmp_path, (f"{path}mask_type", "topk"), (f"{path}top_mask", 20))
    assert [note for note in made.notes if note.startswith("mask_type 'topk': there is no mask by the policy's own")]
    assert loaded(tmp_path, made).training.mask_top_k == 20


def test_the_sync_that_never_reached_the_sampler_is_told(tmp_path):
    text = converted(tmp_path).text()
    assert "published code the renewed masking policy never reaches the" in text
    assert "mask_sync_steps: 7" in text


def test_what_the_file_leaves_out_is_rl4lms_default_and_not_ours(tmp_path):
    made = values(converted(tmp_path, ("alg.policy.args.generation_kwargs", {"max_new_tokens": 30})))
    assert made["generation_kwargs"] == {"top_k": 50}
    assert made["response_length"] == 20
    sampled = {"do_sample": True, "temperature": 0.7, "max_new_tokens": 18}
    made = values(converted(tmp_path, ("train_evaluation.generation_kwargs", sampled)))
    assert made["eval_generation_kwargs"] == {"temperature": 0.7, "top_k": 50}
    assert values(converted(tmp_path, ("alg.kl_div.target_kl", None)))["kl_target"] is None
    made = values(converted(tmp_path, ("alg.args", {"learning_rate": 1e-6})))
    assert (made["num_ppo_epochs"], made["mask_sync_steps"]) == (10, 1000)


def test_each_algorithm_has_the_defaults_that_it_has_in_rl4lms(tmp_path):
    made = {name: converted(tmp_path, ("alg.id", name), ("alg.args", {})) for name in ("ppo", "a2c", "trpo")}
    found = {name: values(one) for name, one in made.items()}
    assert {name: one["learning_rate"] for name, one in found.items()} == {"ppo": 3e-4, "a2c": 7e-4, "trpo": 1e-3}
    assert {name: one["lam"] for name, one in found.items()} == {"ppo": 0.95, "a2c": 1.0, "trpo": 0.95}
    assert (found["trpo"]["trpo_kl"], found["trpo"]["trpo_cg_steps"]) == (0.01, 15)
    assert "num_ppo_epochs" not in found["a2c"]
    # 4 x 5 tokens are about one completion.
    assert found["a2c"]["gradient_accumulation_steps"] * found["a2c"]["per_device_train_batch_size"] <= 4
    # A mask in a file without one is left out, and that is said.
    assert [note for note in made["ppo"].notes if note.startswith("alg.policy.args.top_mask 0.8: not known")]
    for one in made.values():
        loaded(tmp_path, one)


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_every_reward_is_one_that_a_recipe_can_name_or_is_said_to_need_more(tmp_path, name):
    args = {"model_name": "my/classifier"} if name == "learned_reward" else {}
    made = converted(tmp_path, ("reward_fn", {"id": name, "args": args}))
    assert "rewards" in values(made) or any(note.startswith(f"reward_fn {name}: ") for note in made.notes)
    loaded(tmp_path, made).arguments.check_functions()


def test_every_metric_is_one_that_a_recipe_can_name_or_is_said_to_need_more(tmp_path):
    listed = [{"id": name, "args": {"model_name": "m"} if name == "learned_reward" else {}} for name in METRICS]
    made = converted(tmp_path, ("train_evaluation.metrics", listed))
    loaded(tmp_path, made).arguments.check_functions()
    one_by_one = [converted(tmp_path, ("train_evaluation.metrics", [entry])) for entry in listed]
    for entry, alone in zip(listed, one_by_one, strict=True):
        assert "metrics" in values(alone) or any(f"metrics {entry['id']}: " in note for note in alone.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("alg.id", "nplo"), r"old\.yml: alg\.id is 'nplo', did you mean 'nlpo'\? but must be one of ppo, nlpo"),
        (("alg", None), r"old\.yml is no file of RL4LMs: it has no `alg`; it has datapool, env"),
        (("env.n_envs", "many"), r"old\.yml: env\.n_envs is 'many', but must be a whole number"),
        (("env.n_envs", 0), r"old\.yml: env\.n_envs is 0, but must be at least 1"),
        (("alg.policy.args.model_name", 3), r"alg\.policy\.args\.model_name is 3, but must be a name"),
        (("train_evaluation.metrics", "bleu"), r"train_evaluation\.metrics is 'bleu', but must be a list"),
        (("alg.policy.args.mask_type", "learned_top_k"), r"top_mask is 0\.8, but must be a whole number"),
        (("env.args.prompt_truncation_side", "top"), r"is 'top', but must be left or right"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        converted(tmp_path, change)


def test_the_command_writes_the_recipe_and_says_the_rest_on_stderr(tmp_path, monkeypatch, capsys):
    (tmp_path / "old.yml").write_text(yaml.safe_dump(changed(("surprise", 1))))
    code, out, err = run_cli(monkeypatch, capsys, "convert", tmp_path / "old.yml")
    assert (code, yaml.safe_load(out)["task"]) == (0, "commongen")
    assert "trl-nlpo: surprise 1: not known, left out.\n" in err
    file = tmp_path / "recipe.yaml"
    code, said, _ = run_cli(monkeypatch, capsys, "convert", tmp_path / "old.yml", "--out", file)
    assert (code, file.read_text()) == (0, out)
    assert said.startswith(f"The recipe is {file}.")
    code, _, err = run_cli(monkeypatch, capsys, "convert", tmp_path / "old.yml", "--out", file)
    assert (code, err.splitlines()[-1]) == (2, f"trl-nlpo: {file} is there already: give another --out, or remove it.")


def test_reasons_are_given_for_settings_and_not_for_what_is_read(tmp_path):
    assert all(_NOT_HERE.values())
    assert not [path for path in _NOT_HERE if path.startswith(("reward_fn", "train_evaluation"))]
