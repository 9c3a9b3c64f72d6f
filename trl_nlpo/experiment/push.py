"""Pushing a run that is finished: its model, card, recipe and results, as if it had been run with `push_to_hub`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub import get_token

from ..errors import NotPushedError, UserError
from ..hub.card import CARD_NAME, CardFacts, hub_id, model_card
from ..hub.loading import adapter_base, holds_model, loading_of
from ..hub.upload import HubRefusal, HubUpload, check_repository
from ..recipes.algorithms import Algorithm
from ..storage.checkpoint_folder import checkpoints_by_age
from ..storage.files import replace_file
from ..storage.results import RunResults, check_is_run
from ..storage.run_lock import check_not_taken
from .card import with_results


_SUPERVISED = "supervised"


def push_run(folder: Path, name: str | None, private: bool, report: Callable[[str], None]) -> str:
    """Push the model of a run.

    Args:
        folder (`Path`): the run's `output_dir`.
        name (`str`, *optional*): of the repository; None: the `hub_model_id` of the run's recipe.
        private (`bool`): make a private repository, unless it is there.
        report (`Callable`): is told of each try that is followed by another.

    Returns:
        `str`: where the repository is shown.

    Raises:
        UserError: there is no finished run, no name that a repository can have, no token, or no base for an adapter.
        NotPushedError: the Hub does not take it; says what to run to finish.
    """
    run = _finished_run(folder)
    name = name or (run.recipe or {}).get("hub_model_id")
    if name is None:
        raise UserError("--hub_model_id is missing: give owner/name, which the recipe does not name either.")
    args = SimpleNamespace(
        push_to_hub=True, hub_model_id=name, output_dir=str(folder), hub_token=None,
        hub_private_repo=True if private else None, hub_revision=None,
    )  # fmt: skip
    check_repository(args)
    facts = CardFacts.read(folder)
    hub = HubUpload(args)
    hub.report = report
    hub.base = _base(folder, run, report)
    hub.left_out += (_SUPERVISED,)
    if get_token() is None:
        raise UserError("there is no token for the Hub: log in with `hf auth login`, or set HF_TOKEN.")
    try:
        with hub.patient():
            # Complete, with its owner.
            name = hub.create()
    except HubRefusal as error:
        words = ["trl-nlpo", "push", str(folder), "--hub_model_id", name, *(["--private"] if private else [])]
        raise NotPushedError(
            f"The model was not pushed to the Hub: {error}. Nothing is changed; to push it, run: {shlex.join(words)}"
        ) from error
    facts = dataclasses.replace(
        facts, model_name=name.split("/")[-1], adapter_base=hub.base_name if hub.base is not None else None
    )
    loading = loading_of(folder, name, base=hub.base_name if hub.base is not None else None)
    replace_file(folder / CARD_NAME, model_card(with_results(facts, run), loading))
    hub.push("End of training")
    return hub.url


def _finished_run(folder: Path) -> RunResults:
    """The results of a run whose model is saved, and that nobody writes into."""
    check_is_run(folder)
    check_not_taken(folder)
    if not holds_model(folder):
        found = "checkpoints only" if checkpoints_by_age(folder) else "none yet"
        raise UserError(
            f"{folder} has no reinforced model ({found}): it is saved when its training ends. Finish the run with "
            "`trl-nlpo run RECIPE --resume`."
        )
    return RunResults.read(folder)


def _base(folder: Path, run: RunResults, report: Callable[[str], None]) -> Path | None:
    """The folder of an adapter's base model where the run has trained it; None for all other models."""
    base, supervised = adapter_base(folder), folder / _SUPERVISED
    if base is None:
        return None
    is_trained = Algorithm.parse(str((run.recipe or {}).get("algorithm", "nlpo"))).supervised
    if is_trained and Path(base).is_dir():
        return Path(base)
    if is_trained and supervised.is_dir():
        # The run was moved.
        return supervised
    if Path(base).is_dir():
        report(f"The adapter names {base} as its base, a folder of this machine: elsewhere it cannot be loaded.")
    elif hub_id(base) is None:
        raise UserError(f"the adapter in {folder} names {base} as its base model, which is not there: bring it back.")
    return None
