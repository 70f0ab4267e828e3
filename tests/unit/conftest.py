"""A run that the operator's decisions are tested on."""

import pytest

from operator_world import World


@pytest.fixture
def world() -> World:
    """A run that has started."""
    made = World()
    made.settle()
    made.change_pods(ready=True)
    made.settle()
    return made
