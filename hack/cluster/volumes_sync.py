"""Give every waiting PersistentVolumeClaim a folder of this machine: `volumes_sync.py KUBECONFIG FOLDER`.

The one-node cluster's stand-in for a storage provisioner. Any class and access mode is served, as all pods are on one
node; any size is promised and none enforced. Folders are open to all users (0777), since the kubelet does not hand
hostPath volumes to a pod's fsGroup and the pods here are no root. A folder goes with its claim.

Rejected: reclaim policy Delete, which Kubernetes' own hostPath plugin does for folders below /tmp only.
"""

import shutil
import sys
from pathlib import Path

from api import Api, Object, every_second

VOLUMES = "/api/v1/persistentvolumes"
LABEL = "esfinetune.dev/test-volume"


def volume_for(claim: Object, path: Path) -> Object:
    """A PersistentVolume that only this claim can bind."""
    metadata, spec = claim["metadata"], claim["spec"]
    reference = {key: metadata[key] for key in ("namespace", "name", "uid")}
    return {
        "metadata": {"name": path.name, "labels": {LABEL: "true"}},
        "spec": {
            "accessModes": spec["accessModes"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **reference},
            "hostPath": {"path": str(path), "type": "Directory"},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": spec.get("storageClassName", ""),
        },
    }


def main(kubeconfig: str, folder: str) -> None:
    api, volumes_folder = Api(Path(kubeconfig)), Path(folder).absolute()

    def reconcile() -> None:
        claims = api.items("/api/v1/persistentvolumeclaims")
        volumes = {
            volume["metadata"]["name"]: volume for volume in api.items(f"{VOLUMES}?labelSelector={LABEL}")
        }
        for claim in claims:
            path = volumes_folder / f"claim-{claim['metadata']['uid']}"
            if "volumeName" not in claim["spec"] and path.name not in volumes:
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(0o777)
                api.create(VOLUMES, volume_for(claim, path))
        claimed = {f"claim-{claim['metadata']['uid']}" for claim in claims}
        for name in volumes.keys() - claimed:
            shutil.rmtree(volumes_folder / name, ignore_errors=True)
            api.delete(f"{VOLUMES}/{name}")

    every_second(reconcile)


if __name__ == "__main__":
    main(*sys.argv[1:])
