"""Critics that were saved, as what a new run's value function starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification

from ..errors import UserError, one_line
from ..models.policy_and_value import PolicyAndValue, ValueHead
from .checkpoints import VALUE_FOLDER, VALUE_NAME, load_value_weights


class SavedCritic:
    """A value function of another run, or a sequence classifier, such as a reward model.

    Args:
        name (`str`): the folder of a run or a checkpoint, its `value_model/`, or the folder or Hub id of a sequence
            classifier.

    Raises:
        UserError: there is nothing of the kind.
    """

    def __init__(self, name: str):
        self.name = name
        path = Path(name).expanduser()
        self.folder = next((folder for folder in (path, path / VALUE_FOLDER) if (folder / VALUE_NAME).is_file()), None)
        """Where a run left its value function; None: a classifier."""
        is_path = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
        if self.folder is None and not (path / "config.json").is_file() and (path.exists() or is_path):
            raise UserError(
                f"value_model {name!r} holds no value function: give the folder of a run that saved one (it has "
                f"{VALUE_FOLDER}/{VALUE_NAME}), or of a sequence classifier with one label."
            )

    def model(self) -> Any:
        """The value model, where it is a model of its own; None for a head or an adapter.

        Raises:
            UserError: it cannot be loaded, or not all of its weights are there.
        """
        source = self.folder or self.name
        if self.folder is not None and not (self.folder / "config.json").is_file():
            return None
        try:
            model, found = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=1, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
            raise UserError(f"value_model {self.name!r} cannot be loaded: {one_line(error, 300)}") from error
        lost = sorted(found.get("missing_keys") or ())
        if lost:
            raise UserError(
                f"value_model {self.name!r} lacks {len(lost)} weights of a {type(model).__name__} ({lost[0]}, …), "
                "which would be random: give a sequence classifier with one label, or the folder of a run."
            )
        return model

    def load_into(self, module: PolicyAndValue) -> None:
        """Put a run's value function into the one that was made for this run.

        Raises:
            UserError: it is of another kind or size.
        """
        if self.folder is None:
            return
        try:
            fits = load_value_weights(module, self.folder)
        except (RuntimeError, KeyError, ValueError, SafetensorError) as error:
            raise UserError(f"value_model {self.name!r} does not fit this policy: {one_line(error, 300)}") from error
        if not fits:
            own = "a model of its own"
            if isinstance(module.value_model, ValueHead):
                own = "a head on the policy's own states" if module.shares_backbone else "a head on an adapter"
            raise UserError(
                f"value_model {self.name!r} is another kind of value function than this run's, which is {own}: train "
                "with an adapter (use_peft, peft_config) if that run did, and without if not."
            )
