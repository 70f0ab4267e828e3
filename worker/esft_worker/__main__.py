"""The worker process: arguments, environment, signals and exit codes; everything else is in `assemble` and `loop`.

Exit codes (docs/run.md): 0 the run is over, 143 drained, 64 the spec cannot work, 70 internal.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, start_http_server
from transformers.utils.logging import disable_progress_bar

from esft import document, logs
from esft.errors import EXIT_DRAINED, EXIT_FINISHED, EXIT_INTERNAL, EXIT_SPEC, EsftError, SpecError
from esft.policy import Policy
from esft.queue import RunQueue, connect
from esft.status.words import FAILED, INVALID_SPEC
from esft_worker import termination
from esft_worker.assemble import Host, assembled_worker
from esft_worker.engine import Drained
from esft_worker.loop import FINISHED_KEYS_SECONDS
from esft_worker.metrics import WorkerMetrics
from esft_worker.source import default_cache

logger = logging.getLogger("esft_worker")

REDIS_PATIENCE_SECONDS = 600.0
ORPHAN_SECONDS = 60.0
"""To drain in once standard input has ended: nobody may be left to end a worker that waits for Redis."""


def main() -> None:
    """Console script `esft-worker`."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Work for one run until it is over or this process is told to stop; returns the exit code."""
    options = _parser().parse_args(arguments)
    logs.configure(worker=options.name, run=options.run)
    stop = _stop_on_signals(follow_stdin=options.follow_stdin)
    queue: RunQueue | None = None
    try:
        queue = RunQueue(
            connect(_redis_url(environment), patience_seconds=REDIS_PATIENCE_SECONDS), options.run
        )
        _work(options, environment, queue=queue, stop=stop)
    except Drained:
        logger.info("drained")
        return EXIT_DRAINED
    except SpecError as error:
        logger.error(str(error))  # noqa: TRY400 - the message is the whole story
        termination.write(options.termination_log, str(error))
        _fail_run(queue, str(error))
        return EXIT_SPEC
    except EsftError as error:
        logger.error(str(error))  # noqa: TRY400
        termination.write(options.termination_log, str(error))
        return error.exit_code
    except Exception as error:
        logger.exception(type(error).__name__)
        termination.write(options.termination_log, termination.unexpected(error, environment))
        return EXIT_INTERNAL
    return EXIT_FINISHED


def _work(
    options: argparse.Namespace, environment: Mapping[str, str], *, queue: RunQueue, stop: threading.Event
) -> None:
    torch.set_num_threads(options.threads)
    disable_progress_bar()
    resource = document.load(options.spec)
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    host = Host(
        checkpoints=options.checkpoints,
        cache=options.cache or default_cache(),
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        threads=options.threads,
        hub_token=environment.get("HF_TOKEN"),
    )
    with assembled_worker(
        resource.spec,
        host,
        policy=Policy.of(resource.spec, version=resource.metadata.generation or 1),
        name=options.name,
        queue=queue,
        metrics=metrics,
        should_stop=stop.is_set,
    ) as worker:
        if (
            options.metrics_port
        ):  # it answers once the worker is ready, which is what a pod's readiness probe asks
            start_http_server(options.metrics_port, registry=registry)
        logger.info("ready", extra={"device": str(host.device)})
        try:
            worker.run()
        finally:
            logger.info("stopped", extra={"seconds": metrics.seconds()})


def _fail_run(queue: RunQueue | None, message: str) -> None:
    """Tell everyone that the run cannot work; best effort, since the exit code says so too."""
    if queue is None:
        return
    try:
        queue.finish(phase=FAILED, reason=INVALID_SPEC, message=message, ttl_seconds=FINISHED_KEYS_SECONDS)
    except EsftError as error:
        logger.warning("the failure could not be recorded", extra={"reason": str(error)})


def _stop_on_signals(*, follow_stdin: bool) -> threading.Event:
    """SIGTERM, or the end of standard input with --follow-stdin, asks to drain; Ctrl-C is for the parent."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if follow_stdin:

        def follow() -> None:
            # Not sys.stdin: its lock, held by a thread, would abort the interpreter's exit.
            while os.read(0, 4096):
                pass
            stop.set()
            time.sleep(ORPHAN_SECONDS)
            logger.warning("ended without having drained")
            os._exit(EXIT_DRAINED)

        threading.Thread(target=follow, name="stdin", daemon=True).start()
    return stop


def _redis_url(environment: Mapping[str, str]) -> str:
    url = environment.get("ESFT_REDIS_URL")
    if not url:
        raise SpecError("ESFT_REDIS_URL is not set. Fix: give the worker its Redis URL in that variable.")
    return url


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="esft-worker", description="One worker of an ESFineTune run.")
    parser.add_argument("--spec", type=Path, required=True, help="file with the ESFineTune resource")
    parser.add_argument("--run", required=True, help="uid of the run")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder that the run's workers share")
    parser.add_argument("--name", required=True, help="this worker's name, unique for each start")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; part of the result on CPU")
    parser.add_argument("--cache", type=Path, help="folder for models that are made here")
    parser.add_argument("--metrics-port", type=int, default=0, help="port of /metrics; 0: none")
    parser.add_argument(
        "--termination-log", type=Path, help="file for the reason of a failure, which Kubernetes shows"
    )
    parser.add_argument("--follow-stdin", action="store_true", help="drain when standard input ends")
    return parser


if __name__ == "__main__":
    main()
