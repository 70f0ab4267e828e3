"""Lets another process build the same task and examples: what it needs, in a form that goes through a pipe."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from esft_worker.tasks.base import Examples, Split, Task
from esft_worker.tasks.registry import load_examples, load_task


@dataclass(frozen=True, slots=True)
class TaskRecipe:
    """`spec.task`.

    Attributes:
        name: `spec.task.name`.
        options: `spec.task.options`; JSON values.
        train: `spec.task.train`.
        test: `spec.task.test`.
    """

    name: str
    options: Mapping[str, Any]
    train: Split
    test: Split | None = None

    def build(self) -> tuple[Task[Any], Examples]:
        """Build the task and its examples.

        Raises:
            SpecError: one of them cannot be made.
        """
        task = load_task(self.name, self.options)
        return task, load_examples(task, train=self.train, test=self.test)

    def to_json(self) -> dict[str, Any]:
        """Give the recipe as JSON values."""
        return {
            "name": self.name,
            "options": dict(self.options),
            "train": asdict(self.train),
            "test": None if self.test is None else asdict(self.test),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(
            name=data["name"],
            options=data["options"],
            train=Split(**data["train"]),
            test=None if data["test"] is None else Split(**data["test"]),
        )
