"""`esft export` on a real model: any generation is the base model and as many updates of the log."""

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from esft.records import UpdateRecord
from esft_cli.app import build_app
from esft_worker.weights import Weights
from random_models import save_random_model

pytestmark = pytest.mark.integration

SEED = 7
RECORDS = [
    UpdateRecord(generation, 0.01, 0.1, -23, (5_000_000, -7_000_000), (0.5, 0.0)) for generation in range(3)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder, as far as its log and specification go."""
    model = save_random_model(tmp_path / "base")
    folder = tmp_path / "run"
    folder.mkdir()
    document = {
        "apiVersion": "esfinetune.dev/v1alpha1",
        "kind": "ESFineTune",
        "metadata": {"name": "small"},
        "spec": {
            "model": {"source": f"file://{model}", "dtype": "float32"},
            "task": {"name": "countdown", "train": {"size": 2}},
            "evolution": {"seed": SEED, "population": 2},
        },
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(document))
    (folder / "log.jsonl").write_text("".join(record.to_json() + "\n" for record in RECORDS))
    return folder


def export(folder: Path, generation: int) -> tuple[str, torch.nn.Module]:
    """What the command prints, and the model that it writes."""
    to = folder / f"model-{generation}"
    done = CliRunner().invoke(
        build_app(),
        ["export", str(folder), "--generation", str(generation), "--to", str(to)],
        catch_exceptions=False,
    )
    return done.output, AutoModelForCausalLM.from_pretrained(to)


@pytest.mark.parametrize("generation", [0, 2, 3])
def test_a_generation_is_the_base_model_and_its_updates(generation: int, folder: Path) -> None:
    output, exported = export(folder, generation)
    model = AutoModelForCausalLM.from_pretrained(folder.parent / "base")
    weights = Weights(model, seed=SEED, antithetic=False, include=[".*"], exclude=[])
    if generation:
        weights.apply(RECORDS[:generation])
        weights.restore()
    assert output.endswith(f"digest {weights.digest()}\n")
    expected = model.state_dict()
    for name, tensor in exported.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_there_is_no_generation_beyond_the_log(folder: Path) -> None:
    done = CliRunner().invoke(
        build_app(), ["export", str(folder), "--generation", "4", "--to", str(folder / "model")]
    )
    assert str(done.exception).endswith(
        "has 3 updates, so there is no generation 4. Fix: name one from 0 to 3."
    )
    assert not (folder / "model").exists()
