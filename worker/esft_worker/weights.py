"""The weights of a run on one worker: fp32 masters that every perturbed model is made from.

The masters change by updates only. A perturbed model is written from them, never made by adding noise to
the working weights and taking it off again: in bfloat16 that drifts by about the size of an update within
one generation, and an update smaller than half a unit in the last place is lost. Here neither happens, at
the price of 4 bytes a parameter for the masters and, in host memory, a copy of the base model.

Limits: the model stays on one device and keeps its parameters' storage while this object is in use.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from esft.errors import SpecError
from esft.population import noise_source
from esft.records import UpdateRecord
from esft_worker.noise import CpuKernels, Kernels, Slot, TorchKernels, combine_digests, tensor_key
from esft_worker.noise.contract import perturbation_scale, update_scale

_WORKING_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ANCHOR_BLOCK = 2**22  # elements at a time: bounds the temporaries


@dataclass(frozen=True, slots=True)
class _Trained:
    """A trained parameter, and what belongs to it. `slot.working` is the parameter itself unless `staged`."""

    name: str
    parameter: torch.nn.Parameter
    slot: Slot
    base: torch.Tensor
    staged: bool


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
        self._slots = [each.slot for each in self._trained]
        self._frozen_digests = [
            (
                name,
                self._kernels.digest(
                    _flat_float32(parameters[name]), tensor_key(seed=seed, name=name).digest
                ),
            )
            for name in sorted(parameters.keys() - names)
        ]

    def perturb(self, *, generation: int, member: int, sigma: float) -> None:
        """Write member's weights into the model: round(master + sigma * noise)."""
        pair, sign = noise_source(member, antithetic=self._antithetic)
        self._kernels.perturb(
            self._slots, generation=generation, pair=pair, scale=perturbation_scale(sigma=sigma, sign=sign)
        )
        self._hand_over_staged()

    def restore(self) -> None:
        """Write the unperturbed weights into the model: round(master)."""
        for each in self._trained:
            each.slot.working.copy_(each.slot.master)
        self._hand_over_staged()

    def restore_base(self) -> None:
        """Write the base model's weights into the model; the masters stay as they are."""
        for each in self._trained:
            each.slot.working.copy_(each.base)
        self._hand_over_staged()

    def reset(self) -> None:
        """Go back to the base model, masters and model."""
        for each in self._trained:
            each.slot.master.copy_(each.base)
        self.restore()

    def apply(self, record: UpdateRecord) -> float:
        """Update the masters. The model keeps stale weights until `perturb` or `restore`.

        Members whose coefficient is 0 cost nothing, and the two of an antithetic pair share their noise.

        Returns:
            Euclidean norm of the change, without the anchor's pull. For people: its last digits depend on
            the device.

        Raises:
            ValueError: coefficients that the sum has no room for.
        """
        coefficients: dict[int, int] = {}
        for member, coefficient in enumerate(record.coefficients):
            pair, sign = noise_source(member, antithetic=self._antithetic)
            coefficients[pair] = coefficients.get(pair, 0) + sign * coefficient
        used = {pair: coefficient for pair, coefficient in coefficients.items() if coefficient}
        squares = self._kernels.update(
            self._slots,
            generation=record.generation,
            pairs=list(used),
            coefficients=list(used.values()),
            scale=update_scale(step=record.step, exponent=record.exponent),
        )
        if self._anchor_l2 > 0:
            for each in self._trained:
                _pull(each.slot.master, each.base, self._anchor_l2)
        return float(squares**0.5)

    def drift(self) -> float:
        """Distance of the masters from the base model's weights, as a part of these weights' own Euclidean norm.

        For people: its last digits depend on the device.
        """
        away = own = 0.0
        for each in self._trained:
            for start in range(0, each.slot.master.numel(), _ANCHOR_BLOCK):
                base = each.base[start : start + _ANCHOR_BLOCK].to(each.slot.master.device, torch.float32)
                away += float(
                    (each.slot.master[start : start + _ANCHOR_BLOCK] - base).square().sum(dtype=torch.float64)
                )
                own += float(base.square().sum(dtype=torch.float64))
        return (away / own) ** 0.5 if own else 0.0

    def digest(self) -> str:
        """64-bit checksum of all floating-point parameters, 16 hexadecimal digits, the same on every device.

        Of trained parameters it sees the masters, of the others the values they had at the start.
        """
        trained = (
            (each.name, self._kernels.digest(each.slot.master, each.slot.key.digest))
            for each in self._trained
        )
        return combine_digests([*trained, *self._frozen_digests])

    def masters(self) -> dict[str, torch.Tensor]:
        """The masters by canonical name: float32, in the parameters' shapes, not copied."""
        return {each.name: each.slot.master.view(each.parameter.shape) for each in self._trained}

    def load_masters(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over masters as `masters` gave them; nothing is changed if they do not fit.

        Raises:
            ValueError: names, shapes or dtypes are not those of the trained parameters.
        """
        masters = self.masters()
        if tensors.keys() != masters.keys():
            odd = sorted(tensors.keys() ^ masters.keys())
            raise ValueError(
                f"masters are of other parameters than the model's: {', '.join(odd[:3])} and so on"
            )
        for name, master in masters.items():
            other = tensors[name]
            if other.shape != master.shape or other.dtype != master.dtype:
                raise ValueError(
                    f"master {name} is {other.dtype} {tuple(other.shape)}, "
                    f"not {master.dtype} {tuple(master.shape)}"
                )
        for name, master in masters.items():
            master.copy_(tensors[name])

    def _hand_over_staged(self) -> None:
        for each in self._trained:
            if each.staged:
                each.parameter.detach().copy_(each.slot.working.view(each.parameter.shape))


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
    return CpuKernels(threads=threads) if device.type == "cpu" else TorchKernels(device)


def _take_over(name: str, parameter: torch.nn.Parameter, *, seed: int) -> _Trained:
    if parameter.dtype not in _WORKING_DTYPES:
        raise SpecError(
            f"spec.model.dtype: parameter {name} is {parameter.dtype}. Fix: load the model as float32, "
            "bfloat16 or float16, or exclude the parameter in spec.evolution.parameters."
        )
    values = parameter.detach()
    staged = not values.is_contiguous()
    working = values.contiguous().view(-1)
    slot = Slot(
        key=tensor_key(seed=seed, name=name), master=working.to(torch.float32, copy=True), working=working
    )
    return _Trained(name, parameter, slot, base=working.to("cpu", copy=True), staged=staged)


def _flat_float32(parameter: torch.nn.Parameter) -> torch.Tensor:
    return parameter.detach().to(torch.float32).contiguous().view(-1)


def _pull(master: torch.Tensor, base: torch.Tensor, share: float) -> None:
    """Do master -= share * (master - base), each operation rounded to float32 by itself, as anywhere."""
    for start in range(0, master.numel(), _ANCHOR_BLOCK):
        part = master[start : start + _ANCHOR_BLOCK]
        away = part - base[start : start + _ANCHOR_BLOCK].to(master.device, torch.float32)
        part.sub_(away.mul_(share))
