"""The command line: what it shows, how it fails, and that it starts without what it does not need."""

import shlex
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

import esft
from esft.cli.app import build_app
from esft.cli.local import resume_command
from esft.cli.outside import MissingPackageError, register_outside, summary_of
from esft.cli.unexpected import unexpected
from esft.errors import EXIT_INTERNAL


def esft_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "esft.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command_without_loading_any() -> None:
    code = (
        "import sys; sys.argv = ['esft', '--help']\n"
        "from esft.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'redis', 'pydantic', 'matplotlib') if name in sys.modules])\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for command in ("run", "validate", "status", "plot", "export", "make-model"):
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
    monkeypatch.setattr("esft.cli.outside.entry_points", lambda **_: [polish])
    with pytest.raises(MissingPackageError, match=r"needs a_package_that_is_not_there.*esfinetune\[worker\]"):
        register_outside(build_app([]), ["polish"])
