import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft.errors import SpecError
from esft_worker.tasks import Example, Message, Split, load_examples, load_task
from esft_worker.tasks.countdown import compact_prompt, format_score, last_answer

EXAMPLE = Example(prompt="", data={"numbers": (3, 5, 8), "target": 23})
RIGHT = "3*5+8"


def grade(style, completion, example=EXAMPLE):
    return load_task("countdown", {"style": style}).grade(example, completion)


@pytest.mark.parametrize(
    ("completion", "form", "answer"),
    [
        ("<think>a</think>\n<answer>3*5+8</answer>", 1.0, 1.0),
        ("<think>a</think>\n<answer> (3 * 5) + 8 </answer>", 1.0, 1.0),
        ("<think>a\nb</think>\n<answer>3*5+8</answer>\n", 1.0, 1.0),
        ("<think></think>\n<answer></answer>", 1.0, 0.0),
        ("<think>a</think>\n<answer>3*8+5</answer>", 1.0, 0.0),
        ("<think>a</think><answer>3*5+8</answer>", 0.6, 1.0),
        ("<think>a</think>\n\n<answer>3*5+8</answer>", 0.6, 1.0),
        (" <think>a</think>\n<answer>3*5+8</answer>", 0.6, 1.0),
        ("<think>a</think>\n<answer>3*5+8</answer> done", 0.6, 1.0),
        ("<answer>3*5+8</answer>\n<think>a</think>", 0.6, 1.0),
        ("<answer>3*5+8</answer>", 0.5, 1.0),
        ("<think>a</think>", 0.1, 0.0),
        ("</think><think>", 0.0, 0.0),
        ("<think>a", 0.0, 0.0),
        ("<answer>3*5+8", 0.0, 0.0),
        ("3*5+8", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("<think></answer>", 0.0, 0.0),
        ("<think>a</think>\n<answer>1</answer>\n<answer>3*5+8</answer>", 1.0, 1.0),
        ("<think>a</think>\n<answer>3*5+8</answer>\n<answer>1</answer>", 1.0, 0.0),
        ("<answer><answer>3*5+8</answer>", 0.5, 0.0),
        ("<answer>3*5+8</answer><answer>1", 0.5, 1.0),
    ],
)
def test_the_papers_reward(completion, form, answer):
    result = grade("chat", completion)
    assert result.reward == pytest.approx(0.1 * form + answer, abs=1e-12)
    assert result.score == answer


@pytest.mark.parametrize(
    "answer",
    [
        "3*8+5",  # another value
        "3*5",  # a number is missing
        "3*5+8+8-8",  # a number too often
        "3*5+8+0",  # a number that is not given
        "35-8-4",
        "23",
        "3*5+8 = 23",
        "3×5+8",  # noqa: RUF001 - models write it
        "3*5+\n8",
        "8//3*5",
        "8**5-3",
        "3*5/(8-8)",
        "[3*5+8]",
        "three",
    ],
)
def test_wrong_answers(answer):
    assert grade("chat", f"<answer>{answer}</answer>").score == 0.0
    assert grade("compact", answer).score == 0.0


@pytest.mark.parametrize(
    ("numbers", "target", "answer", "score"),
    [
        ((3, 3, 8, 8), 24, "8/(3-8/3)", 1.0),  # exact, where floats give 23.999999999999989
        ((2, 2, 4), 4, "2*4/2", 1.0),
        ((2, 2, 4), 4, "4", 0.0),
        ((5, 3), 2, "-3+5", 1.0),
        ((5, 3), -2, "3-5", 1.0),
        ((1, 3), 0, "1/3", 0.0),
        ((1, 100_001), 0, "1/100001", 1.0),  # closer than 1e-5
        ((1, 99_999), 0, "1/99999", 0.0),
    ],
)
def test_numbers_and_tolerance(numbers, target, answer, score):
    example = Example(prompt="", data={"numbers": numbers, "target": target})
    assert grade("compact", answer, example).score == score


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("3*5+8", 1.1),
        (" 3 * 5 + 8", 1.1),
        ("3*8+5", 0.1),
        ("3*5", 0.1),
        ("1/0", 0.1),
        ("3*5+8 3*5+8", 0.0),
        ("3*5+8\n", 0.0),
        ("3*5+", 0.0),
        ("<answer>3*5+8</answer>", 0.0),
        ("", 0.0),
    ],
)
def test_compact_answers_are_bare(completion, reward):
    assert grade("compact", completion).reward == pytest.approx(reward)


def test_text_style_opens_the_reasoning_in_the_prompt():
    task = load_task("countdown", {"style": "text"})
    example = load_examples(task, train=Split("train", size=1), test=None).train[0]
    assert isinstance(example.prompt, str)
    assert example.prompt.endswith("\n<think>")
    assert task.grade(EXAMPLE, f"a</think>\n<answer>{RIGHT}</answer>").reward == pytest.approx(1.1)
    assert grade("chat", f"a</think>\n<answer>{RIGHT}</answer>").reward == pytest.approx(1.05)


def test_prompts():
    def first(style):
        task = load_task("countdown", {"style": style})
        return load_examples(task, train=Split("train", size=1, seed=0), test=None).train[0].prompt

    question = "Using the numbers [3 96 19], create an equation that equals 13. "
    chat, text = first("chat"), first("text")
    assert isinstance(chat, tuple)
    assert all(isinstance(message, Message) for message in chat)
    assert [message.role for message in chat] == ["system", "user"]
    assert chat[1].content.startswith(question)
    assert text.startswith(f"{chat[0].content}\n{chat[1].content}\n")
    assert first("compact") == "3 96 19 = 13 :"


def test_compact_prompt():
    assert compact_prompt([3, 5, 8], 16) == "3 5 8 = 16 :"


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "\n", "1", "+"]), max_size=12
    ).map("".join)
)
def test_form_is_that_of_the_papers_patterns(response):
    def found(pattern):
        return re.search(pattern, response, re.DOTALL) is not None

    if found(r"\A<think>.*</think>\n<answer>.*</answer>\n?\Z"):
        expected = 1.0
    else:
        expected = 0.1 * found(r"<think>.*?</think>") + 0.5 * found(r"<answer>.*?</answer>")
    assert format_score(response) == pytest.approx(expected)
    assert last_answer(response) == ["", *re.findall(r"<answer>(.*?)</answer>", response, re.DOTALL)][-1]


@given(st.text(max_size=200), st.sampled_from(["chat", "text", "compact"]))
def test_any_completion_has_a_grade(completion, style):
    result = grade(style, completion)
    assert 0.0 <= result.reward <= 1.1
    assert result.score in {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sytle": "chat"}, r"spec\.task\.options\.sytle: unknown option \(did you mean 'style'\?\)"),
        ({"style": "prose"}, r"spec\.task\.options\.style: input should be 'chat', 'text' or 'compact'"),
        ({"numbers": [3, 9]}, r"spec\.task\.options\.numbers\[1\]: input should be less than or equal to 6"),
        ({"numbers": []}, r"spec\.task\.options\.numbers: tuple should have at least 1 item"),
        ({"numbers": "3"}, r"spec\.task\.options\.numbers: input should be a valid array"),
        ({"maxNumber": "99"}, r"spec\.task\.options\.maxNumber: input should be a valid integer"),
        ({"maxTarget": 0}, r"spec\.task\.options\.maxTarget: input should be greater than or equal to 1"),
        (
            {"max_target": 5},
            r"spec\.task\.options\.max_target: unknown option \(did you mean 'maxTarget'\?\)",
        ),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(SpecError, match=message):
        load_task("countdown", options)


def test_all_wrong_options_are_told_at_once():
    with pytest.raises(SpecError, match=r"maxNumber.*maxTarget"):
        load_task("countdown", {"maxNumber": 0, "maxTarget": 0})
