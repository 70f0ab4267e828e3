"""Reading real files."""

import os
from pathlib import Path

import pytest

from esft.document import DocumentError, load

pytestmark = pytest.mark.integration

GOOD = """\
apiVersion: esfinetune.dev/v1alpha1
kind: ESFineTune
metadata: {name: x}
spec:
  model: {source: "file://./model"}
  task: {name: countdown, train: {size: 2}}
"""


def problem(path: Path) -> str:
    with pytest.raises(DocumentError) as caught:
        load(path)
    return str(caught.value)


def test_reads_a_file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(path).spec.model.source == f"file://{tmp_path}/model"
    assert load(path, ["suspend=true"]).spec.suspend


def test_a_relative_name_counts_from_where_one_stands(tmp_path, monkeypatch):
    (tmp_path / "job.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load(Path("job.yaml")).spec.model.source == f"file://{tmp_path}/model"


def test_no_file(tmp_path):
    path = tmp_path / "none.yaml"
    assert problem(path) == f"{path}: there is no such file. Fix: check the path"


def test_a_directory(tmp_path):
    assert problem(tmp_path) == f"{tmp_path}: is a directory. Fix: name the YAML file in it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    assert "cannot be read (Permission denied)" in problem(path)


def test_a_file_below_a_file(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    assert "cannot be read (Not a directory)" in problem(path / "x")


def test_not_utf_8(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"kind: ESFineTune\nname: caf\xe9\n")
    assert problem(path) == f"{path}:2: is not text in UTF-8. Fix: save the file as UTF-8"


def test_too_large(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"#" * (2**20 + 1))
    assert problem(path) == f"{path}: is larger than 1 MiB. Fix: name the YAML file of a run"
