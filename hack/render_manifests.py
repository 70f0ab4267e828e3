"""Writes manifests/install.yaml from the chart: `python hack/render_manifests.py`; for those who do not use Helm.

It holds no Secret: a random value that everybody reads is none. So it names one that whoever installs makes first.
A test fails when the file is not current.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CHART: Final = ROOT / "charts" / "esfinetune"
INSTALL: Final = ROOT / "manifests" / "install.yaml"
NAMESPACE: Final = "esfinetune-system"
RELEASE: Final = "esfinetune"

_VALUES: Final = (
    "redis.passwordSecretRef.name=esfinetune",
    "redis.passwordSecretRef.key=redis-password",
    "credentialsKeySecretRef.name=esfinetune",
    "credentialsKeySecretRef.key=credentials-key",
)
_HEAD: Final = f"""\
# Installs esfinetune for the whole cluster; rendered from charts/esfinetune by hack/render_manifests.py.
#
#     kubectl create namespace {NAMESPACE}
#     kubectl -n {NAMESPACE} create secret generic esfinetune \\
#       --from-literal=redis-password="$(openssl rand -hex 24)" \\
#       --from-literal=credentials-key="$(openssl rand -hex 32)"
#     kubectl apply --server-side -f install.yaml
#
# Keep that Secret as long as there are runs. docs/install.md has more.
---
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def helm_program() -> str:
    """The path of helm, which is compiled first where the machine has none (minutes, once)."""
    return subprocess.run(
        [ROOT / "hack" / "helm" / "binary"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def template(helm: str, values: Sequence[str] = (), *, namespace: str = NAMESPACE) -> str:
    """What the chart makes of values, each as PATH=VALUE.

    Raises:
        subprocess.CalledProcessError: helm refuses them; `stderr` says why.
    """
    options = [option for value in values for option in ("--set", value)]
    command = [helm, "template", RELEASE, CHART, "--namespace", namespace, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def render(helm: str) -> str:
    """The text of manifests/install.yaml."""
    lines = (line.rstrip() for line in template(helm, _VALUES).splitlines())
    text = "\n".join(line for line in lines if "helm.sh/chart:" not in line).strip() + "\n"
    return _HEAD + re.sub(r"\n+---\n", "\n---\n", text).replace("managed-by: Helm", "managed-by: kubectl")


if __name__ == "__main__":
    INSTALL.write_text(render(helm_program()), encoding="utf-8")
