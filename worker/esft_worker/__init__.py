"""The data plane: perturbs, generates, grades and updates. It imports no Kubernetes client."""
