"""Where checkpoints are: on a volume of the run's own, unless the specification names another place."""

from typing import Final

from esft.errors import SpecError
from esft.layout import checkpoint_name
from esft_operator.decide.build.child import child
from esft_operator.kinds import VOLUME_CLAIMS
from esft_operator.names import volume_claim_name
from esft_operator.resource import Manifest, Run

RUN_FOLDER: Final = "/var/lib/esft"  # of a pod, shared by a run's workers

_CHECKPOINTS: Final = "checkpoints"


def volume_claim(run: Run) -> Manifest | None:
    """The PersistentVolumeClaim for checkpoints and the shared cache; None when checkpoints go elsewhere."""
    claim = run.spec.checkpoint.storage.volume_claim
    if claim is None:
        return None
    manifest = child(run, VOLUME_CLAIMS, volume_claim_name(run.name), component="checkpoints")
    spec: Manifest = {"accessModes": [claim.access_mode], "resources": {"requests": {"storage": claim.size}}}
    if claim.storage_class_name is not None:
        spec["storageClassName"] = claim.storage_class_name
    return manifest | {"spec": spec}


def checkpoint_folder(run: Run) -> str:
    """Where a worker finds checkpoints.

    Raises:
        SpecError: workers cannot write to such a place.
    """
    uri = run.spec.checkpoint.storage.uri
    if uri is None:
        return f"{RUN_FOLDER}/{_CHECKPOINTS}"
    scheme, _, folder = uri.partition("://")
    if scheme != "file":
        raise SpecError(
            f"spec.checkpoint.storage.uri: {scheme}:// is not supported yet. Fix: use `volumeClaim`, or "
            "file:///DIR with a shared volume mounted there by spec.workers.template."
        )
    return folder


def checkpoint_uri(run: Run, generation: int) -> str:
    """Where the checkpoint of a generation is, for people and for `spec.model.source` of another run."""
    uri = run.spec.checkpoint.storage.uri
    folder = f"pvc://{volume_claim_name(run.name)}/{_CHECKPOINTS}" if uri is None else uri.rstrip("/")
    return f"{folder}/{checkpoint_name(generation)}"
