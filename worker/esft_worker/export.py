"""The model of any generation, made anew: weights(g) = base + log[0..g), whatever checkpoints are left."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from esft.records import UpdateRecord
from esft.spec import ESFineTuneSpec
from esft_worker.assemble import Host, build_replica
from esft_worker.source import default_cache


def export_generation(
    spec: ESFineTuneSpec,
    log: Sequence[str],
    to: Path,
    *,
    threads: int,
    progress: Callable[[int, int], None],
) -> str:
    """Write the model that the base model becomes by a log, in Hugging Face format.

    Args:
        spec: of the run.
        log: its update records as JSON, up to the generation that is wanted.
        to: folder to write.
        threads: CPU threads for the kernels.
        progress: called after each update with the updates done and the updates in all.

    Returns:
        The digest of the weights.

    Raises:
        SpecError: the base model is not there.
    """
    with tempfile.TemporaryDirectory() as no_checkpoints:
        host = Host(
            checkpoints=Path(no_checkpoints),
            cache=default_cache(),
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            threads=threads,
        )
        replica = build_replica(spec, host)
    for done, record in enumerate(log, start=1):
        replica.apply([UpdateRecord.from_json(record)])
        progress(done, len(log))
    replica.weights.restore()
    replica.engine.save(str(to))
    return replica.weights.digest()
