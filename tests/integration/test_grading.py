"""The grading process with rewards that misbehave in every way we could think of; all processes are real."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from esft.errors import EXIT_INTERNAL, EXIT_SPEC
from esft.spec import DataSpec, TaskSpec
from esft_worker.grading import Grader, GradingProcessError
from esft_worker.tasks import Example, Grade, TaskError, build_task
from misbehaving_rewards import REWARDS, TIMEOUT, exit_of, grade, grading, pid_of, pipe, task_of

# A process or pipe that is not closed warns when it is collected, which pytest makes an error.
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("error::ResourceWarning")]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write the rewards' module; the grading process finds it because it takes over the worker's path."""
    (tmp_path / "rewards.py").write_text(REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "rewards.py"
    sys.modules.pop("rewards", None)


@pytest.mark.usefixtures("module")
class TestGrades:
    def test_are_those_of_the_examples_in_order(self):
        with grading() as grader:
            train = grader.submit("train", [5, 0, 2], ["place"] * 3)
            test = grader.submit("test", [3], ["place"])
            assert train.result(TIMEOUT) == [Grade(5.0, 0.0), Grade(0.0, 0.0), Grade(2.0, 0.0)]
            assert test.result(TIMEOUT) == [Grade(3.0, 1.0)]
            assert grader.submit("train", [], []).result(TIMEOUT) == []

    def test_of_integers_and_booleans_are_floats(self):
        with grading() as grader:
            (result,) = grade(grader, "number")
        assert result == Grade(1.0, 1.0)
        assert type(result.reward) is type(result.score) is float

    def test_of_any_text(self):
        texts = ["\ud800", "\0\n\r\u2028\x1b", "é", "x" * 2_000_000]
        with grading() as grader:
            results = grade(grader, *(f"length {text}" for text in texts))
        assert results == [Grade(float(len(text)), float(sum(map(ord, text)))) for text in texts]

    def test_come_from_another_process_and_session(self):
        with grading() as grader:
            (result,) = grade(grader, "process")
        assert int(result.reward) != os.getpid()
        assert int(result.score) != os.getsid(0)

    def test_leave_this_process_free(self, tmp_path):
        with grading() as grader:
            meeting = pipe(tmp_path / "meeting")
            future = grader.submit("train", [0], [f"wait {meeting}"])
            assert meeting.read_text() == "waiting"
            assert not future.done()
            meeting.write_text("0.25")
            assert future.result(TIMEOUT) == [Grade(0.25, 0.0)]

    def test_are_not_disturbed_by_what_the_reward_prints(self, capfd):
        with grading() as grader:
            assert grade(grader, "noise", "number") == [Grade(1.0, 1.0)] * 2
        output, errors = capfd.readouterr()
        assert output == ""
        assert sorted(errors.split()) == ["echoed", "printed", "written"]

    def test_may_use_signals(self):
        with grading() as grader:
            assert grade(grader, "alarm") == [Grade(0.5, 0.0)]

    def test_are_asked_for_with_indices_that_exist(self):
        with grading() as grader:
            for places, completions in (([8], ["place"]), ([-1], ["place"]), ([0, 1], ["place"])):
                with pytest.raises(ValueError, match="examples of train"):
                    grader.submit("train", places, completions)


@pytest.mark.usefixtures("module")
class TestABadReward:
    @pytest.mark.parametrize(
        ("completion", "message"),
        [
            ("fail", "spec.task.name: rewards:Patient raised ValueError: first second xxx"),
            ("exit", "spec.task.name: rewards:Patient raised SystemExit: 3 on example 1 of spec.task.train"),
            ("unheard_of", "spec.task.name: rewards:Patient raised AttributeError: 'Patient' object has no"),
            ("nan", "spec.task.name: rewards:Patient gave nan as reward on example 1 of spec.task.train"),
            (
                "infinite",
                "spec.task.name: rewards:Patient gave -inf as score on example 1 of spec.task.train",
            ),
            ("text", "spec.task.name: rewards:Patient gave '1' as reward on example 1 of spec.task.train"),
            ("huge", "spec.task.name: rewards:Patient gave 1000000"),
        ],
    )
    def test_is_named_in_one_line_and_the_process_goes_on(self, completion, message):
        with grading() as grader:
            before = pid_of(grader)
            with pytest.raises(TaskError) as error:
                grade(grader, "place", completion)
            assert pid_of(grader) == before
        text = str(error.value)
        assert text.startswith(message)
        assert "on example 1 of spec.task.train. Fix: " in text
        assert "\n" not in text
        assert len(text) < 600
        assert error.value.exit_code == EXIT_SPEC

    def test_that_raises_has_its_traceback_in_the_log(self, capfd):
        with grading() as grader, pytest.raises(TaskError):
            grade(grader, "fail")
        assert 'raise ValueError("first' in capfd.readouterr().err

    def test_that_is_no_grade(self):
        with grading("NoGrade") as grader, pytest.raises(TaskError, match=r"gave no Grade, but 1\.0, on ex"):
            grade(grader, "")

    @pytest.mark.parametrize("completion", ["hang", "backtrack"])
    def test_that_hangs_is_ended_and_shown(self, completion, tmp_path, capfd):
        with grading("Hasty") as grader:
            before = pid_of(grader)
            with exit_of(before) as has_ended:
                with pytest.raises(
                    TaskError,
                    match=r"Hasty took more than 0\.5 s to grade 2 completions of spec\.task\.train",
                ):
                    grade(grader, "place", f"{completion} {tmp_path}/pid")
                assert has_ended(0)
            assert pid_of(grader) != before
        assert f"in {completion}" in capfd.readouterr().err

    def test_that_hangs_frozen_is_killed(self):
        with grading("Hasty") as grader:
            os.kill(pid_of(grader), signal.SIGSTOP)
            with pytest.raises(TaskError, match=r"took more than 0\.5 s"):
                grade(grader, "place")
            assert grade(grader, "place") == [Grade(0.0, 0.0)]

    def test_that_leaves_a_process_holding_the_pipe(self, tmp_path):
        with grading("Hasty") as grader:
            with pytest.raises(TaskError, match=r"took more than 0\.5 s"):
                grade(grader, f"leave {tmp_path}/pid")
            assert grade(grader, "place") == [Grade(0.0, 0.0)]
        left = int((tmp_path / "pid").read_text())
        try:
            with exit_of(left) as has_ended:
                assert has_ended(TIMEOUT)
        except ProcessLookupError:
            pass  # ended and reaped before we looked


@pytest.mark.usefixtures("module")
class TestADeadProcess:
    def test_is_replaced_and_the_batch_graded_again(self, tmp_path):
        with grading() as grader:
            before = pid_of(grader)
            assert grade(grader, "place", f"die_once {tmp_path}/died") == [Grade(0.0, 0.0), Grade(1.0, 1.0)]
            assert pid_of(grader) != before

    def test_between_batches_is_replaced(self):
        with grading() as grader:
            before = pid_of(grader)
            with exit_of(before) as has_ended:
                os.kill(before, signal.SIGKILL)
                assert has_ended(TIMEOUT)
            assert pid_of(grader) != before

    def test_twice_is_an_error_that_another_node_may_not_have(self):
        with grading() as grader:
            with pytest.raises(GradingProcessError) as error:
                grade(grader, "die")
            assert grade(grader, "place") == [Grade(0.0, 0.0)]
        assert "was ended by signal 9 (Killed) to grade 1 completions of spec.task.train, twice" in str(
            error.value
        )
        assert error.value.exit_code == EXIT_INTERNAL


class TestStart:
    @pytest.mark.usefixtures("module")
    def test_is_what_the_first_batch_needs(self):
        with grading() as grader:
            assert grader.start().result(TIMEOUT) is None
            before = pid_of(grader)
            assert grader.start().result(TIMEOUT) is None
            assert pid_of(grader) == before

    def test_of_a_task_that_only_the_worker_has(self, module):
        task = task_of()
        _, examples = build_task(task)
        module.unlink()
        with Grader(task, examples) as grader:
            for future in (grader.start(), grader.submit("train", [0], ["place"])):
                with pytest.raises(
                    TaskError, match=r"^spec\.task\.name: importing rewards .*No module named"
                ):
                    future.result(TIMEOUT)

    @pytest.mark.usefixtures("module")
    def test_of_a_task_whose_examples_vary(self):
        task = task_of("Fickle")
        with Grader(task, build_task(task)[1]) as grader:
            for future in (grader.start(), grader.submit("train", [0], ["place"])):
                with pytest.raises(TaskError, match=r"^spec\.task\.name: rewards:Fickle made other examples"):
                    future.result(TIMEOUT)

    def test_of_the_built_in_task(self):
        task = TaskSpec(
            name="countdown",
            options={"numbers": [3], "style": "compact"},
            train=DataSpec(size=4),
            test=DataSpec(size=4, seed=1),
        )
        _, examples = build_task(task)
        example: Example = examples.test[2]
        wrong = "+".join(map(str, example.data["numbers"]))
        with Grader(task, examples) as grader:
            grades = grader.submit("test", [2, 2], [wrong, "?"]).result(TIMEOUT)
        assert [result.reward for result in grades] == pytest.approx([0.1, 0.0])

    def test_needs_no_torch(self):
        code = """
            import sys
            import esft_worker.grading, esft_worker.tasks.grading_process, esft_worker.tasks.countdown
            print(sorted({"torch", "transformers", "numpy"} & sys.modules.keys()))
        """
        output = subprocess.check_output([sys.executable, "-c", textwrap.dedent(code)], text=True)
        assert output.strip() == "[]"


@pytest.mark.usefixtures("module")
class TestTheEnd:
    def test_leaves_nothing(self):
        gc.collect()
        before = _open_files()
        with grading() as grader:
            pid = pid_of(grader)
        grader.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        del grader
        gc.collect()
        assert _open_files() == before

    def test_before_the_start(self):
        task = task_of()
        grader = Grader(task, build_task(task)[1])
        grader.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            grader.start()

    def test_cancels_what_is_not_graded(self, tmp_path):
        with grading() as grader:
            meeting = pipe(tmp_path / "meeting")
            busy = grader.submit("train", [0], [f"hang {meeting}"])
            waiting = grader.submit("train", [0], ["place"])
            with exit_of(pid := int(meeting.read_text())) as has_ended:
                grader.close()
                assert has_ended(0)
        for future in (busy, waiting):
            with pytest.raises(CancelledError):
                future.result(0)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_is_not_brought_by_ctrl_c(self):
        with grading() as grader:
            pid = pid_of(grader)
            os.kill(pid, signal.SIGINT)
            assert pid_of(grader) == pid

    @pytest.mark.parametrize(
        ("name", "act"),
        [("Patient", "process"), ("Patient", "hang"), ("Hasty", "backtrack")],
        ids=["idle", "busy", "stuck"],
    )
    def test_comes_when_the_worker_is_killed(self, name, act, tmp_path, module):
        meeting = pipe(tmp_path / "meeting")
        worker = f"""
            import sys
            sys.path.insert(0, {str(module.parent)!r})
            from esft_worker.grading import Grader
            from esft.spec import DataSpec, TaskSpec
            from esft_worker.tasks import build_task

            task = TaskSpec(name="rewards:{name}", train=DataSpec(size=8))
            grader = Grader(task, build_task(task)[1])
            grader.submit("train", [0], ["{act} {meeting}"])
            if "{act}" == "process":
                (grade,) = grader.submit("train", [0], ["process"]).result()
                with open("{meeting}", "w") as file:
                    file.write(str(int(grade.reward)))
            sys.stdin.read()
        """
        with (
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(worker)], stdin=subprocess.PIPE
            ) as process,
            exit_of(int(meeting.read_text())) as has_ended,
        ):
            process.kill()
            assert has_ended(TIMEOUT / 2)


def _open_files():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())
