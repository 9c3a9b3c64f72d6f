"""Tasks by name: ours, those of installed packages, and anything importable by its path."""

from __future__ import annotations

from importlib.metadata import entry_points

from ..errors import UserError
from ..naming import did_you_mean, import_attribute
from .base import Task


ENTRY_POINTS = "trl_nlpo.tasks"
"""The group under which another package offers tasks: `mine = "my_package.my_task:TASK"`."""

# GRUE's seven (paper, section 3), by the name of their module.
_TASKS = ("imdb", "commongen", "cnndm", "totto", "iwslt", "narrativeqa", "dailydialog")


def task_names() -> list[str]:
    """GRUE's tasks in the paper's order, and those that installed packages add."""
    added = sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))
    return [*_TASKS, *(name for name in added if name not in _TASKS)]


def get_task(name: str) -> Task:
    """A task by its name, or by the path of a [`Task`]: `my_module:my_task`.

    Raises:
        UserError: nothing of that name, or no task.
    """
    if name in _TASKS:
        return import_attribute(f"{__package__}.{name}:TASK", f"task {name!r}", ":")
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == name:
            return _checked(entry.load(), name)
    if ":" in name:
        return _checked(import_attribute(name, f"task {name!r}", ":"), name)
    raise UserError(
        f"unknown task {name!r}{did_you_mean(name, task_names())} Take one of {', '.join(task_names())}, or the path "
        "of your own: my_module:my_task."
    )


def _checked(found: object, name: str) -> Task:
    if not isinstance(found, Task):
        raise UserError(f"task {name!r} is {type(found).__name__}, but must be a trl_nlpo.tasks.Task.")
    return found
