"""The command line: what it shows, how it fails, and that it starts without what it does not need."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import esft
from esft.errors import EXIT_INTERNAL, EXIT_SPEC
from esft.records import FitnessStatistics
from esft_cli.app import build_app
from esft_cli.options import is_folder
from esft_cli.run import resume_command
from esft_cli.unexpected import unexpected
from esft_local.history import HistoryLine

JOB = """\
apiVersion: esfinetune.dev/v1alpha1
kind: ESFineTune
metadata: {name: countdown}
spec:
  model: {source: "tiny://countdown"}
  task: {name: countdown, train: {size: 2}}
"""
COMMANDS = ("run", "validate", "status", "logs", "plot", "export", "make-model")


def esft_command(
    *arguments: str, options: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-m", "esft_cli", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run with one generation leaves, as far as it is read here."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    (folder / "spec.yaml").write_text(JOB)
    line = HistoryLine(0, FitnessStatistics(0.5, 0.6, 0.4, 0.05, 10), evaluation=None, kl_divergence=None)
    (folder / "history.jsonl").write_text(line.to_json() + "\n")
    return folder


def test_help_loads_nothing_that_a_command_needs() -> None:
    code = (
        "import sys; sys.argv = ['esft', '--help']\n"
        "from esft_cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'redis', 'pydantic', 'kubernetes', 'matplotlib') if name in sys.modules])\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"


def test_help_says_what_every_command_does_in_the_order_of_their_use() -> None:
    shown = CliRunner().invoke(build_app(), ["--help"], terminal_width=80).output
    lines = [line.split() for line in shown.partition("Commands:\n")[2].splitlines()]
    assert tuple(line[0] for line in lines) == COMMANDS
    for name, *summary in lines:
        assert len(summary) > 3, name
        assert not summary[-1].endswith("..."), name


def test_version() -> None:
    assert CliRunner().invoke(build_app(), ["--version"]).output == f"esft {esft.__version__}\n"


def test_an_error_is_one_line_and_its_exit_code(tmp_path: Path) -> None:
    done = esft_command("status", str(tmp_path))
    assert done.returncode == EXIT_INTERNAL
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}: holds no run. Fix: ")
    assert done.stderr.count("\n") == 1


def test_a_file_is_valid_or_every_problem_is_a_line(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    done = esft_command("validate", str(job))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{job}: valid\n", "")
    done = esft_command("validate", str(job), "--set", "evolution.sigma=0", "--set", "evolution.population=0")
    assert (done.returncode, done.stdout) == (EXIT_SPEC, "")
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        ["--set evolution.population=0", "spec.evolution.population"],
        ["--set evolution.sigma=0", "spec.evolution.sigma"],
    ]


def test_a_file_that_cannot_be_used_says_where(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("kind: ESFineTune\n")
    for command in ("run", "validate"):
        done = esft_command(command, str(job))
        assert done.returncode == 64
        assert "job.yaml" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_bug_is_one_line_that_names_its_traceback(tmp_path: Path) -> None:
    try:
        raise TypeError("a number was expected")  # noqa: TRY301
    except TypeError as error:
        in_folder, elsewhere = unexpected(error, logs=tmp_path), unexpected(error)
    assert str(in_folder) == f"TypeError: a number was expected (a bug; see {tmp_path / 'runner.log'})"
    assert "Traceback" in (tmp_path / "runner.log").read_text()
    temporary = Path(str(elsewhere).rpartition("see ")[2].rstrip(")"))
    assert "Traceback" in temporary.read_text()
    temporary.unlink()


def test_the_command_to_go_on_is_the_one_that_was_typed() -> None:
    command = resume_command(
        Path("my jobs/a.yaml"), output=Path("out"), overrides=["evolution.sigma=0.1"], workers=2, threads=4
    )
    assert shlex.split(command) == [
        *("esft", "run", "my jobs/a.yaml", "--set", "evolution.sigma=0.1"),
        *("--output", "out", "--workers", "2", "--threads", "4"),
    ]
    assert (
        resume_command(Path("a.yaml"), output=None, overrides=(), workers=None, threads=1)
        == "esft run a.yaml"
    )


def test_a_folder_is_meant_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "countdown").mkdir()
    assert is_folder("countdown", namespace=None, context=None)
    assert is_folder("runs/not-there", namespace=None, context=None)
    assert not is_folder("another", namespace=None, context=None)
    assert not is_folder("countdown", namespace="research", context=None)
    assert not is_folder("countdown", namespace=None, context="cluster")


def test_a_folder_is_neither_watched_nor_has_logs_of_pods(tmp_path: Path) -> None:
    watched = esft_command("status", str(tmp_path), "--watch")
    assert watched.returncode == EXIT_INTERNAL
    assert watched.stderr.startswith(f"error: --watch: {tmp_path} is a folder")
    logs = esft_command("logs", str(tmp_path))
    assert logs.returncode == EXIT_INTERNAL
    assert f"the files {tmp_path}/logs/*.log" in logs.stderr


def esft_without(package: str, links: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call `esft` where a package is not installed: Python finds links to all others that are installed here."""
    links.mkdir()
    paths = [Path(path) for path in sys.path]
    for site_packages in (path for path in paths if path.name == "site-packages"):
        for installed in site_packages.iterdir():
            if not installed.name.startswith(package) and not (links / installed.name).exists():
                (links / installed.name).symlink_to(installed)
    found = [links, *(path for path in paths if path.name != "site-packages")]
    return esft_command(*arguments, options=("-S",), PYTHONPATH=os.pathsep.join(map(str, found)))


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("run DIR/spec.yaml", "torch", "local"),
        ("export DIR --generation 0 --to DIR/model", "torch", "worker"),
        ("make-model DIR/model", "torch", "worker"),
        ("status countdown -n research", "kubernetes", "operator"),
        ("logs countdown -n research", "kubernetes", "operator"),
    ],
)
def test_a_package_that_is_not_installed_is_one_line_with_the_extra(
    command: str, package: str, extra: str, folder: Path, tmp_path: Path
) -> None:
    name, *arguments = command.replace("DIR", str(folder)).split()
    done = esft_without(package, tmp_path / "links", name, *arguments)
    fix = f"Fix: pip install 'esfinetune[{extra}]'"
    assert done.stderr == f"error: `esft {name}` needs {package}, which is not installed. {fix}\n"
    assert done.returncode == EXIT_INTERNAL


def test_without_matplotlib_all_but_plotting_works(folder: Path, tmp_path: Path) -> None:
    done = esft_without("matplotlib", tmp_path / "links", "plot", str(folder))
    assert done.stderr.startswith("error: plotting needs matplotlib, which is not installed. Fix: ")
    assert done.returncode == EXIT_INTERNAL
    assert esft_command("plot", str(folder)).stdout == f"{folder}/fitness.png\n"


def test_what_is_written_must_be_new(folder: Path) -> None:
    for command in (["make-model"], ["export", str(folder), "--generation", "0", "--to"]):
        done = esft_command(*command, str(folder))
        assert done.stderr == f"error: {folder} exists already. Fix: name a new folder.\n"
        assert done.returncode == EXIT_SPEC
