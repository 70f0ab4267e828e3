import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.document import DocumentError, parse
from esft.errors import EXIT_SPEC
from esft.spec import ESFineTune

FOLDER = Path("/home/ada/runs")
HEAD = """\
apiVersion: esfinetune.dev/v1alpha1
kind: ESFineTune
metadata: {name: countdown}
"""
SPEC = """\
spec:
  model: {source: "tiny://countdown"}
  task:
    name: countdown
    train: {size: 200}
"""
GOOD = HEAD + SPEC


def read(text: str, *overrides: str) -> ESFineTune:
    return parse(text, source="job.yaml", folder=FOLDER, overrides=overrides)


def errors(text: str, *overrides: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        read(text, *overrides)
    assert caught.value.exit_code == EXIT_SPEC
    lines = str(caught.value).split("\n")
    assert all(". Fix: " in line for line in lines)
    return lines


def test_reads_a_run():
    run = read(GOOD)
    assert run.metadata.name == "countdown"
    assert run.spec.task.train.size == 200
    assert run.spec.evolution.population == 30


def test_a_problem_names_file_line_field_value_and_fix():
    text = GOOD + "  evolution:\n    generations: 10\n    sigma: -1\n"
    (line,) = errors(text)
    assert line == (
        "job.yaml:11: spec.evolution.sigma: must be greater than 0, got -1. "
        "Fix: use a number greater than 0 and at most 1 (default 0.001)"
    )


def test_tells_all_problems_by_line():
    text = HEAD + (
        "spec:\n"
        "  suspend: 1\n"
        "  evolution:\n"
        "    populaton: 30\n"
        '    sigma: "0.1"\n'
        "    sampling: antitetic\n"
        "  model: {source: qwen}\n"
        "  task: {train: {size: 0}}\n"
    )
    assert [(line.split(": ")[0], line.split(": ")[1]) for line in errors(text)] == [
        ("job.yaml:5", "spec.suspend"),
        ("job.yaml:7", "spec.evolution.populaton"),
        ("job.yaml:8", "spec.evolution.sigma"),
        ("job.yaml:9", "spec.evolution.sampling"),
        ("job.yaml:10", "spec.model.source"),
        ("job.yaml:11", "spec.task.name"),
        ("job.yaml:11", "spec.task.train.size"),
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "  evolution: {populaton: 4}",
            "spec.evolution.populaton: is not a field. Fix: did you mean `population`?",
        ),
        ("  population: 4", "Fix: did you mean `spec.evolution.population`?"),
        ("  evolution: {learning_rate: 4}", "Fix: did you mean `learningRate`?"),
        ("  stop: {xyzzy: 4}", "Fix: remove it; the fields here are targetScore, patience"),
        ('  evolution: {sigma: "0.1"}', "Fix: remove the quotes: `sigma: 0.1`"),
        ("  redis: {urlSecretRef: {name: 5}}", 'must be text, got 5. Fix: put it in quotes: `name: "5"`'),
        ("  decoding:", "is empty; it must be an object. Fix: remove the line to have the default"),
        ("  evolution: {anchor: 3}", "must be an object, got 3. Fix: give an object with l2"),
        ("  evolution: {sampling: anti}", "Fix: write `sampling: antithetic`"),
        (
            "  evolution: {parameters: {include: [a, '(']}}",
            "spec.evolution.parameters.include[1]: is not a regular",
        ),
        ("  evolution: {population: 3, sampling: antithetic}", "spec.evolution.population: must be even"),
        ("  evolution: {sigma: .nan}", "spec.evolution.sigma: must be a finite number, got .nan"),
        ("  evolution: {sigma: !!binary aaaa}", "unsupported YAML tag tag:yaml.org,2002:binary. Fix: remove"),
        ("  workers: {template: !mine {}}", "spec.workers.template: has the unsupported YAML tag !mine"),
        (
            "  evolution: {sigma: 1, sigma: 2}",
            "spec.evolution.sigma: is given twice, first on line 9. Fix: keep one",
        ),
        ("  evolution: {? [a] : 1}", "spec.evolution: has a key on line 9 that is not text"),
        ("  evolution: {<<: 5}", "spec.evolution: merges something on line 9 that is no object"),
    ],
)
def test_says_what_to_do(spec, message):
    (line,) = errors(GOOD + spec + "\n")
    assert line.startswith("job.yaml:9: ")
    assert message in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "job.yaml: is empty"),
        ("---\n# nothing\n---\n", "job.yaml: is empty"),
        ("hello", "job.yaml:1: is not an object with fields"),
        ("- a\n", "job.yaml:1: is not an object with fields"),
        (GOOD.replace("kind: ESFineTune", "kind: Job"), 'job.yaml:2: kind: must be ESFineTune, got "Job"'),
        (GOOD.replace("v1alpha1", "v1"), "job.yaml:1: apiVersion: must be esfinetune.dev/v1alpha1"),
        (SPEC, "job.yaml:1: kind: is required. Fix: write `kind: ESFineTune`"),
        ("kind: A\n---\nkind: B\n", "job.yaml: has no ESFineTune; the kinds of its documents are A, B"),
        (f"{GOOD}---\n{GOOD}", "job.yaml:10: has a second ESFineTune"),
        ("a: b: c\n", "job.yaml:1: is not YAML: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "job.yaml:2: is not YAML"),
        ("a: [1\nb: 2\n", "job.yaml:2: is not YAML"),
        ("a: *b\n", "job.yaml:1: is not YAML: found undefined alias 'b'"),
        ("a: 1\nb: \0\n", "job.yaml:2: has a character that YAML does not allow"),
        ("[" * 2000, "job.yaml: is nested too deeply"),
        (GOOD + "  workers: {template: " + "{a: " * 70 + "}" * 71, "job.yaml: is nested more than 64 levels"),
        (GOOD + "  workers: {template: &a {b: *a}}", "job.yaml: is nested more than 64 levels"),
    ],
)
def test_a_file_of_the_wrong_kind_has_one_problem(text, message):
    (line,) = errors(text)
    assert line.startswith(message)


def test_a_few_lines_cannot_grow_without_end():
    bomb = "  workers:\n    template:\n      a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 9):
        bomb += f"      a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    assert errors(GOOD + bomb) == ["job.yaml: has more than 100000 values. Fix: make it smaller"]


def test_other_documents_are_left_alone():
    other = "apiVersion: v1\nkind: Secret\ndata: !custom {}\n"
    assert read(f"{other}---\n{GOOD}---\n{other}") == read(GOOD)


def test_a_line_is_that_of_the_file_whatever_stands_before():
    text = f"kind: Secret\n---\n{GOOD}  suspend: 1\n"
    assert errors(text)[0].startswith("job.yaml:11: spec.suspend")


def test_anchors_and_merge_keys_work_as_in_kubectl():
    text = HEAD + (
        "spec:\n"
        '  model: {source: "tiny://x"}\n'
        "  task:\n"
        "    name: countdown\n"
        "    train: &split {size: 10, seed: 7}\n"
        "    test: {<<: *split, seed: 8}\n"
        "    options: {<<: [{a: 1, b: 1}, {b: 2, c: 2}], c: 3}\n"
    )
    task = read(text).spec.task
    assert (task.test.size, task.test.seed) == (10, 8)
    assert task.options == {"a": 1, "b": 1, "c": 3}


def test_paths_are_relative_to_the_file():
    text = HEAD + (
        'spec: {model: {source: "file://./qwen"}, checkpoint: {storage: {uri: "file://../out"}},\n'
        '       task: {name: x, train: {source: "file:///data/a.jsonl"}, test: {source: "file://./b/c.jsonl"}}}\n'
    )
    spec = read(text, "model.source=file://../base").spec
    assert spec.model.source == "file:///home/ada/base"
    assert spec.checkpoint.storage.uri == "file:///home/ada/out"
    assert spec.task.train.source == "file:///data/a.jsonl"
    assert spec.task.test.source == "file:///home/ada/runs/b/c.jsonl"


def test_overrides():
    spec = read(
        GOOD,
        "evolution.sigma=2e-3",
        "spec.suspend=yes",
        "task.options.numbers=[3, 4]",
        "task.test.size=10",
        "task.test.seed=1",
        "monitoring.kl=null",
        "task.train.size=7",
        "stop.patience=",
        "workers.template.spec.nodeSelector.gpu=h100",
    ).spec
    assert spec.evolution.sigma == 0.002
    assert spec.suspend is True
    assert spec.task.options == {"numbers": [3, 4]}
    assert (spec.task.test.size, spec.task.test.seed) == (10, 1)
    assert spec.monitoring.kl is None
    assert spec.task.train.size == 7
    assert spec.stop.patience is None
    assert spec.workers.template == {"spec": {"nodeSelector": {"gpu": "h100"}}}


def test_the_last_override_wins():
    assert read(GOOD, "evolution.seed=1", "evolution.seed=2").spec.evolution.seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evolution.sigma", "is not FIELD=VALUE"),
        ("=1", "is not FIELD=VALUE"),
        ("evolution..sigma=1", "is not FIELD=VALUE"),
        ("evolution.sigm=1", "spec.evolution.sigm: is not a field. Fix: did you mean `sigma`?"),
        ("sigma=1", "spec.sigma: is not a field. Fix: did you mean `spec.evolution.sigma`?"),
        ("metadata.name=x", "spec.metadata: is not a field"),
        ("evolution.sigma.x=1", "spec.evolution.sigma.x: is not a field"),
        ("evolution.parameters.include.0=x", "spec.evolution.parameters.include.0: is not a field"),
        ("evolution.learning_rate=1", "Fix: did you mean `learningRate`?"),
        ("evolution.sigma=-1", "spec.evolution.sigma: must be greater than 0, got -1"),
        ("evolution.sigma=[1", "has a value that is not YAML: [1"),
        ("evolution={sigma: 1, sigma: 2}", "spec.evolution.sigma: is given twice"),
        ("task.train.size.x=1", "spec.task.train.size.x: is not a field"),
        ("evolution={sigma: -1}", "spec.evolution.sigma: must be greater than 0"),
        ("task={}", "spec.task.name: is required"),
    ],
)
def test_a_wrong_override_is_told_as_such(override, message):
    line = errors(GOOD, override)[0]
    assert line.startswith(f"--set {override}: ")
    assert message in line


def test_an_override_cannot_go_through_a_value():
    (line,) = errors(GOOD + "  workers: {template: {spec: [1]}}", "workers.template.spec.a=1")
    assert "spec.workers.template.spec: is [1], not an object" in line


def test_an_override_repairs_the_file():
    assert read(GOOD + "  evolution: {sigma: -1}", "evolution.sigma=1").spec.evolution.sigma == 1


def test_tells_all_wrong_overrides():
    assert len(errors(GOOD, "a=1", "b=2", "suspend=true")) == 2


@given(st.text(alphabet=st.sampled_from("aspec:{}[]&*!<>|-? \n'\"#%0.1,"), max_size=80))
def test_any_text_is_read_or_refused(text):
    for whole in (text, GOOD + "  workers: {template: " + text):
        with contextlib.suppress(DocumentError):
            read(whole)


@given(st.text(max_size=40))
def test_any_override_is_applied_or_refused(text):
    for override in (text, f"task.options.{text}", f"evolution.sigma={text}"):
        with contextlib.suppress(DocumentError):
            read(GOOD, override)
