"""Names of files, folders and keys that several parts have to agree on, each written once."""

import re
from typing import Final

CHECKPOINT_NAME: Final = re.compile(r"generation-(\d{6,})")  # of a folder, as `checkpoint_name` makes it
STATE_FILE: Final = "state.json"  # of a checkpoint: which weights it holds
LOG_FILE: Final = "esft_log.jsonl"  # the update log that leads to them
MASTERS_FILE: Final = "esft_masters.safetensors"  # their fp32 masters
PRIVATE_PREFIX: Final = "esft_"  # of a checkpoint's files that no model has, the state file apart

CLAIMS_FOLDER: Final = "/var/run/esft/claims"  # of a pod: in it, a folder for each claim that pvc:// names


def checkpoint_name(generation: int) -> str:
    """Name of the folder that holds weights(generation)."""
    return f"generation-{generation:06d}"


def redis_key(run: str, name: str) -> str:
    """Name of a key of a run in Redis, `*` for all of them; the braces keep a run on one slot of a Redis Cluster."""
    return f"esft:{{{run}}}:{name}"
