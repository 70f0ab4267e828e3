"""The resources that people copy are valid, and the operator can make workers of them."""

from pathlib import Path

import pytest
import yaml

from esft.document import load
from esft_operator.decide import build
from esft_operator.resource import Run
from esft_operator.settings import WorkerDefaults

SAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "samples").glob("*.yaml"))


def test_there_are_samples():
    assert len(SAMPLES) >= 3


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_valid_and_makes_workers_with_gpus(path):
    load(path)
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert body["metadata"]["name"] == path.stem
    body["metadata"] |= {"namespace": "research", "uid": "0f5b1e0a-1111-2222-3333-444455556666"}
    pod = build.job(Run.from_body(body), WorkerDefaults(), parallelism=1)["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
