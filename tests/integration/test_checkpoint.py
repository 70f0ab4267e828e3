"""Checkpoints on a real disk."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from esft.errors import VersionError
from esft.records import UpdateRecord
from esft_worker.checkpoint import CheckpointState, CheckpointStore, read_log, read_masters
from random_models import save_random_model

pytestmark = pytest.mark.integration

RECORD = UpdateRecord(0, 0.1, 0.5, -3, (1, -1), (0.0, 1.0))
MASTERS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3)}


def state_of(generation: int) -> CheckpointState:
    return CheckpointState(generation, f"{generation:016x}", "fingerprint")


def save(store: CheckpointStore, generation: int, *, writer: str = "w", keep: int = 2) -> Path:
    return store.save(
        state_of(generation),
        save_model=lambda folder: (Path(folder) / "config.json").write_text("{}"),
        masters=MASTERS,
        log=[RECORD] * generation,
        writer=writer,
        keep=keep,
    )


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path = save(CheckpointStore(tmp_path), 2)
    assert CheckpointState.read(path) == state_of(2)
    assert read_log(path) == [RECORD, RECORD]
    masters = read_masters(path)
    assert masters is not None
    assert torch.equal(masters["a"], MASTERS["a"])


def test_the_newest_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for generation in (5, 10, 100, 1_000_000):
        save(store, generation)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generation-000100", "generation-1000000"]
    assert [state.generation for _, state in store.candidates(fingerprint="fingerprint")] == [1_000_000, 100]


def test_how_many_are_kept_may_change(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for generation, keep in ((1, 3), (2, 3), (3, 3), (4, 1), (5, 2)):
        save(store, generation, keep=keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generation-000004", "generation-000005"]


@pytest.mark.parametrize("contract", [{}, {"format": 99, "noise": 1, "release": "9.9.9"}])
def test_a_checkpoint_of_another_version_is_refused_and_names_its_image(
    tmp_path: Path, contract: dict[str, object]
) -> None:
    """Where it is all there is: to begin anew instead would throw the run away."""
    store = CheckpointStore(tmp_path)
    state = {"generation": 4, "digest": "0" * 16, "fingerprint": "of another meaning"} | contract
    (save(store, 4) / "state.json").write_text(json.dumps(state))
    with pytest.raises(VersionError, match=f"image esfinetune/worker:{contract.get('release', '0.1.0')}"):
        store.candidates(fingerprint="fingerprint")
    save(store, 5)
    assert [state.generation for _, state in store.candidates(fingerprint="fingerprint")] == [5]


def test_what_a_killed_writer_left_is_no_checkpoint_and_goes(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    partial = tmp_path / ".generation-000005.dead"
    partial.mkdir()
    (partial / "state.json").write_text(state_of(5).to_json())
    assert store.candidates(fingerprint="fingerprint") == []
    save(store, 10)
    assert not partial.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"generation": 1}', "null"])
def test_a_damaged_state_is_passed_over(tmp_path: Path, content: str) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    path = save(store, 2)
    (path / "state.json").write_text(content)
    assert [state.generation for _, state in store.candidates(fingerprint="fingerprint")] == [1]


def test_two_writers_at_once_leave_one_whole_checkpoint(tmp_path: Path) -> None:
    """As when a backup task copies the checkpoint item: both are told that it is there."""
    together = threading.Barrier(2, timeout=10)
    paths = []

    def write(writer: str) -> None:
        def save_model(folder: str) -> None:
            (Path(folder) / "config.json").write_text("{}")
            together.wait()

        store = CheckpointStore(tmp_path)
        paths.append(
            store.save(state_of(3), save_model=save_model, masters={}, log=[], writer=writer, keep=2)
        )

    threads = [threading.Thread(target=write, args=(writer,)) for writer in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert paths == [tmp_path / "generation-000003"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["generation-000003"]


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from esft.errors import EsftError
from esft_worker.checkpoint import CheckpointState, CheckpointStore
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    CheckpointStore(Path(sys.argv[1])).save(
        CheckpointState(7, "0" * 16, "f"),
        save_model=lambda folder: None,
        masters={"weights": torch.zeros(100_000)},
        log=[],
        writer="w",
        keep=1,
    )
except EsftError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_disk_that_takes_no_more_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: both fail in the write, not before it."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 70, done.stderr
    assert "generation-000007 cannot be written" in done.stdout
    assert "Fix: free space" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_anyone_can_load_a_checkpoint_with_transformers(tmp_path: Path) -> None:
    source = save_random_model(tmp_path / "source")
    model = AutoModelForCausalLM.from_pretrained(source)
    tokenizer = AutoTokenizer.from_pretrained(source)

    def save_model(folder: str) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    path = CheckpointStore(tmp_path / "run").save(
        state_of(1), save_model=save_model, masters={"w": torch.zeros(1)}, log=[], writer="w", keep=1
    )
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1, "some users can read a part only"
    again = AutoModelForCausalLM.from_pretrained(path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(path).encode("1 + 2") == tokenizer.encode("1 + 2")
