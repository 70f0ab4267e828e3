import math
from functools import partial

import numpy as np
import pytest
import torch

from esft.errors import SpecError
from esft.population import noise_source
from esft.records import UpdateRecord
from esft_worker import weights as weights_module
from esft_worker.masters import make_masters, storage_within
from esft_worker.noise import tensor_key
from esft_worker.noise.torch_ops import TorchKernels
from esft_worker.weights import Weights

pytestmark = pytest.mark.integration

SEED = 42
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Odd(torch.nn.Module):
    """Every kind of parameter that Weights must cope with."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.empty(shape).normal_(std=0.05, generator=generator).to(dtype)

        self.embed = torch.nn.Parameter(random(37, 11))
        self.head = self.embed  # tied
        self.transposed = torch.nn.Parameter(random(5, 9).t())
        self.strided = torch.nn.Parameter(random(6, 8)[:, ::2])
        self.scalar = torch.nn.Parameter(random())
        self.empty = torch.nn.Parameter(random(0, 4))
        self.norm = torch.nn.Parameter(torch.ones(11, dtype=dtype), requires_grad=False)
        self.large = torch.nn.Parameter(random(521, 613))
        self.table = torch.nn.Parameter(torch.arange(4), requires_grad=False)
        self.register_buffer("position", torch.arange(3.0))


GOLDEN = ["d7be63a20f8962f4", "9c407247135e75f0", 0.41766422986984253, -0.14616349339485168]
NAMES = ["embed", "transposed", "strided", "scalar", "empty", "norm", "large"]


def make(dtype: torch.dtype = torch.float32, **changes) -> tuple[Odd, Weights]:
    model = Odd(dtype)
    options = {"seed": SEED, "antithetic": False, "include": [".*"], "exclude": []} | changes
    return model, Weights(model, **options)


def record(coefficients: list[int], **changes) -> UpdateRecord:
    values = {"generation": 3, "sigma": 0.01, "step": 0.001, "exponent": -23, "fitness": ()} | changes
    return UpdateRecord(coefficients=tuple(coefficients), **values)


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def copied(weights: Weights) -> dict[str, torch.Tensor]:
    return {name: master.clone() for name, master in weights.masters().items()}


def noise(name: str, shape: torch.Size, *, generation: int, pair: int) -> np.ndarray:
    key = tensor_key(seed=SEED, name=name).noise
    integers = TorchKernels(torch.device("cpu")).noise(
        key, generation=generation, pair=pair, start=0, count=math.prod(shape)
    )
    return integers.numpy().reshape(tuple(shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_members_are_masters_plus_noise_in_row_major_order(dtype):
    model, weights = make(dtype)
    assert list(weights.masters()) == NAMES
    weights.perturb(generation=5, member=2, sigma=0.01)
    for name, master in weights.masters().items():
        integers = torch.from_numpy(noise(name, master.shape, generation=5, pair=2))
        expected = (master + integers.float() * float(np.float32(0.01) * np.float32(2**-20))).to(dtype)
        assert torch.equal(getattr(model, name), expected), name
    assert torch.equal(model.table, torch.arange(4))
    assert torch.equal(model.position, torch.arange(3.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_perturbing_leaves_no_trace(dtype):
    model, weights = make(dtype)
    weights.apply([record([2**24, -(2**23), 5])])
    weights.restore()
    before, masters, digest = values(model), copied(weights), weights.digest()
    for member in range(50):
        weights.perturb(generation=member % 3, member=member, sigma=10.0 ** -(member % 5))
    assert not same(values(model), before)
    assert same(copied(weights), masters)
    assert weights.digest() == digest
    weights.restore()
    assert same(values(model), before)
    assert all(torch.equal(before[name], master.to(dtype)) for name, master in masters.items())


def test_a_member_is_the_same_whatever_was_done_before():
    first_model, first = make(torch.bfloat16, threads=2)
    second_model, second = make(torch.bfloat16)
    first.perturb(generation=0, member=7, sigma=0.3)
    first.perturb(generation=1, member=4, sigma=0.01)
    second.perturb(generation=1, member=4, sigma=0.01)
    assert same(values(first_model), values(second_model))


@pytest.mark.parametrize("antithetic", [False, True])
def test_update_is_the_float64_sum_rounded_once(antithetic):
    _, weights = make(antithetic=antithetic, threads=2)
    before = copied(weights)
    generator = np.random.default_rng(0)
    coefficients = [int(value) for value in generator.integers(-(2**24), 2**24, size=30)]
    coefficients[4] = 0
    update = record(coefficients, step=0.0005 / 30)
    norm = weights.apply([update])
    total = 0.0
    for name, master in weights.masters().items():
        reference = before[name].double().numpy()
        for member, coefficient in enumerate(coefficients):
            pair, sign = noise_source(member, antithetic=antithetic)
            epsilon = sign * noise(name, master.shape, generation=3, pair=pair) / 2**20
            reference = reference + update.step * coefficient * 2.0**update.exponent * epsilon
        error = np.abs(master.double().numpy() - reference)
        unit = np.spacing(np.abs(master.numpy())).astype(np.float64)
        assert (error <= 0.5001 * unit).all(), name
        total += ((reference - before[name].double().numpy()) ** 2).sum()
    assert norm == pytest.approx(math.sqrt(total), rel=1e-4)


def test_antithetic_members_mirror_each_other():
    model, weights = make(antithetic=True)
    weights.perturb(generation=0, member=6, sigma=0.01)
    plus = values(model)
    weights.perturb(generation=0, member=7, sigma=0.01)
    minus = values(model)
    for name, master in weights.masters().items():
        torch.testing.assert_close((plus[name] - master), (master - minus[name]), atol=1e-7, rtol=0)
        assert name == "empty" or not torch.equal(plus[name], minus[name])
    digest = weights.digest()
    assert weights.apply([record([0, 0, 9, 9])]) == 0  # the two cancel
    assert weights.digest() == digest


def test_members_without_coefficient_change_nothing():
    _, weights = make()
    digest = weights.digest()
    assert weights.apply([record([0] * 8)]) == 0
    assert weights.digest() == digest
    weights.apply([record([0] * 7 + [1], step=1.0)])
    assert weights.digest() != digest


def test_small_updates_add_up_in_bfloat16():
    # Each is a hundredth of the unit in the last place of a bfloat16 at 1; together they move the weights.
    model, weights = make(torch.bfloat16)
    for _ in range(400):
        weights.apply([record([2**23], step=2.0**-8 / 100)])
    weights.restore()
    assert (model.norm != 1).sum() > 5
    drift = (weights.masters()["norm"] - 1).numpy() / (4 * 2.0**-8)
    assert drift == pytest.approx(noise("norm", model.norm.shape, generation=3, pair=0) / 2**20, abs=5e-3)


def test_replicas_with_any_number_of_threads_agree():
    digests = set()
    for threads in (1, 2, 3):
        _, weights = make(torch.bfloat16, threads=threads, anchor_l2=0.01)
        for generation in range(3):
            weights.apply([record([7, -(2**24), 2**24, 0, 12345], generation=generation)])
        digests.add(weights.digest())
    assert len(digests) == 1


def test_predicting_the_time_of_updates_changes_nothing():
    _, weights = make(torch.bfloat16)
    before = weights.digest()
    one, none = record([7, 1, 2**24]), record([0, 0, 0])
    assert weights.seconds_to_apply([]) == weights.seconds_to_apply([none]) == 0
    assert weights.seconds_to_apply([one, none]) > 0
    assert weights.digest() == before


def test_results_of_noise_version_1_never_change():
    model = torch.nn.Linear(31, 17)
    for parameter in model.parameters():
        parameter.detach().copy_(torch.arange(parameter.numel()).view(parameter.shape) / 1024)
    weights = Weights(model, seed=SEED, antithetic=True, include=[".*"], exclude=[])
    digests = [weights.digest()]
    weights.apply([record([2**24, -123, 0, 2**20], step=0.3)])
    digests.append(weights.digest())
    weights.perturb(generation=1, member=3, sigma=0.125)
    assert [*digests, *model.bias[:2].tolist()] == GOLDEN


def test_seed_generation_and_member_each_make_other_noise():
    results = []
    for seed, generation, member in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]:
        model, weights = make(seed=seed)
        weights.perturb(generation=generation, member=member, sigma=0.1)
        results.append(values(model))
    assert not any(torch.equal(results[0]["large"], other["large"]) for other in results[1:])


def test_excluded_parameters_stay_and_count_in_the_digest():
    model, weights = make(include=["embed", "r"], exclude=["^norm$", "str"])
    assert list(weights.masters()) == ["embed", "transposed", "scalar", "large"]
    before = values(model)
    weights.perturb(generation=0, member=0, sigma=1.0)
    after = values(model)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["embed", "transposed", "scalar", "large"]
    other = Odd(torch.float32)
    with torch.no_grad():
        other.norm[3] += 1
    digest = Weights(
        other, seed=SEED, antithetic=False, include=["embed", "r"], exclude=["^norm$", "str"]
    ).digest()
    assert digest != weights.digest()


def test_digest_does_not_depend_on_what_is_trained():
    digests = {make(exclude=exclude)[1].digest() for exclude in ([], ["norm"], ["large", "scalar"])}
    assert len(digests) == 1


@pytest.mark.parametrize(("include", "exclude"), [(["nothing"], []), ([".*"], [".*"]), (["table"], [])])
def test_nothing_to_train_is_an_error_that_names_the_field(include, exclude):
    with pytest.raises(SpecError, match=r"^spec\.evolution\.parameters\.include: .*embed.*Fix:"):
        make(include=include, exclude=exclude)


def test_dtypes_that_cannot_be_trained_are_an_error():
    with pytest.raises(SpecError, match=r"^spec\.model\.dtype: parameter embed is torch\.float64\. Fix:"):
        make(torch.float64)


def test_masters_travel_through_a_checkpoint():
    model, weights = make(torch.bfloat16)
    weights.apply([record([2**24, 3])])
    saved, digest = copied(weights), weights.digest()
    assert {name: master.shape for name, master in saved.items()} == {
        name: getattr(model, name).shape for name in NAMES
    }
    _, other = make(torch.bfloat16)
    assert other.digest() != digest
    other.load_masters(saved)
    assert other.digest() == digest
    saved["large"].zero_()
    assert other.digest() == digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda masters: masters.pop("norm"), "other parameters.*norm"),
        (lambda masters: masters.update(more=torch.zeros(1)), "other parameters.*more"),
        (lambda masters: masters.update(norm=torch.zeros(12)), r"norm .*\(12,\), not .*\(11,\)"),
        (
            lambda masters: masters.update(norm=torch.zeros(11, dtype=torch.bfloat16)),
            "norm is torch.bfloat16",
        ),
    ],
)
def test_masters_that_do_not_fit_change_nothing(change, message):
    _, weights = make()
    digest, masters = weights.digest(), {name: master + 1 for name, master in copied(weights).items()}
    change(masters)
    with pytest.raises(ValueError, match=message):
        weights.load_masters(masters)
    assert weights.digest() == digest


@pytest.mark.parametrize("dtype", DTYPES)
def test_base_can_be_looked_at_and_gone_back_to(dtype):
    model, weights = make(dtype)
    base, base_digest = values(model), weights.digest()
    weights.apply([record([2**24], step=1.0)])
    moved = weights.digest()
    weights.restore_base()
    assert same(values(model), base)
    assert weights.digest() == moved
    weights.restore()
    assert not same(values(model), base)
    weights.reset()
    assert same(values(model), base)
    assert weights.digest() == base_digest


def test_anchor_pulls_masters_towards_the_base():
    _, free = make(torch.bfloat16)
    _, anchored = make(torch.bfloat16, anchor_l2=0.25)
    base = copied(free)
    for weights in (free, anchored):
        weights.apply([record([2**24], step=1.0)])
    for name, master in anchored.masters().items():
        moved = free.masters()[name]
        assert torch.equal(master, moved - (moved - base[name]) * 0.25)


def test_model_over_several_devices_is_refused():
    model = Odd(torch.float32)
    model.norm = torch.nn.Parameter(torch.empty(11, device="meta"))
    with pytest.raises(ValueError, match=r"cpu.*meta.*one device"):
        Weights(model, seed=SEED, antithetic=False, include=[".*"], exclude=[])


@pytest.mark.parametrize("anchor_l2", [0.0, 0.01])
@pytest.mark.parametrize("antithetic", [False, True])
def test_several_updates_in_one_pass_are_those_one_after_the_other(antithetic, anchor_l2):
    records = [
        record([2**24, -3, 0, 5 + generation], generation=generation, step=0.1) for generation in range(5)
    ]
    _, one_by_one = make(antithetic=antithetic, anchor_l2=anchor_l2)
    norms = [one_by_one.apply([each]) for each in records]
    _, at_once = make(antithetic=antithetic, anchor_l2=anchor_l2)
    assert at_once.apply(records) == pytest.approx(norms[-1], rel=1e-9)
    assert at_once.digest() == one_by_one.digest()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", ["host", "split"])
def test_where_masters_are_kept_changes_nothing(monkeypatch, storage, dtype):
    # A staging buffer that cuts the large tensor into many parts, the last of them odd.
    monkeypatch.setattr(weights_module, "make_masters", partial(make_masters, buffer_size=2048))
    model, weights = make(dtype, masters=storage, anchor_l2=0.01)
    other_model, other = make(dtype, masters="device", anchor_l2=0.01)
    for each in (weights, other):
        each.apply([record([2**24, -77, 3], generation=generation, step=0.1) for generation in range(3)])
        each.perturb(generation=3, member=1, sigma=0.01)
    assert same(values(model), values(other_model))
    assert weights.digest() == other.digest()
    assert same(copied(weights), copied(other))
    assert weights.drift() == pytest.approx(other.drift(), rel=1e-6)
    for each in (weights, other):
        each.restore()
    assert same(values(model), values(other_model))
    saved = copied(weights)
    weights.reset()
    assert weights.digest() == make(dtype)[1].digest()
    weights.load_masters(saved)
    assert weights.digest() == other.digest()


@pytest.mark.parametrize(
    ("free", "storage"),
    [(80, "device"), (52.1, "device"), (51.9, "split"), (38.5, "split"), (37.9, "host"), (1, "host")],
)
def test_masters_are_kept_as_near_as_there_is_room(free, storage):
    # 7 billion weights on a device of 80 GB, of which 24 stay free for rollouts: 28 GB beside the model, 14, or none.
    assert storage_within(7 * 10**9, free_bytes=int(free * 1e9), total_bytes=80 * 10**9) == storage
