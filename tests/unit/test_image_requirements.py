"""The images' lists of dependencies."""

import re
from pathlib import Path

from image_requirements import requirements

ROOT = Path(__file__).parents[2]


def names(extra):
    return {re.split(r"[^\w-]", each)[0].lower() for each in requirements(ROOT / "pyproject.toml", extra)}


def test_the_operator_needs_no_torch_and_the_worker_no_kubernetes():
    assert {"kopf", "kubernetes", "redis"} <= names("operator")
    assert {"torch", "transformers", "redis"} <= names("worker")
    assert not {"torch", "numpy", "numba"} & names("operator")
    assert not {"kopf", "kubernetes"} & names("worker")


def test_every_version_in_an_image_is_one_that_the_tests_run_with():
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in constraints()}
    assert names("operator") | names("worker") <= pinned


def constraints():
    lines = (ROOT / "constraints" / "dev.txt").read_text().splitlines()
    return [line for line in lines if "==" in line]
