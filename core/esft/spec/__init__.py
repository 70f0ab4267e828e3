"""The ESFineTune spec: the only configuration there is.

The CRD, `kubectl explain` and docs/spec.md are generated from these models, so every field has a description,
a bound and, where one is reasonable, a default; nothing else in the project holds defaults.

Values are checked field by field, then together: an object's cross-field rules run once its own fields are
right. Checks that need the outside world (does the model exist, does a tensor pattern match anything) belong
to the worker, which exits with EXIT_SPEC.

Documents are camelCase. In Python fields are snake_case and constructors take either, so a reader of
documents must pass `by_name=False` (esft.document does): the API server refuses a snake_case key.
"""

from esft.spec.base import MasterWeights, ScheduleKind, Shaping
from esft.spec.resource import (
    API_VERSION,
    IMMUTABLE,
    KIND,
    RISING,
    ESFineTune,
    ESFineTuneSpec,
    Metadata,
    fingerprint,
    immutable_differences,
    rules_by_path,
    without_neutral,
)
from esft.spec.training import DataSpec, TaskSpec

__all__ = [
    "API_VERSION",
    "IMMUTABLE",
    "KIND",
    "RISING",
    "DataSpec",
    "ESFineTune",
    "ESFineTuneSpec",
    "MasterWeights",
    "Metadata",
    "ScheduleKind",
    "Shaping",
    "TaskSpec",
    "fingerprint",
    "immutable_differences",
    "rules_by_path",
    "without_neutral",
]
