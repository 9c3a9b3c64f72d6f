"""`examples/molecules`: what molecules are worth, REINVENT's loss, and the commands that people would run."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from support import tiny
from trl_nlpo import NLPOConfig
from trl_nlpo.errors import UserError
from trl_nlpo.models.from_scratch import build_model


pytest.importorskip("rdkit")

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "examples" / "molecules"
BENZENE = "c1ccccc1"


@pytest.fixture
def example(monkeypatch):
    """Imports a module of the example, as its scripts do: from their own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def rewards(example):
    return example("molecule_rewards")


# Rewards


@pytest.mark.parametrize(
    ("smiles", "is_one"),
    [
        ("CCO", 1.0),
        (BENZENE, 1.0),
        ("", 0.0),  # no atoms
        ("C1CC", 0.0),  # a ring that is not closed
        ("CC(", 0.0),  # a branch that is not closed
        ("C(C)(C)(C)(C)C", 0.0),  # carbon with five bonds
        ("a review of a film", 0.0),
    ],
)
def test_what_is_a_molecule(rewards, smiles, is_one):
    assert rewards.valid([smiles], prompts=[""]) == [is_one]


def test_drug_likeness_is_that_of_the_paper(rewards):
    # Bickerton et al. 2012; rdkit's documentation gives 0.550 for aspirin.
    aspirin, nothing = rewards.qed(["CC(=O)Oc1ccccc1C(=O)O", "CC(="])
    assert aspirin == pytest.approx(0.550, abs=5e-4)
    assert nothing == 0.0


def test_similarity_is_the_shared_part_of_both_fingerprints(rewards):
    similarity = rewards.Similarity("CC")
    # Ethane has 2 environments: CH3, and CH3 next to CH3. Propane has 4: CH3, CH2, CH3 next to CH2, and CH2 between
    # two CH3. They share CH3: 1 / (2 + 4 - 1).
    assert similarity(["CC", "CCC", "C-C", "C("]) == [1.0, pytest.approx(0.2), 1.0, 0.0]


def test_a_molecule_is_similar_to_itself_however_it_is_written(rewards):
    other = "FC(F)(F)c1cc(-c2ccc(C)cc2)n(-c2ccc(cc2)S(N)(=O)=O)n1"
    assert rewards.Similarity()([rewards.CELECOXIB, other]) == [1.0, 1.0]


def test_a_target_that_is_no_molecule_is_refused(rewards):
    with pytest.raises(UserError, match="target 'C\\(' is no molecule"):
        rewards.Similarity("C(")


def test_a_scaffold_is_the_rings_and_what_links_them(rewards):
    assert [rewards.scaffold(smiles) for smiles in ("Cc1ccccc1", "CCCC", "C1CC1CCC1CC1(C)", "C(")] == [
        BENZENE, "", "C1CC1CCC1CC1", None,
    ]  # fmt: skip


def all_one(completions, **_):
    return [1.0] * len(completions)


def test_the_memory_pays_for_a_molecule_as_often_as_its_limit_says(rewards):
    memory = rewards.DiversityMemory(all_one, molecule_limit=2, scaffold_limit=100)
    # Three ways to write ethanol, within a call and in the next.
    assert memory(["CCO", "OCC"]) == [1.0, 1.0]
    assert memory(["C(O)C", "CCN"]) == [0.0, 1.0]


def test_the_memory_pays_for_a_scaffold_as_often_as_its_limit_says(rewards):
    memory = rewards.DiversityMemory(all_one, molecule_limit=1, scaffold_limit=2)
    assert memory(["Cc1ccccc1", "CCc1ccccc1", "CCCc1ccccc1", "C1CCCCC1"]) == [1.0, 1.0, 0.0, 1.0]


def test_what_earned_nothing_is_not_remembered(rewards):
    scores = iter([[0.0], [0.5], [0.5]])
    memory = rewards.DiversityMemory(lambda completions, **_: next(scores))
    assert [memory(["CCO"]) for _ in range(3)] == [[0.0], [0.5], [0.0]]


# Tokens


def test_a_token_is_an_atom_or_a_sign_and_texts_come_back(example):
    tokenizer = example("prepare").smiles_tokenizer(["C[C@@H](Cl)CBr", "C%12CC%12"])
    ids = tokenizer("BrC[C@@H]%12Cl")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["Br", "C", "[C@@H]", "%12", "Cl"]
    assert tokenizer.decode(ids) == "BrC[C@@H]%12Cl"
    assert tokenizer("<bos>")["input_ids"] == [tokenizer.bos_token_id]


# REINVENT


def test_the_loss_is_the_squared_distance_of_whole_sequences(example):
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, -9.0]])
    prior = torch.tensor([[-0.5, -1.5], [-2.0, -4.0]])
    mask = torch.tensor([[True, True], [True, False]])
    # (-2 + 4 * 0.5 - -3)^2 = 9 and (-2 + 0 - -3)^2 = 1.
    loss = example("reinvent").dap_loss(logprobs, prior, mask, torch.tensor([0.5, 0.0]), sigma=4.0)
    assert loss == pytest.approx((9 + 1) / 2)


def test_an_update_is_a_step_along_the_gradient_of_that_loss(example, tmp_path):
    reinvent = example("reinvent")
    trainer = reinvent_trainer(reinvent, tmp_path, optim="sgd", learning_rate=1e-3)
    policy = trainer.policy_model
    rollout = trainer.collect_rollout(["w3", "w4", "w5", "w6"])
    scores = trainer.score_rollout(rollout)
    before = {name: value.detach().clone() for name, value in policy.named_parameters()}
    ids = torch.cat([rollout.prompt_ids, rollout.completion_ids], 1)
    logits = policy(ids, attention_mask=torch.cat([rollout.prompt_mask, rollout.completion_mask], 1)).logits
    logprobs = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    # Twice as far from the prior as it would be, as the policy has not moved yet.
    rollout.ref_logprobs.sub_(0.1)
    loss = reinvent.dap_loss(logprobs, rollout.ref_logprobs, rollout.completion_mask, scores.scores, trainer.sigma)
    policy.zero_grad()
    loss.backward()
    gradients = {name: value.grad.clone() for name, value in policy.named_parameters()}
    policy.zero_grad()
    assert max(gradient.abs().max() for gradient in gradients.values()) > 0.1
    trainer.update_policy(rollout, trainer.estimate_advantages(rollout, scores))
    for name, value in policy.named_parameters():
        torch.testing.assert_close(before[name] - value, 1e-3 * gradients[name], rtol=2e-3, atol=1e-6)


def reinvent_trainer(reinvent, folder, **settings):
    return reinvent.ReinventTrainer(
        args=NLPOConfig(
            output_dir=str(folder), response_length=5, max_steps=2, temperature=1.0, report_to="none", use_cpu=True,
            **{
                "per_device_train_batch_size": 4, "num_ppo_epochs": 1, "num_mini_batches": 1, "vf_coef": 0.0,
                "mask_strategy": "none", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", **settings,
            },
        ),
        processing_class=tiny.tokenizer(), model=tiny.policy(), sigma=10.0,
        reward_funcs=lambda completions, **_: [float(len(text)) / 20 for text in completions],
        train_dataset=Dataset.from_dict({"prompt": ["w3", "w4", "w5", "w6"]}),
    )  # fmt: skip


@pytest.mark.parametrize("setting", [{"num_ppo_epochs": 4}, {"vf_coef": 0.1}, {"mask_strategy": "top_p"}])
def test_settings_under_which_it_would_be_another_loss_are_refused(example, tmp_path, setting):
    (name,) = setting
    with pytest.raises(UserError, match=f"^{name} is "):
        reinvent_trainer(example("reinvent"), tmp_path, **setting)


# The comparison


def test_the_best_are_counted_once_and_too_few_count_as_zeros(example):
    compare = example("compare")
    molecules, scores = ["A", None, "B", "B", "C", "A"], [0.4, 0.0, 0.2, 0.2, 0.6, 0.4]
    assert compare.best_means(molecules, scores, k=2, step=2) == pytest.approx([0.4 / 2, 0.6 / 2, 1.0 / 2])


def test_the_area_is_that_of_trapezoids_from_zero(example):
    # Of the three steps: (0 + 0.2) / 2, (0.2 + 0.4) / 2, (0.4 + 0.4) / 2.
    assert example("compare").area_under([0.2, 0.4, 0.4]) == pytest.approx((0.1 + 0.3 + 0.4) / 3)


def test_a_rate_is_not_chosen_before_all_of_the_grid_have_run(example):
    compare = example("compare")
    done = [
        {"method": "ppo", "rate": rate, "seed": seed, "auc_top100": area}
        for rate, area in zip(compare.RATES, (0.1, 0.3, 0.2, 0.1, 0.0), strict=True)
        for seed in compare.TUNING_SEEDS
    ]
    assert compare.best_rate(done, "ppo") == compare.RATES[1]
    assert compare.best_rate(done[:-1], "ppo") is None


@pytest.mark.parametrize(("seeds", "are_given"), [(5, False), (6, True)])
def test_differences_are_given_when_there_are_seeds_enough_for_a_test(example, tmp_path, seeds, are_given):
    compare = example("compare")
    rest = {"rate": 1e-3, "auc_top10": 0.2, "curve_top100": [0.2], "last_batches": 0.1, "valid": 0.5, "different": 9}
    for method, area in (("ppo", 0.1), ("nlpo", 0.3)):
        for seed in range(seeds):
            record = {"method": method, "seed": seed, "auc_top100": area, "scaffolds": 3, "seconds": 1.0, **rest}
            (tmp_path / f"{method}-{seed}.json").write_text(json.dumps(record), encoding="utf-8")
    report = compare.report(tmp_path)
    assert f"| nlpo | 0.001 | {seeds} | 0.3000 ± 0.0000 |" in report
    assert ("| nlpo - ppo | +0.2000 |" in report) == are_given


@pytest.fixture
def prior(example, tmp_path):
    """A model that has learned nothing, and rows, as prepare.py makes them."""
    prepare, folder = example("prepare"), tmp_path / "data"
    smiles = ["CCO", "CCN", "c1ccccc1", "CC(=O)O"] * 10
    folder.mkdir()
    for split in ("train", "validation", "test"):
        prepare.write_rows(folder / f"{split}.jsonl", smiles)
    tokenizer = prepare.smiles_tokenizer(smiles)
    torch.manual_seed(0)
    build_model(tokenizer, "llama", 16, 1, 2, max_position_embeddings=80).save_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / "start")
    return folder / "start"


def command(*words, cwd):
    result = subprocess.run(
        [sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
def test_the_comparison_runs_from_its_command_line_and_keeps_what_is_done(prior, tmp_path):
    out = tmp_path / "results"
    words = (FOLDER / "compare.py", out, "--prior", prior, "--methods", "prior,reinvent", "--updates", 1)
    first = command(*words, "--seeds", 1, cwd=tmp_path)
    files = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    # REINVENT with five rates on two seeds, and then both on one.
    assert len(files) == 5 * 2 + 2
    record = json.loads((out / "prior-0-0.json").read_text(encoding="utf-8"))
    assert record["scored"] == 32
    assert math.isfinite(record["auc_top100"])
    assert "| prior |" in first
    again = command(*words, "--seeds", 2, cwd=tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name: after[name] for name in files} == files
    assert len(after) == len(files) + 2
    assert "2 seeds that all methods have" in again


@pytest.mark.parametrize(("key", "there"), [("scored", 32), ("prior", "0123456789ab")])
def test_runs_of_another_comparison_are_not_mixed_in(example, prior, tmp_path, key, there):
    compare = example("compare")
    record = {"scored": 64, "prior": compare.digest(prior), key: there}
    (tmp_path / "ppo-0.001-0.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=f"is of another comparison: {key} is {there!r} there"):
        compare.run(tmp_path, "ppo", prior, seed=0, rate=1e-3, updates=2)


@pytest.mark.slow
def test_the_recipe_runs_from_its_folder(prior, tmp_path):
    words = [
        "-m", "trl_nlpo", "run", "recipe.yaml", "--dataset_name", prior.parent, "--model_name_or_path", prior,
        "--output_dir", tmp_path / "run", "--max_steps", 1, "--max_test_samples", 4, "--disable_tqdm", "true",
    ]  # fmt: skip
    printed = command(*words, cwd=FOLDER)
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert "supervised+nlpo" in json.dumps(results)
    assert "similarity" in printed
