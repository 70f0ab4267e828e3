import dataclasses
import errno
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from esft import document
from esft.errors import SpecError
from esft_worker import tiny
from esft_worker.engine import TransformersEngine
from esft_worker.tasks import Split, load_task
from esft_worker.tasks.countdown import Countdown
from esft_worker.tasks.countdown_instances import generate
from esft_worker.tiny_puzzles import ANSWER_TOKENS, IGNORED, VOCABULARY, Puzzles, make_tokenizer, solutions

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[2] / "examples" / "countdown-tiny.yaml"
QUICK = dataclasses.replace(
    tiny.RECIPES["countdown"],
    max_number=9,
    max_target=20,
    held_out_size=64,
    hidden_size=16,
    layers=1,
    heads=2,
    feed_forward_size=32,
    steps=12,
    batch_size=16,
    habit_steps=6,
    warmup_steps=2,
)


def ignore(_done, _total):
    pass


def hashes(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return built(tmp_path_factory.mktemp("tiny") / "model")


def built(directory, recipe=QUICK):
    tiny.build(directory, progress=ignore, recipe=recipe)
    return directory


def countdown(*, style="compact"):
    options = {"style": style, "numbers": [3], "maxNumber": 30, "maxTarget": 40}
    return load_task("countdown", options)


def test_same_recipe_gives_the_same_files_and_leaves_torch_as_it_was(quick, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    state = torch.get_rng_state()
    try:
        again = built(tmp_path / "again")
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert hashes(again) == hashes(quick)


def test_another_seed_gives_another_model(quick, tmp_path):
    again = built(tmp_path / "again", dataclasses.replace(QUICK, seed=1))
    assert hashes(again)["model.safetensors"] != hashes(quick)["model.safetensors"]


def test_files_load_as_any_causal_language_model(quick):
    model = AutoModelForCausalLM.from_pretrained(quick)
    tokenizer = AutoTokenizer.from_pretrained(quick)
    assert model.config.model_type == "llama"
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == VOCABULARY.index("<eos>")
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.encode("9 16 1 = 26 :") == [
        VOCABULARY.index(each) for each in ("9", "16", "1", "=", "26", ":")
    ]
    assert tokenizer.decode(tokenizer.encode("(5-1)*16")) == "( 5 - 1 ) * 16"


def test_engine_generates_with_it(quick):
    engine = TransformersEngine(
        quick,
        dtype="float32",
        device=torch.device("cpu"),
        max_new_tokens=ANSWER_TOKENS,
        temperature=0,
        batch_size=8,
    )
    examples = countdown().examples(Split("test", size=10, seed=1))
    rollout = engine.rollout(examples, seed=0)
    assert rollout.finite
    assert len(rollout.completions) == 10


def test_training_lowers_the_loss(quick, tmp_path):
    untrained = built(tmp_path / "model", dataclasses.replace(QUICK, steps=0, habit_steps=0))
    puzzles = Puzzles.enumerate(max_number=9, max_target=20, exclude=())
    inputs, answers = puzzles.draw(256, habit_share=0.5, generator=torch.Generator().manual_seed(7))
    assert loss_of(quick, inputs, answers) < 0.9 * loss_of(untrained, inputs, answers)


@torch.no_grad()
def loss_of(directory, inputs, answers):
    model = AutoModelForCausalLM.from_pretrained(directory)
    logits = model(input_ids=inputs).logits[:, -ANSWER_TOKENS:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED)
    return loss.item()


def test_every_generated_puzzle_is_taught_a_right_answer_that_fits():
    task = countdown()
    recipe = tiny.RECIPES["countdown"]
    for example in task.examples(Split("train", size=3000, seed=5)):
        known = solutions(example.data["numbers"], max_target=recipe.max_target)
        tokens = known[example.data["target"]].tokens
        assert len(tokens) < ANSWER_TOKENS
        assert task.grade(example, " ".join(tokens)).score == 1, (example, tokens)


def test_ways_are_all_the_combinations_that_give_a_target():
    known = solutions((1, 2, 3), max_target=40)
    counted = {
        target: sum(value == target for first in range(3) for value in _values_of_pair((1, 2, 3), first))
        for target in known
    }
    assert {target: solution.ways for target, solution in known.items()} == counted


def _values_of_pair(numbers, left_out):
    rest = [number for place, number in enumerate(numbers) if place != left_out]
    for inner in _values(*rest):
        yield from _values(inner, numbers[left_out])


def _values(x, y):
    larger, smaller = max(x, y), min(x, y)
    values = [larger + smaller, larger - smaller, larger * smaller]
    if larger % smaller == 0:
        values.append(larger // smaller)
    return [value for value in values if value > 0]


def test_excluded_puzzles_are_not_drawn():
    held_out = {
        instance.key for instance in generate(size=100, seed=1, counts=(3,), max_number=9, max_target=20)
    }
    everything = Puzzles.enumerate(max_number=9, max_target=20, exclude=())
    puzzles = Puzzles.enumerate(max_number=9, max_target=20, exclude=held_out)
    assert len(everything.targets) - len(puzzles.targets) == len(held_out)
    inputs, _ = puzzles.draw(2000, habit_share=0.5, generator=torch.Generator().manual_seed(0))
    rows = [[VOCABULARY[index] for index in row] for row in inputs.tolist()]
    drawn = {(tuple(sorted(map(int, row[:3]))), int(row[4])) for row in rows}
    assert not drawn & held_out


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0.0, 0.3), (0.7, 0.65, 0.85), (1.0, 1.0, 1.0)])
def test_habit_share_of_the_answers_are_plain_sums(share, fewest, most):
    puzzles = Puzzles.enumerate(max_number=9, max_target=20, exclude=())
    inputs, answers = puzzles.draw(1000, habit_share=share, generator=torch.Generator().manual_seed(0))
    signs = answers[:, [1, 3]] == VOCABULARY.index("+")
    in_order = answers[:, 0:5:2] == inputs[:, :3]
    sums = (signs.all(1) & in_order.all(1)).float().mean().item()
    assert fewest <= sums <= most
    ended = (answers == VOCABULARY.index("<eos>")).sum(1)
    assert ended.eq(1).all()


def test_cache_builds_once_for_each_recipe(tmp_path):
    steps = []
    recipes = {"quick": QUICK, "other": dataclasses.replace(QUICK, seed=1)}

    def count(done, total):
        steps.append((done, total))

    first = tiny.cached("quick", tmp_path / "cache", count, recipes=recipes)
    assert steps[0] == (1, QUICK.steps)
    assert steps[-1] == (QUICK.steps, QUICK.steps)
    steps.clear()
    assert tiny.cached("quick", tmp_path / "cache", count, recipes=recipes) == first
    assert not steps
    assert tiny.cached("other", tmp_path / "cache", count, recipes=recipes) != first
    assert len(steps) == QUICK.steps


def test_failed_build_leaves_nothing_that_counts(tmp_path):
    def fail(done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.cached("quick", tmp_path, fail, recipes={"quick": QUICK})
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert (tiny.cached("quick", tmp_path, ignore, recipes={"quick": QUICK}) / "config.json").is_file()


def test_without_locks_the_first_build_counts(tmp_path, monkeypatch):
    """As on a network file system that has none."""

    def no_locks(_file, _operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(tiny.fcntl, "flock", no_locks)
    inner = []

    def another_worker_meanwhile(done, total):
        if done == total and not inner:
            inner.append(None)
            inner.append(tiny.cached("quick", tmp_path, ignore, recipes={"quick": QUICK}))

    outer = tiny.cached("quick", tmp_path, another_worker_meanwhile, recipes={"quick": QUICK})
    assert outer == inner[1]
    assert (outer / "model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".{outer.name}.lock", outer.name]


def test_two_processes_build_once(tmp_path):
    script = (
        "import dataclasses, sys; from pathlib import Path; from esft_worker import tiny\n"
        f"recipe = tiny.{QUICK!r}\n"
        "steps = []\n"
        "path = tiny.cached('quick', Path(sys.argv[1]), lambda *step: steps.append(step), "
        "recipes={'quick': recipe})\n"
        "print(len(steps), path)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(int(steps) for steps, _ in outputs) == [0, QUICK.steps]
    assert outputs[0][1] == outputs[1][1]


def test_unknown_name_is_refused_in_one_clear_sentence(tmp_path):
    with pytest.raises(SpecError, match=r"spec\.model\.source.*tiny://nothing.*Fix: use tiny://countdown"):
        tiny.cached("nothing", tmp_path, ignore)


def test_example_is_valid_and_fits_the_recipe():
    spec = document.load(EXAMPLE).spec
    task = load_task(spec.task.name, spec.task.options)
    recipe = tiny.RECIPES[spec.model.source.removeprefix("tiny://")]
    assert isinstance(task, Countdown)
    assert task.options.numbers == (3,)
    assert (task.options.max_number, task.options.max_target) == (recipe.max_number, recipe.max_target)
    assert spec.task.test.seed == recipe.held_out_seed
    assert spec.task.test.size <= recipe.held_out_size
    assert spec.decoding.max_new_tokens >= ANSWER_TOKENS


def test_example_is_evaluated_on_puzzles_the_model_never_saw():
    recipe = tiny.RECIPES["countdown"]
    puzzles = Puzzles.enumerate(
        max_number=recipe.max_number, max_target=recipe.max_target, exclude=tiny.held_out_keys(recipe)
    )
    tokenizer = make_tokenizer()
    taught = {
        (*sorted(int(VOCABULARY[each]) for each in numbers), int(VOCABULARY[target]))
        for numbers, target in zip(puzzles.numbers.tolist(), puzzles.targets.tolist(), strict=True)
    }
    for example in countdown().examples(Split("test", size=512, seed=1)):
        assert (*sorted(example.data["numbers"]), example.data["target"]) not in taught
        assert VOCABULARY.index("<unk>") not in tokenizer.encode(example.prompt)
