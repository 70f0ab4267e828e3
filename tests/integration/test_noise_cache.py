"""The Numba kernels work whatever state their cache on disk is in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import esft_worker.compiled
import esft_worker.noise
from esft_worker.noise.cpu import CpuKernels
from noise_parts import normal_integers

pytestmark = pytest.mark.integration

# Run in a process of its own: the package is a copy whose place and cache folder the test spoils.
PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from esft_worker.noise import Slot, TensorKey, cpu
assert cpu.__file__.startswith(sys.argv[1]), cpu.__file__
exec(sys.argv[2])
slot = Slot(TensorKey(1, 1), torch.zeros(4), torch.zeros(4))
cpu.CpuKernels().perturb([slot], generation=0, pair=0, scale=1.0)
print(slot.working.int().tolist())
"""


def probe(package: Path, environment: dict[str, str], statement: str = "") -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROBE, str(package), statement],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=package,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.stdout.strip()


@pytest.fixture(name="package")
def _package(tmp_path):
    source = Path(esft_worker.noise.__file__).parent
    target = tmp_path / "lib" / "esft_worker" / "noise"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(esft_worker.compiled.__file__, target.parent)
    (target.parent / "__init__.py").touch()
    (target / "__pycache__").touch()  # a file: no folder can be made here, not even by root
    return target.parent.parent


def expected() -> str:
    return str(normal_integers(CpuKernels(), 1, generation=0, pair=0, count=4).tolist())


def test_works_where_no_cache_folder_is_writable(package):
    check = "from numba.core.caching import NullCache; assert isinstance(cpu._perturb._compiled._cache, NullCache)"
    assert probe(package, {"XDG_CACHE_HOME": "/dev/null"}, check) == expected()


def test_works_when_the_cache_cannot_be_written(package, tmp_path):
    cache = tmp_path / "cache"
    spoil = f"import shutil; shutil.rmtree({str(cache)!r}); open({str(cache)!r}, 'w').close()"
    assert probe(package, {"NUMBA_CACHE_DIR": str(cache)}, spoil) == expected()


def test_works_when_the_cache_is_damaged(package, tmp_path):
    cache = tmp_path / "cache"
    probe(package, {"NUMBA_CACHE_DIR": str(cache)})
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".nbi", ".nbc"}
    for path in files:
        path.write_bytes(path.read_bytes()[:20])
    assert probe(package, {"NUMBA_CACHE_DIR": str(cache)}) == expected()
