"""The bar of a command that computes for a while, instead of the bars that libraries draw."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar while the block runs; it moves by a function of the steps done and the steps in all."""
    from rich.progress import Progress
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with Progress(transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
