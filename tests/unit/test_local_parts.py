"""Small parts of a local run: GPUs, logs of workers, the model folder."""

import json
from pathlib import Path

import pytest

from esft_local.devices import available_gpus, worker_environments
from esft_local.files import RunFolderError
from esft_local.model import checkpoint_path, checkpoint_state, publish_model
from esft_local.worker_log import LogTail, describe, last_error


@pytest.mark.parametrize(
    ("listed", "names"),
    [("0,1", ("0", "1")), ("", ()), ("-1", ()), ("2, GPU-ab", ("2", "GPU-ab")), ("0,-1,1", ("0",))],
)
def test_visible_devices_are_obeyed(tmp_path: Path, listed: str, names: tuple[str, ...]) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    assert available_gpus({"CUDA_VISIBLE_DEVICES": listed}, nvidia=tmp_path) == names


def test_gpus_are_counted_where_none_are_named(tmp_path: Path) -> None:
    assert available_gpus({}, nvidia=tmp_path / "absent") == ()
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / bus).mkdir()
    assert available_gpus({}, nvidia=tmp_path) == ("0", "1")


def test_gpus_are_dealt_out_in_turn() -> None:
    environments = worker_environments({"A": "b"}, ("0", "1"), 3)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == ["0", "1", "0"]
    assert all(each["A"] == "b" for each in environments)
    assert worker_environments({"A": "b"}, (), 2) == [{"A": "b"}] * 2


def test_a_tail_reads_whole_lines_once(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    log.write_text('{"event": "of an earlier session"}\n')
    tail = LogTail(log)
    with log.open("a") as file:
        file.write('{"event": "making", "done": 1, "total": 4}\nnot JSON\n[1]\n{"eve')
        file.flush()
        assert [describe(event) for event in tail.events()] == ["making 1/4"]
        file.write('nt": "ready"}\n')
        file.flush()
        assert [describe(event) for event in tail.events()] == ["ready"]
    assert tail.events() == []


def test_a_tail_waits_for_its_file(tmp_path: Path) -> None:
    tail = LogTail(tmp_path / "worker-0.log")
    assert tail.events() == []
    (tmp_path / "worker-0.log").write_text('{"event": "ready"}\n')
    assert len(tail.events()) == 1


def test_the_last_error_is_this_incarnations(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    old = json.dumps({"level": "error", "event": "old trouble"}) + "\n"
    new = json.dumps({"level": "error", "message": "new trouble"}) + '\n{"level": "info", "event": "bye"}\n'
    log.write_text(old + new)
    assert last_error(log, start=len(old)) == "new trouble"
    log.write_text(old + "Killed by the kernel\n\n")
    assert last_error(log, start=len(old)) == "Killed by the kernel"
    assert last_error(log, start=log.stat().st_size) is None
    assert last_error(tmp_path / "absent.log", start=0) is None


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = checkpoint_path(tmp_path / "checkpoints", 50)
    (path / "nested").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "esft_master.safetensors", "nested/chat.jinja"):
        (path / name).write_text(name)
    (path / "state.json").write_text('{"generation": 50, "digest": "0123456789abcdef"}')
    return path


def test_the_model_is_the_checkpoint_without_state(tmp_path: Path, checkpoint: Path) -> None:
    assert checkpoint.name == "generation-000050"
    model = tmp_path / "model"
    publish_model(checkpoint, model)
    files = sorted(str(each.relative_to(model)) for each in model.rglob("*") if each.is_file())
    assert files == ["config.json", "model.safetensors", "nested/chat.jinja"]
    assert (model / "model.safetensors").samefile(checkpoint / "model.safetensors")
    assert checkpoint_state(checkpoint)["digest"] == "0123456789abcdef"


def test_an_older_model_is_replaced(tmp_path: Path, checkpoint: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "old.bin").touch()
    publish_model(checkpoint, model)
    assert not (model / "old.bin").exists()
    assert (model / "config.json").read_text() == "config.json"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoints", "model"]


def test_an_incomplete_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a complete checkpoint"):
        checkpoint_state(tmp_path / "generation-000001")
