"""The table of rules as pydantic applies it; the API server is asked the same in tests/cluster/test_crd.py."""

import pytest
from pydantic import ValidationError

from crd_parts import changed, pydantic_s
from esft.problems import problems_of
from esft.spec import ESFineTuneSpec, rules_by_path
from rule_examples import EXAMPLES, Example, rules_told_by


def test_every_rule_has_an_example() -> None:
    told = {(path, id(rule)) for example in EXAMPLES for path, rule in rules_told_by(example)}
    assert told == {(path, id(rule)) for path, rule in rules_by_path()}


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_rule_that_is_kept_lets_pass(example: Example) -> None:
    assert pydantic_s(changed(example.kept))


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_a_rule_that_is_broken_names_field_values_and_fix(example: Example) -> None:
    with pytest.raises(ValidationError) as caught:
        pydantic_s(changed(example.broken))
    (problem,) = problems_of(caught.value, ESFineTuneSpec, prefix=("spec",))
    assert (problem.path, problem.message) == (f"spec.{example.field}", example.message)
    assert problem.fix
    assert not set("[]|") & set(problem.message + problem.fix)


@pytest.mark.parametrize(("path", "rule"), list(rules_by_path()))
def test_nothing_is_left_of_a_template_without_values(path, rule) -> None:
    said = rule.without_values()
    assert not set("[]|") & set(said.message + said.fix)
    assert not said.message.endswith((" ", ".", ","))
    assert rule.sentence.startswith(("`", "A "))
    assert rule.sentence.endswith(".")
