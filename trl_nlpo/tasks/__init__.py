"""Tasks: where the data is, how a row becomes prompt and references, and how completions are judged."""

from .base import HubData, Portion, Task
from .registry import get_task, task_names


__all__ = ["HubData", "Portion", "Task", "get_task", "task_names"]
