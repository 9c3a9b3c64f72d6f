"""Packages of metrics that are installed on request, `pip install "trl-nlpo[metrics]"`."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import UserError


def require_package(module: str, who: str, package: str | None = None) -> Any:
    """Import a module of a package that may be missing.

    Args:
        module (`str`): such as `"nltk.tokenize"`.
        who (`str`): what needs it, for the message: `"metric 'meteor'"`.
        package (`str`, *optional*): the package as it is installed; by default the first part of `module`.

    Raises:
        UserError: the package is missing; the message has the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = package or module.partition(".")[0]
        raise UserError(
            f'{who} needs the package {name}: install it with `pip install "trl-nlpo[metrics]"`.'
        ) from error
