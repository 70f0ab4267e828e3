"""Which fields make another run, in this version and in later ones, and which may change in mid-run."""

import pytest
from pydantic import Field

from esft.spec import ESFineTuneSpec, fingerprint, immutable_differences
from esft.spec.base import StrictModel
from esft.spec.training import Evolution
from spec_examples import COMPLETE, MINIMAL, changed, read

DECISIVE = [
    ("model.revision", "v2"),
    ("model.dtype", "float32"),
    ("task.options", {"numbers": [3]}),
    ("task.train", {"size": 200, "seed": 5}),
    ("decoding.batchSize", 32),
    ("evolution.sigma", 0.002),
    ("evolution.seed", 43),
    ("evolution.schedule.sigma", "linear"),
    ("evolution.parameters.exclude", ["bias"]),
]
FREE = [
    ("evolution.generations", 501),
    ("evaluation.everyGenerations", 7),
    ("workers.replicas", 3),
    ("suspend", True),
    ("checkpoint.keep", 1),
    ("stop.targetScore", 0.9),
]


@pytest.mark.parametrize(("path", "value"), DECISIVE)
def test_the_fingerprint_tells_results_apart(path, value):
    assert fingerprint(read(changed(path, value, COMPLETE))) != fingerprint(read(COMPLETE))


@pytest.mark.parametrize(("path", "value"), FREE)
def test_the_fingerprint_ignores_what_may_change(path, value):
    assert fingerprint(read(changed(path, value, COMPLETE))) == fingerprint(read(COMPLETE))


def test_the_fingerprint_stays_what_it_was():
    """Another value here means that runs under way cannot be resumed by the new version."""
    assert fingerprint(read(MINIMAL)) == "a3f4b4d128ea32da"
    assert fingerprint(read(COMPLETE)) == "642f38e67bc3c815"


class Momentum(StrictModel):
    beta: float = 0.9
    nesterov: bool = True


class LaterEvolution(Evolution):
    """As a later version might have it: another default, and two more fields whose defaults are not neutral."""

    population: int = Field(default=64, ge=1)
    clip: float = 0.1
    momentum: Momentum = Momentum()


class LaterSpec(ESFineTuneSpec):
    evolution: LaterEvolution = LaterEvolution()


NEUTRAL = {
    "evolution.clip": 0.0,
    "evolution.momentum": {"beta": 0.0},
    "evolution.momentum.nesterov": False,
}
AS_BEFORE = {"population": 30, "clip": 0, "momentum": {"beta": 0, "nesterov": False}}


def later_fingerprint(**evolution: object) -> str:
    return fingerprint(LaterSpec.model_validate(MINIMAL | {"evolution": evolution}), NEUTRAL)


def test_a_later_version_knows_the_runs_of_an_older_one():
    assert later_fingerprint(**AS_BEFORE) == fingerprint(read(MINIMAL))


@pytest.mark.parametrize("field", AS_BEFORE)
def test_a_later_version_s_defaults_make_another_run(field):
    assert later_fingerprint(**{name: AS_BEFORE[name] for name in AS_BEFORE if name != field}) != fingerprint(
        read(MINIMAL)
    )


@pytest.mark.parametrize("momentum", [{"beta": 0}, {"nesterov": False}])
def test_a_field_added_to_a_later_object_counts_for_itself(momentum):
    assert later_fingerprint(**AS_BEFORE | {"momentum": momentum}) != fingerprint(read(MINIMAL))


def test_a_field_that_is_not_known_to_be_neutral_counts():
    spec = LaterSpec.model_validate(MINIMAL | {"evolution": AS_BEFORE})
    assert fingerprint(spec) != fingerprint(read(MINIMAL))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *DECISIVE,
        ("evolution.generations", 499),
        ("redis.urlSecretRef", {"name": "mine"}),
        ("checkpoint.storage.volumeClaim.size", "60Gi"),
        ("managedBy", "example.com/other"),
    ],
)
def test_names_immutable_fields_that_changed(path, value):
    differences = immutable_differences(read(COMPLETE), read(changed(path, value, COMPLETE)))
    assert len(differences) == 1
    assert differences[0].startswith(f"spec.{path}")


@pytest.mark.parametrize(("path", "value"), FREE)
def test_lets_mutable_fields_change(path, value):
    assert immutable_differences(read(COMPLETE), read(changed(path, value, COMPLETE))) == []


def test_names_the_innermost_field():
    old, new = read(MINIMAL), read(changed("evolution.schedule.sigma", "linear"))
    assert immutable_differences(old, new) == ["spec.evolution.schedule.sigma"]
