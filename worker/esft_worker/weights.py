"""Keeps a run's weights exact on one worker: fp32 masters, from which every perturbed model is made.

Formulas are in the notation of esft.population. The masters are theta_g, the base model theta_0.

The masters change by updates only. A perturbed model is written from them, never made by adding noise to the
working weights and taking it off again: in bfloat16 that drifts by about the size of an update within one
generation, and an update smaller than half a unit in the last place is lost. Here neither happens, at the price
of 4 bytes a parameter for the masters (where: masters.py) and, in host memory, a copy of the base model.

Limits: the model stays on one device and keeps its parameters' storage while this object is in use.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from esft.errors import SpecError
from esft.population import noise_source
from esft.records import UpdateRecord
from esft.spec import MasterWeights
from esft_worker.masters import make_masters
from esft_worker.noise import Kernels, Slot, Step, TensorKey, combine_digests, kernels_for, tensor_key
from esft_worker.noise.contract import WORKING_DTYPES, chunks, perturbation_scale, update_scale

_CHUNK = 2**22  # elements at a time: bounds the temporaries


@dataclass(frozen=True, slots=True)
class _Trained:
    """A trained parameter, and what belongs to it.

    Attributes:
        name: canonical.
        parameter: the model's.
        key: of its noise and digest.
        working: the parameter itself, flat, or a flat copy where it is not contiguous.
        base: the base model's values, flat, in host memory.
    """

    name: str
    parameter: torch.nn.Parameter
    key: TensorKey
    working: torch.Tensor
    base: torch.Tensor


class Weights:
    """fp32 masters of a model's trained parameters, and the operations of ES on them.

    A floating-point parameter is trained when an `include` pattern and no `exclude` pattern is found
    (`re.search`) in its canonical Hugging Face name: the first one, for tied weights. Whether it requires a
    gradient is no matter.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        seed: int,
        antithetic: bool,
        include: Sequence[str],
        exclude: Sequence[str],
        anchor_l2: float = 0.0,
        threads: int = 1,
        masters: MasterWeights = "device",
    ) -> None:
        """Take over the model's parameters as they are: they are the base model.

        Args:
            model: on one device, with parameters of float32, bfloat16 or float16.
            seed: the run's.
            antithetic: members come in pairs of opposite noise.
            include: regular expressions.
            exclude: regular expressions.
            anchor_l2: share of the way back to the base model that the masters go after each update.
            threads: for the work on the CPU; results do not depend on it.
            masters: where they are kept; results do not depend on it.

        Raises:
            SpecError: no parameter is left to train, or one has a dtype that cannot be.
        """
        parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.dtype.is_floating_point
        }
        names = _selected(list(parameters), include=include, exclude=exclude)
        self._antithetic = antithetic
        self._anchor_l2 = anchor_l2
        self._kernels = _kernels({parameter.device for parameter in parameters.values()}, threads=threads)
        self._trained = [_take_over(name, parameters[name], seed=seed) for name in names]
        self._by_key = {trained.key: trained for trained in self._trained}
        self._masters = make_masters(
            masters, list(self._by_key), [trained.working for trained in self._trained]
        )
        self._frozen_digests = [
            (name, self._frozen_digest(parameters[name], tensor_key(seed=seed, name=name)))
            for name in sorted(parameters.keys() - names)
        ]

    @property
    def names(self) -> list[str]:
        """Canonical names of the trained parameters."""
        return [trained.name for trained in self._trained]

    def perturb(self, *, generation: int, member: int, sigma: float) -> None:
        """Write member i's weights into the model: theta_g + sigma_g eps_i, rounded to the model's dtype."""
        pair, sign = noise_source(member, antithetic=self._antithetic)
        scale = perturbation_scale(sigma=sigma, sign=sign)
        for slots in self._masters.read():
            self._kernels.perturb(slots, generation=generation, pair=pair, scale=scale)
        self._hand_over()

    def restore(self) -> None:
        """Write the unperturbed weights into the model: theta_g, rounded to the model's dtype."""
        for slots in self._masters.read():
            for slot in slots:
                slot.working.copy_(slot.master)
        self._hand_over()

    def restore_base(self) -> None:
        """Write the base model's weights into the model; the masters stay as they are."""
        for trained in self._trained:
            trained.working.copy_(trained.base)
        self._hand_over()

    def reset(self) -> None:
        """Go back to the base model, masters and model."""
        for slots in self._masters.write():
            for slot in slots:
                slot.master.copy_(self._base_of(slot))
        self.restore()

    def apply(self, records: Sequence[UpdateRecord]) -> float:
        """Update the masters: theta_{g+1} = theta_g + (alpha_g / N) sum_i c_i eps_i, then the anchor's pull.

        All records take one pass over them. The model keeps stale weights until `perturb` or `restore`. Members whose
        coefficient is 0 cost nothing, and the two of an antithetic pair share their noise.

        Returns:
            Euclidean norm of the last record's change, without the anchor's pull. For people: its last digits
            depend on the device.

        Raises:
            ValueError: coefficients that the sum has no room for.
        """
        steps = [self._step(record) for record in records]
        passes = [steps] if self._anchor_l2 == 0 else [[step] for step in steps]
        squares = 0.0
        for steps_at_once in passes:
            squares = self._update(steps_at_once)
        return float(squares**0.5)

    def seconds_to_apply(self, records: Sequence[UpdateRecord]) -> float:
        """Predict how long `apply` would take, from the largest record on a copy of some weights."""
        steps = [self._step(record) for record in records]
        largest = max(steps, key=lambda step: len(step.pairs), default=None)
        if largest is None or not largest.pairs:
            return 0.0
        longest = max(self._trained, key=lambda trained: trained.working.numel())
        copy = longest.working[:_CHUNK].to(torch.float32, copy=True)
        slots = [Slot(longest.key, copy, copy)]
        self._kernels.update(slots, [largest])  # may compile
        start = time.perf_counter()
        self._kernels.update(slots, [largest])
        sampled = len(largest.pairs) * copy.numel()
        elements = sum(trained.working.numel() for trained in self._trained)
        due = sum(len(step.pairs) for step in steps) * elements
        return (time.perf_counter() - start) * due / sampled

    def _step(self, record: UpdateRecord) -> Step:
        """The record's sum by noise: z_j counts sign_i c_i of each member i whose eps_i is sign_i z_j."""
        coefficients: dict[int, int] = {}
        for member, coefficient in enumerate(record.coefficients):
            pair, sign = noise_source(member, antithetic=self._antithetic)
            coefficients[pair] = coefficients.get(pair, 0) + sign * coefficient
        used = {pair: coefficient for pair, coefficient in coefficients.items() if coefficient}
        return Step(
            generation=record.generation,
            pairs=tuple(used),
            coefficients=tuple(used.values()),
            scale=update_scale(step=record.step, exponent=record.exponent),
        )

    def _update(self, steps: Sequence[Step]) -> float:
        """One pass over the masters, then the anchor's pull: theta - anchor_l2 (theta - theta_0).

        Returns:
            Squared norm of the last step's change.
        """
        squares = 0.0
        for slots in self._masters.write():
            squares += self._kernels.update(slots, steps)[-1]
            if self._anchor_l2 > 0:
                for master, base in self._beside_base(slots):
                    # Each operation is rounded to float32 by itself, as anywhere.
                    master.sub_((master - base).mul_(self._anchor_l2))
        return squares

    def drift(self) -> float:
        """How far the masters are from the base model: |theta_g - theta_0| / |theta_0|, Euclidean norms.

        For people: its last digits depend on the device.
        """
        moved = size = 0.0
        for slots in self._masters.read():
            for master, base in self._beside_base(slots):
                moved += float((master - base).square().sum(dtype=torch.float64))
                size += float(base.square().sum(dtype=torch.float64))
        return (moved / size) ** 0.5 if size else 0.0

    def digest(self) -> str:
        """64-bit checksum of all floating-point parameters, 16 hexadecimal digits, the same on every device.

        Of trained parameters it sees the masters, of the others the values they had at the start.
        """
        sums = dict.fromkeys(self._by_key, 0)
        for slots in self._masters.read():
            for slot, value in zip(slots, self._kernels.digest(slots), strict=True):
                sums[slot.key] = (sums[slot.key] + value) % 2**64
        trained = [(self._by_key[key].name, value) for key, value in sums.items()]
        return combine_digests([*trained, *self._frozen_digests])

    def masters(self) -> dict[str, torch.Tensor]:
        """The masters by canonical name: float32, in the parameters' shapes, for reading."""
        return {
            trained.name: tensor.view(trained.parameter.shape)
            for trained, tensor in zip(self._trained, self._masters.tensors(), strict=True)
        }

    def load_masters(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over masters as `masters` gave them; nothing is changed if they do not fit.

        Raises:
            ValueError: names, shapes or dtypes are not those of the trained parameters.
        """
        if odd := sorted(tensors.keys() ^ self.names):
            raise ValueError(
                f"masters are of other parameters than the model's: {', '.join(odd[:3])} and so on"
            )
        for trained in self._trained:
            master = tensors[trained.name]
            if master.shape != trained.parameter.shape or master.dtype != torch.float32:
                raise ValueError(
                    f"master {trained.name} is {master.dtype} {tuple(master.shape)}, "
                    f"not {torch.float32} {tuple(trained.parameter.shape)}"
                )
        flat = {trained.key: tensors[trained.name].contiguous().view(-1) for trained in self._trained}
        for slots in self._masters.write():
            for slot in slots:
                slot.master.copy_(flat[slot.key][slot.elements])

    def _base_of(self, slot: Slot) -> torch.Tensor:
        """The base model's values, in host memory, of a slot's elements."""
        return self._by_key[slot.key].base[slot.elements]

    def _beside_base(self, slots: Sequence[Slot]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The masters, and the base model's values in float32 beside them, in chunks that bound the temporaries."""
        for _, chunk in chunks(slots, _CHUNK):
            yield chunk.master, self._base_of(chunk).to(chunk.master.device, torch.float32)

    def _frozen_digest(self, parameter: torch.nn.Parameter, key: TensorKey) -> int:
        values = parameter.detach().to(torch.float32).contiguous().view(-1)
        (digest,) = self._kernels.digest([Slot(key, values, values)])
        return digest

    def _hand_over(self) -> None:
        """Give parameters that are not contiguous the weights that were written to their flat copies."""
        for trained in self._trained:
            if not trained.parameter.is_contiguous():
                trained.parameter.detach().copy_(trained.working.view(trained.parameter.shape))


def _selected(names: Sequence[str], *, include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    chosen = [
        name
        for name in names
        if any(re.search(pattern, name) for pattern in include)
        and not any(re.search(pattern, name) for pattern in exclude)
    ]
    if not chosen:
        raise SpecError(
            f"spec.evolution.parameters.include: {list(include)} without exclude {list(exclude)} leaves none "
            f"of the model's parameters ({', '.join(names[:3])} ...). Fix: give patterns that are found in "
            "the names of the parameters to train."
        )
    return chosen


def _kernels(devices: set[torch.device], *, threads: int) -> Kernels:
    if len(devices) != 1:
        raise ValueError(
            f"the model's parameters are on {sorted(map(str, devices))}: they must be on one device"
        )
    (device,) = devices
    return kernels_for(device, threads=threads)


def _take_over(name: str, parameter: torch.nn.Parameter, *, seed: int) -> _Trained:
    if parameter.dtype not in WORKING_DTYPES:
        raise SpecError(
            f"spec.model.dtype: parameter {name} is {parameter.dtype}. Fix: load the model as float32, "
            "bfloat16 or float16, or exclude the parameter in spec.evolution.parameters."
        )
    working = parameter.detach().contiguous().view(-1)
    return _Trained(
        name, parameter, tensor_key(seed=seed, name=name), working, base=working.to("cpu", copy=True)
    )
