"""Tasks: prompts to answer and a reward for each answer. docs/tasks.md says how to write one."""

from esft_worker.tasks.base import (
    Example,
    Examples,
    Grade,
    Message,
    Prompt,
    Split,
    SplitName,
    Task,
    TaskError,
    TaskOptions,
)
from esft_worker.tasks.registry import build_task, load_examples, load_task

__all__ = [
    "Example",
    "Examples",
    "Grade",
    "Message",
    "Prompt",
    "Split",
    "SplitName",
    "Task",
    "TaskError",
    "TaskOptions",
    "build_task",
    "load_examples",
    "load_task",
]
