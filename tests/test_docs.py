"""What the documents say of the code is so: names, links, tables."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from support import tiny
from support.trainers import DEFAULTS
from trl_nlpo import NLPOConfig, NLPOTrainer
from trl_nlpo.tasks import get_task, task_names


ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
FOLDERS = ("trl_nlpo", "tests", "docs", "recipes", "examples", "benchmarks")
FILES = [path for folder in FOLDERS for path in (ROOT / folder).glob("**/*") if "__pycache__" not in path.parts]
FILES += [ROOT / folder for folder in FOLDERS]
FILES += [path for path in ROOT.iterdir() if path.is_file()]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "trl_nlpo").rglob("*.py")
}

# Written with a dot, and no name of the package: what users have, attributes that a constructor sets, other files.
NOT_OURS = re.compile(
    r"(my_module|metric|trainer\.(accelerator|state|launch))\..*|.*\.(jsonl?|csv|html|png|parquet|sqlite|yaml|md|txt|toml|jar|sense)"
)
WRITTEN_BY_A_RUN = {"supervised/", "_unfinished/", "completions/", "_jobs/", "_jobs/submitit/"}


def id_of(path):
    return str(path.relative_to(ROOT))


def quoted(text):
    """What stands between back-ticks, outside of blocks of code."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def is_there(path):
    """Whether a file or folder of the repository has this path, or ends in it."""
    ending = tuple(path.strip("/").split("/"))
    return any(file.relative_to(ROOT).parts[-len(ending) :] == ending for file in FILES)


def leads_somewhere(module, names):
    """Whether a chain of attributes starts in a module. What a module only imports from another does not count."""
    found = importlib.import_module(module)
    for name in names:
        holder, found = found, getattr(found, name, None)
        is_plain_module = isinstance(holder, ModuleType) and not hasattr(holder, "__path__")
        if found is None or (is_plain_module and getattr(found, "__module__", holder.__name__) != holder.__name__):
            return False
    return True


def resolves(name):
    """Whether a dotted name starts with (the end of) a module's name, or with what the package itself exports."""
    parts = name.split(".")
    for number in range(len(parts), 0, -1):
        start = "." + ".".join(parts[:number])
        modules = [module for module in sorted(MODULES) if f".{module}".endswith(start)]
        if any(leads_somewhere(module, parts[number:]) for module in modules):
            return True
    return leads_somewhere("trl_nlpo", parts)


def stale(text):
    """What a document names and the repository does not have."""
    # Files that the document has its reader write.
    written = {*WRITTEN_BY_A_RUN, *re.findall(r'^```\w+ title="(.+)"$', text, re.MULTILINE)}
    for name in quoted(text):
        if re.fullmatch(r"[\w./-]*\w\.py|[\w./-]+/", name):
            if name not in written and not is_there(name):
                yield name
        elif re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]+", name):
            if not is_there(name):
                yield name
        elif re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(\(.*\))?", name) and not NOT_OURS.fullmatch(name):
            dotted = name.split("(")[0]
            first = dotted.split(".")[0]
            is_ours = any(first in module.split(".") for module in MODULES)
            is_foreign = not is_ours and importlib.util.find_spec(first) is not None
            if not is_foreign and not resolves(dotted):
                yield name


def slugs(path):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=id_of)
def test_names_and_files_that_a_document_mentions_are_there(path):
    assert not list(stale(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("`rollout.sample_completions`", ["rollout.sample_completions"]),  # a function that moved to another module
        ("`algorithm.rollout.tokens_at`", ["algorithm.rollout.tokens_at"]),
        ("`sampling.action_logprobs`", ["sampling.action_logprobs"]),  # a module that has another name now
        ("`functional/test_functional_rewards.py`", ["functional/test_functional_rewards.py"]),
        ("`trl_nlpo/collapse.py` and `tests/tiny.py`", ["trl_nlpo/collapse.py", "tests/tiny.py"]),
        ("`NLPOTrainer.trian()`", ["NLPOTrainer.trian()"]),
        ("`plumbing/`", ["plumbing/"]),
        ("`generation.sample_completions`, `trainer.NLPOTrainer.train`, `NLPOTrainer.train(…)`", []),
        ("`torch.optim`, `max_steps: 50`, `results.json`, `nlpo/mask_mass`, `0.95`, `my_module.my_reward`", []),
        ("```python\nrollout.totals\n```", []),
    ],
)
def test_a_stale_name_is_noticed_and_nothing_else(text, names):
    assert list(stale(text)) == names


@pytest.mark.parametrize("path", DOCUMENTS, ids=id_of)
def test_links_within_the_repository_lead_somewhere(path):
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", path.read_text(encoding="utf-8")):
        target, _, heading = link.partition("#")
        there = path.parent / target if target else path
        assert there.exists(), link
        assert not heading or heading in slugs(there), link


@pytest.mark.parametrize("path", RECIPES, ids=id_of)
def test_files_that_a_recipe_mentions_are_there(path):
    comments = " ".join(re.findall(r"#(.*)", path.read_text(encoding="utf-8")))
    for name in re.findall(rf"\b(?:{'|'.join(FOLDERS)})/[\w./-]*\w", comments):
        assert is_there(name), name


def test_the_tables_of_imports_that_contributing_names_are_there():
    names = re.findall(r"`([A-Z][A-Z_]+)`", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    source = (ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    assert len(names) == 4
    assert all(re.search(rf"^{name}\b", source, re.MULTILINE) for name in names)


def test_the_readmes_table_of_settings_is_that_of_the_fields():
    path = ROOT / "docs" / "make_tables.py"
    spec = importlib.util.spec_from_file_location("make_tables", path)
    make_tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_tables)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert make_tables.with_table(text) == text, "run: python docs/make_tables.py"


# Tasks


def table(path, heading):
    """Rows of the first table under a heading, the header first, each a list of cells."""
    text = path.read_text(encoding="utf-8").split(f"{heading}\n", 1)[1]
    rows = re.search(r"((?:^\|.*\n)+)", text, re.MULTILINE)[1].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[:1] + rows[2:]]


def test_the_table_of_tasks_is_that_of_the_task_files():
    header, *rows = table(ROOT / "docs" / "tasks.md", "# Tasks, sizes and the leaderboard")
    assert header == ["task", "prompt → completion", "data on the Hub", "model", "default reward"]
    assert [quoted(row[0]) for row in rows] == [[name] for name in task_names()]
    for name, (_, _, data, model, rewards) in zip(task_names(), rows, strict=True):
        task = get_task(name)
        assert quoted(data) == [task.hub.path]
        assert ("Parquet export" in data) == (task.hub.options.get("revision") == "refs/convert/parquet")
        assert task.hub.options.get("name", "") in data
        assert quoted(model) == [task.model_name_or_path]
        assert quoted(rewards) == [spec if isinstance(spec, str) else spec["name"] for spec in task.rewards]


def test_the_prefixes_of_files_are_those_of_the_task_files():
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    listed = re.search(r"The prefixes are ([^;]*);", text)[1]
    assert quoted(listed.replace("\n", " ")) == [get_task(name).files for name in task_names()]


@pytest.mark.parametrize("name", task_names())
def test_a_recipe_that_ships_says_nothing_else_than_its_task(name):
    recipe = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert recipe["task"] == name
    assert {"model_name_or_path", "rewards"} <= set(recipe)
    values = get_task(name).recipe_values()
    assert {key: recipe[key] for key in values if key in recipe} == {
        key: values[key] for key in values if key in recipe
    }


# Logged metrics


def logged_names(heading):
    """The metrics in a table; `/max` after `a/min` is `a/max`."""
    names = []
    for row in table(ROOT / "docs" / "algorithm.md", heading)[1:]:
        for name in quoted(row[0]):
            names.append(names[-1].rsplit("/", 1)[0] + name if name.startswith("/") else name)
    return names


def judge(completions, number, **kwargs):
    """The length; nothing usable for the row with number 3."""
    return [float("nan") if n == 3 else float(len(text)) for text, n in zip(completions, number, strict=True)]


def history_of(folder, **settings):
    trainer = NLPOTrainer(
        args=NLPOConfig(
            output_dir=str(folder),
            **{
                **DEFAULTS, "logging_strategy": "steps", "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1,
                "reward_failure": "skip", **settings,
            },
        ),
        processing_class=tiny.tokenizer(), model=tiny.policy("gpt2"), reward_funcs=[judge],
        train_dataset=tiny.prompts(), eval_dataset=tiny.prompts(4),
    )  # fmt: skip
    trainer.train()
    return trainer.state.log_history


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return history_of(tmp_path_factory.mktemp("run"))


def test_the_table_of_metrics_of_some_settings_has_what_they_add(history, tmp_path):
    usual = {name for row in history for name in row}
    clipped = {
        "critic_learning_rate": 1e-3, "critic_max_grad_norm": 1.0, "positive_nll_coef": 0.1,
        "positive_nll_threshold": 0.0, "max_steps": 2, "learning_rate": 1e-2,
    }  # fmt: skip
    within = {"policy_update": "trust_region", "value_trains_backbone": False}
    found = {name for keys in (clipped, within) for row in history_of(tmp_path, **keys) for name in row}
    assert found - usual == set(logged_names("### Logged with some settings"))


@pytest.mark.parametrize(
    ("heading", "prefix", "added"), [("## Logged metrics", "", set()), ("### Evaluation", "eval_", {"epoch"})]
)
def test_the_tables_of_logged_metrics_have_the_names_that_a_run_logs(history, heading, prefix, added):
    (logged,) = [row for row in history if f"{prefix}reward" in row]
    names = {prefix + name.replace("<name>", "judge") for name in logged_names(heading)}
    # "step" is no metric: transformers.TrainerState keeps it with each line.
    assert names | added == set(logged) - {"step"}
