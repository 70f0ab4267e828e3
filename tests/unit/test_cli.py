"""The command line: what it shows, how it fails, and that it starts without what it does not need."""

import shlex
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

import esft
from esft.errors import EXIT_INTERNAL
from esft_cli.app import build_app
from esft_cli.local import resume_command
from esft_cli.observe import is_folder
from esft_cli.outside import MissingPackageError, load_for_cluster, register_outside, summary_of
from esft_cli.unexpected import unexpected


def esft_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esft_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command_without_loading_any() -> None:
    code = (
        "import sys; sys.argv = ['esft', '--help']\n"
        "from esft_cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'redis', 'pydantic', 'kubernetes', 'matplotlib') if name in sys.modules])\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in ("run", "validate", "status", "logs", "plot", "export", "make-model"):
        assert f"  {command} " in shown
    assert shown.splitlines()[-1] == "[]"


def test_version() -> None:
    assert CliRunner().invoke(build_app([]), ["--version"]).output == f"esft {esft.__version__}\n"


def test_an_error_is_one_line_and_its_exit_code(tmp_path: Path) -> None:
    done = esft_command("status", str(tmp_path))
    assert done.returncode == EXIT_INTERNAL
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}: holds no run. Fix: ")
    assert done.stderr.count("\n") == 1


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


def test_the_summary_of_an_outside_command_is_read_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heavy_commands.py").write_text(
        'import a_package_that_is_not_there\n\ndef polish():\n    """Polish the model.\n\n    Slowly.\n    """\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    polish = EntryPoint("polish", "heavy_commands:polish", "esfinetune.commands")
    assert summary_of(polish) == "Polish the model."
    absent = EntryPoint("absent", "no_such_module:absent", "esfinetune.commands")
    assert summary_of(absent) == "From no_such_module."
    monkeypatch.setattr("esft_cli.outside.entry_points", lambda **_: [polish])
    with pytest.raises(MissingPackageError, match=r"needs a_package_that_is_not_there.*esfinetune\[worker\]"):
        register_outside(build_app([]), ["polish"])


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


def test_a_cluster_needs_the_operators_package(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = EntryPoint("status", "a_package_that_is_not_there:status", "esfinetune.cluster")
    for found in ([absent], []):
        monkeypatch.setattr("esft_cli.outside.entry_points", lambda found=found, **_: found)
        with pytest.raises(MissingPackageError, match=r"`esft status` needs .*esfinetune\[operator\]"):
            load_for_cluster("status")
