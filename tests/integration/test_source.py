"""Where a model is looked for, with real folders."""

from pathlib import Path

import pytest

from esft.errors import SpecError
from esft_worker.source import model_directory

pytestmark = pytest.mark.integration


@pytest.fixture
def claims(tmp_path: Path) -> Path:
    """A claim `models` is mounted, with a model in `qwen/small` and a folder `empty`; outside it lies another model."""
    for place in ("claims/models/qwen/small", "outside"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}")
    (tmp_path / "claims/models/empty").mkdir()
    (tmp_path / "claims/models/link").symlink_to(tmp_path / "outside")
    return tmp_path / "claims"


def find(source: str, **places: Path) -> Path:
    return model_directory(source, revision="main", token=None, cache=Path("unused"), **places)


@pytest.mark.parametrize("source", ["pvc://models/qwen/small", "pvc://models/qwen/small/"])
def test_a_claims_folder_is_where_it_is_mounted(claims: Path, source: str) -> None:
    assert find(source, claims=claims) == claims / "models/qwen/small"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("pvc://others/qwen", "no claim others is mounted at"),
        ("pvc://models/qwen/large", "the claim models has no folder qwen/large"),
        ("pvc://models/../../outside", "the claim models has no folder"),
        ("pvc://models/link", "the claim models has no folder link"),
        ("pvc://models/empty", "holds no config.json"),
    ],
)
def test_what_a_claim_has_not_is_said_with_the_fix(claims: Path, source: str, problem: str) -> None:
    with pytest.raises(SpecError, match=rf"^spec\.model\.source: .*{problem}.*Fix: "):
        find(source, claims=claims)


def test_on_one_machine_a_claim_is_refused() -> None:
    with pytest.raises(
        SpecError, match=r"PersistentVolumeClaim in the run.s namespace; on one machine, use file"
    ):
        find("pvc://models/qwen")


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(SpecError, match="s3:// cannot be read here"):
        find("s3://bucket/prefix")
