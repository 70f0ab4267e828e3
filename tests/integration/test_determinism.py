"""Every way to run a job ends in the same weights, on a small random model.

`make determinism` does the same on the demo's model, one difference at a time; here several go together, for time.
"""

from pathlib import Path

import pytest
import yaml

from determinism import Run, Scenario, interrupting, killing
from random_models import save_random_model

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

REFERENCE = Scenario("1 worker", workers=1)
SCENARIOS = [
    Scenario(
        "4 workers, claimSize 5, masters split",
        workers=4,
        settings=("workers.claimSize=5", "workers.masterWeights=split"),
    ),
    Scenario("2 workers, one killed three times", disturb=killing(seed=0, times=3)),
    Scenario(
        "2 workers, stopped and resumed",
        settings=("workers.claimSize=3", "workers.masterWeights=host"),
        disturb=interrupting(9),
    ),
]
SETTINGS = (
    "evolution.generations=16",
    "checkpoint.everyGenerations=5",
)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    model = save_random_model(folder / "model", words=128)
    document = {
        "apiVersion": "esfinetune.dev/v1alpha1",
        "kind": "ESFineTune",
        "metadata": {"name": "determinism"},
        "spec": {
            "model": {"source": f"file://{model}", "dtype": "float32"},
            "task": {
                "name": "countdown",
                "options": {"style": "compact", "numbers": [3]},
                "train": {"size": 96, "seed": 0},
                "test": {"size": 64, "seed": 1},
            },
            "decoding": {"maxNewTokens": 16, "batchSize": 32},
            "evolution": {"population": 12, "sigma": 0.05, "learningRate": 0.05, "sampling": "antithetic"},
            "evaluation": {"everyGenerations": 5},
            "monitoring": {"kl": None},
        },
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def reference(job: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Digest and update log of a run with one worker and nothing in its way."""
    return _outcome(REFERENCE, job, tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_digest_and_update_log_are_the_same(
    scenario: Scenario, job: Path, reference: tuple[str, str], tmp_path: Path
) -> None:
    assert _outcome(scenario, job, tmp_path) == reference


def _outcome(scenario: Scenario, job: Path, output: Path) -> tuple[str, str]:
    run = Run(scenario, job=job, settings=SETTINGS, output=output / "run")
    digest = run.finish()
    assert scenario.disturb is None or run.kills + run.interruptions > 0
    return digest, (run.output / "log.jsonl").read_text()
