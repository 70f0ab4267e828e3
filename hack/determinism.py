"""Run the same job in every way that must not matter, and compare the final digests: `make determinism`.

Prints `N of N digests equal` last; exits 1 when they are not, or when a run does not succeed.
"""

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from esft.errors import EXIT_INTERRUPTED

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "examples" / "countdown-tiny.yaml"
SMALLER = (
    "evolution.generations=16",
    "evolution.population=16",
    "checkpoint.everyGenerations=5",
    "evaluation.everyGenerations=4",
)
KILL_EVERY_SECONDS = 3.0
RUN_LIMIT_SECONDS = 600.0

Disturbance = Callable[["Run"], None]


@dataclass(frozen=True)
class Scenario:
    """One way to run the job; `disturb` is called over and over while it runs."""

    name: str
    workers: int = 2
    settings: tuple[str, ...] = ()
    disturb: Disturbance | None = None


class Run:
    """One `esft run` of the job, started again when it was interrupted."""

    def __init__(self, scenario: Scenario, *, job: Path, settings: tuple[str, ...], output: Path) -> None:
        self.output = output
        self.interruptions = 0
        self.kills = 0
        self._scenario = scenario
        self._command = [
            sys.executable,
            "-m",
            "esft_cli",
            "run",
            str(job),
            "--workers",
            str(scenario.workers),
        ]
        self._command += ["--output", str(output)]
        for setting in (*settings, *scenario.settings):
            self._command += ["--set", setting]
        self._start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> str:
        """Wait for the end, disturbing meanwhile; returns the final digest."""
        deadline = time.monotonic() + RUN_LIMIT_SECONDS
        while True:
            try:
                _, errors = self.process.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    self.process.kill()
                    raise SystemExit(
                        f"{self._scenario.name}: no end within {RUN_LIMIT_SECONDS:.0f} s"
                    ) from None
                if self._scenario.disturb is not None:
                    self._scenario.disturb(self)
                continue
            if self.process.returncode == EXIT_INTERRUPTED and self.interruptions:
                self._start()
                continue
            if self.process.returncode != 0:
                raise SystemExit(
                    f"{self._scenario.name}: exit code {self.process.returncode}: {errors.strip()}"
                )
            summary: dict[str, str] = json.loads((self.output / "summary.json").read_text())
            return summary["digest"]

    def generation(self) -> int:
        """How many updates are committed."""
        log = self.output / "log.jsonl"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def worker_pids(self) -> list[int]:
        """The living worker processes, children of the runner."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            pids = [int(pid) for pid in children.read_text().split()]
            return [pid for pid in pids if b"esft_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        except OSError:
            return []


def killing(*, seed: int, times: int | None = None) -> Disturbance:
    """SIGKILL a random worker every few seconds, `times` times or to the end.

    Only when there was an update since the last: a slow machine must get on, too.
    """
    dice = random.Random(seed)
    last, reached = time.monotonic(), 0

    def disturb(run: Run) -> None:
        nonlocal last, reached
        pids, generation = run.worker_pids(), run.generation()
        if (
            run.kills == times
            or not pids
            or generation <= reached
            or time.monotonic() - last < KILL_EVERY_SECONDS
        ):
            return
        last, reached = time.monotonic(), generation
        subprocess.run(["kill", "-KILL", str(dice.choice(pids))], check=False)
        run.kills += 1

    return disturb


def interrupting(*generations: int) -> Disturbance:
    """Ctrl-C when the run has made so many updates; it is started again with the same output folder."""
    pending = list(generations)

    def disturb(run: Run) -> None:
        if pending and run.generation() >= pending[0]:
            pending.pop(0)
            run.interruptions += 1
            run.process.send_signal(signal.SIGINT)

    return disturb


def scenarios() -> Iterator[Scenario]:
    """Every way that must give the same weights; the first is the reference."""
    yield Scenario("1 worker", workers=1)
    yield Scenario("2 workers")
    yield Scenario("4 workers", workers=4)
    yield Scenario("2 workers, claimSize 5", settings=("workers.claimSize=5",))
    yield Scenario("2 workers, one killed every 3 s", disturb=killing(seed=0))
    yield Scenario("2 workers, stopped and resumed twice", disturb=interrupting(4, 9))


def main() -> None:
    """Run all scenarios and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, default=JOB)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="settings")
    options = parser.parse_args()
    digests = []
    with tempfile.TemporaryDirectory() as folder:
        for number, scenario in zip(itertools.count(), scenarios(), strict=False):
            start = time.monotonic()
            run = Run(
                scenario,
                job=options.job,
                settings=(*SMALLER, *options.settings),
                output=Path(folder) / str(number),
            )
            digests.append(run.finish())
            disturbed = f", {run.kills} kills, {run.interruptions} stops" if scenario.disturb else ""
            print(f"{digests[-1]}  {scenario.name} ({time.monotonic() - start:.0f} s{disturbed})", flush=True)
            if scenario.disturb is not None and not run.kills + run.interruptions:
                raise SystemExit(f"{scenario.name}: the run ended before anything was disturbed")
    equal = digests.count(digests[0])
    print(f"{equal} of {len(digests)} digests equal")
    sys.exit(0 if equal == len(digests) else 1)


if __name__ == "__main__":
    main()
