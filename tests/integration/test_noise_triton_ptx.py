"""What Triton's kernels become on an H100, without one: rounding, width of loads, registers, how often they compile."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.integration,
    # Looked for, not imported: Triton's interpreter, which other tests need, is switched on before that.
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]

SCRIPT = Path(__file__).parent.parent / "support" / "compile_triton.py"
TYPES = {"f16", "f16x2", "f32", "f64"}
# All that may be done with floats: each of these rounds once, to nearest, or not at all.
ROUNDING = {
    "_perturb": {"cvt.rn.f32.u32", "cvt.rn.f32.s32", "mul.rn.f32", "add.rn.f32"},
    "_update": {
        "cvt.rn.f32.u32",
        "cvt.rn.f64.s64",
        "cvt.f64.f32",
        "mul.rn.f64",
        "add.rn.f64",
        "sub.rn.f64",
        "cvt.rn.f32.f64",
    },
    "_digest": set(),
}
TO_FLOAT16 = {"cvt.rn.f16.f32", "cvt.rn.f16x2.f32"}


@pytest.fixture(name="compiled", scope="module")
def _compiled(tmp_path_factory) -> list[dict]:
    cache = tmp_path_factory.mktemp("triton")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    result = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**environment, "TRITON_CACHE_DIR": str(cache)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=200,
    )
    return json.loads(result.stdout)


def instructions(kernel: dict) -> set[str]:
    """PTX instructions that have a float in or out, moves, comparisons and selections aside."""
    code = re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][a-z0-9_.]*)\s", kernel["ptx"], re.MULTILINE)
    floats = {name for name in code if TYPES & set(name.split("."))}
    return {name for name in floats if name.split(".")[0] not in {"mov", "setp", "selp"}}


def test_no_number_that_changes_in_a_run_is_compiled_in(compiled):
    # Three kinds of sizes (1, multiples of 16, others), and perturb's three dtypes.
    assert Counter(kernel["name"] for kernel in compiled) == {
        "_perturb": 9,
        "_update": 3,
        "_digest": 3,
    }


def test_floats_are_rounded_as_the_contract_says(compiled):
    for kernel in compiled:
        found, expected = instructions(kernel), ROUNDING[kernel["name"]]
        assert found - TO_FLOAT16 == expected, kernel["name"]
        assert not found & TO_FLOAT16 or kernel["name"] == "_perturb"
        assert not re.search(r"\b[FD]FMA\b", kernel["sass"]), kernel["name"]
        assert "FTZ" not in kernel["sass"], kernel["name"]
    assert sum(bool(instructions(kernel) & TO_FLOAT16) for kernel in compiled) == 3


def test_kernels_stay_in_registers(compiled):
    for kernel in compiled:
        assert kernel["stack"] == 0, kernel["name"]
        assert kernel["registers"] <= 80, kernel["name"]  # 24 warps of the 64 a multiprocessor has room for


def test_weights_of_ordinary_sizes_are_read_and_written_four_at_a_time(compiled):
    wide = [kernel for kernel in compiled if "LDG.E.128" in kernel["sass"]]
    assert Counter(kernel["name"] for kernel in wide) == {"_perturb": 3, "_update": 1, "_digest": 1}
    for kernel in wide:
        assert not re.search(r"STG\.E(\.U16)? ", kernel["sass"]), kernel["name"]
        # Words are used where they are made: nothing but sums goes through shared memory.
        assert ("STS" in kernel["sass"]) == (kernel["name"] != "_perturb"), kernel["name"]
