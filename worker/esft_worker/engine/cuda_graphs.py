"""Decoding on a GPU without starting each operation anew: a step is recorded once as a CUDA graph and replayed.

A decoding step of a model with 24 blocks is about a thousand small operations. Starting them one by one from Python
takes longer than the GPU needs for them; a graph starts them all at once. A graph's shapes and addresses are fixed, so
its key-value cache is allocated ahead, in units of capacity, and one graph serves all members and generations of a
shape: perturbations change the weights in place. Prompts go through the model as they are. When half of the sequences
have ended, the others go on in a graph of half the size.

Limits: models of `transformers` with full attention in every block and a forward pass that can be recorded. Where
recording fails, the model runs operation by operation, with a warning. Not run on a GPU yet.
Rejected: torch.compile (a minute and more for each shape); transformers' continuous batching (it sizes its batches by
the memory that is free, so a member's roundings would depend on what else is on the device).
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from transformers import StaticCache

from esft_worker.engine.forward import ModelForward, Sequences

logger = logging.getLogger(__name__)

Step = Callable[[], torch.Tensor]
"""Computes logits from tensors that stay where they are, and puts them where it put them the last time."""

_CAPACITY_UNIT: Final = 64  # tokens: prompts of nearly the same length share a graph
_FEWEST: Final = 8  # sequences: for fewer no smaller graph is made
_MOST_STEPS: Final = 8  # recorded steps that are kept; each holds a key-value cache


def fits(model: Any) -> bool:
    """Whether a model's steps can be recorded."""
    config = model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        model.device.type == "cuda"
        and getattr(model, "_can_compile_fullgraph", False)
        and set(kinds) == {"full_attention"}
    )


def record(step: Step) -> Step:
    """Record a step; what it computes from is to be set again afterwards.

    Raises:
        RuntimeError: the step does what cannot be recorded, such as waiting for the GPU.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # libraries allocate on their first calls, which must not be recorded
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay


class GraphedForward:
    """`Forward` for a model that `fits`, one batch at a time: a step's tensors are those of the latest `begin`."""

    def __init__(self, model: Any, *, record: Callable[[Step], Step] = record) -> None:
        self.unrecorded = ModelForward(model)
        self._model = model
        self._record = record
        self._recordable = True
        self._steps: OrderedDict[tuple[int, int], _StaticStep] = OrderedDict()

    def begin(self, attention_mask: torch.Tensor, *, room: int) -> Sequences:
        """See `Forward.begin`."""
        return _GraphedSequences(self, attention_mask, room=room)

    def step_for(self, sequences: int, capacity: int) -> "_StaticStep | None":
        """The step for so many sequences and tokens of each; None where it cannot be recorded."""
        key = (sequences, -(-capacity // _CAPACITY_UNIT) * _CAPACITY_UNIT)
        if key not in self._steps:
            step = self._recorded(*key)
            if step is None:
                return None
            self._steps[key] = step
            if len(self._steps) > _MOST_STEPS:
                self._steps.popitem(last=False)  # the longest unused one
        self._steps.move_to_end(key)
        return self._steps[key]

    def _recorded(self, sequences: int, capacity: int) -> "_StaticStep | None":
        if not self._recordable:
            return None
        try:
            step = _StaticStep(self._model, sequences=sequences, capacity=capacity)
            step.run = self._record(step.compute)
        except Exception as error:  # noqa: BLE001 - the model's code is other people's; it works as it is
            self._recordable = False
            logger.warning(
                "the model's decoding step cannot be recorded; it runs operation by operation, several times slower",
                extra={"reason": str(error)},
            )
            return None
        return step


class _StaticStep:
    """One token for each of a fixed number of sequences.

    Attributes:
        run: `compute`, or its recording.
        sequences: how many.
        capacity: columns of the cache: most tokens of a sequence.
        input_ids: [sequences, 1], int64: the tokens to append.
        positions: [sequences, 1], int64: theirs; each step moves on by one.
        seen: [sequences, capacity], bool: False on padding.
        layers: of the cache: keys and values [sequences, heads, capacity, head size] and how many tokens so far.
    """

    def __init__(self, model: Any, *, sequences: int, capacity: int) -> None:
        device = model.device
        self._model = model
        self.run: Step = self.compute
        self.sequences = sequences
        self.capacity = capacity
        self.input_ids = torch.zeros((sequences, 1), dtype=torch.long, device=device)
        self.positions = torch.zeros((sequences, 1), dtype=torch.long, device=device)
        self.seen = torch.ones((sequences, capacity), dtype=torch.bool, device=device)
        self._cache = StaticCache(config=model.config, max_cache_len=capacity)
        config = model.config.get_text_config(decoder=True)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._cache.early_initialization(sequences, heads, size, model.dtype, device)
        self.layers: list[Any] = self._cache.layers
        self._columns = torch.arange(capacity, device=device)

    def compute(self) -> torch.Tensor:
        """Append the tokens; logits of those that follow, [sequences, vocabulary]."""
        mask = self.seen & (self._columns <= self.layers[0].cumulative_length)
        logits: torch.Tensor = self._model(
            input_ids=self.input_ids,
            attention_mask=mask[:, None, None, :],
            position_ids=self.positions,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        self.positions.add_(1)
        return logits[:, -1]

    def start(self, layers: Sequence[Any], attention_mask: torch.Tensor) -> None:
        """Go on from prompts, given the layers of their cache."""
        width = attention_mask.shape[1]
        self.seen.fill_(True)
        self.seen[:, :width] = attention_mask.bool()
        self.positions.copy_(attention_mask.sum(dim=1, keepdim=True))
        for layer, prompt in zip(self.layers, layers, strict=True):
            layer.keys[:, :, :width] = prompt.keys
            layer.values[:, :, :width] = prompt.values
            layer.cumulative_length.fill_(width)

    def go_on(self, larger: "_StaticStep", rows: torch.Tensor) -> None:
        """Take over some sequences of another step; there may be room for more."""
        count = len(rows)
        self.positions.zero_()  # of the others too, or they would leave the model's range one day
        self.seen[:count] = larger.seen[rows]
        self.positions[:count] = larger.positions[rows]
        for layer, former in zip(self.layers, larger.layers, strict=True):
            layer.keys[:count] = former.keys[rows]
            layer.values[:count] = former.values[rows]
            layer.cumulative_length.copy_(former.cumulative_length)


class _GraphedSequences:
    """Prompts go through the model, what follows through recorded steps."""

    def __init__(self, forward: GraphedForward, attention_mask: torch.Tensor, *, room: int) -> None:
        self._forward = forward
        self._attention_mask = attention_mask
        self._room = room
        self._going: Sequences | None = None

    def step(self, input_ids: torch.Tensor) -> torch.Tensor:
        if self._going is not None:
            return self._going.step(input_ids)
        prompts = self._forward.unrecorded.begin(self._attention_mask, room=self._room)
        logits = prompts.step(input_ids)
        step = self._forward.step_for(len(input_ids), input_ids.shape[1] + self._room)
        if step is None:
            self._going = prompts
        else:
            step.start(prompts.cache.layers, self._attention_mask)
            self._going = _RecordedSequences(self._forward, step)
        return logits

    def keep(self, rows: torch.Tensor) -> None:
        if self._going is None:
            raise RuntimeError("sequences cannot leave before their prompts were taken")
        self._going.keep(rows)


class _RecordedSequences:
    """Some of the sequences of a recorded step; the step goes on with all."""

    def __init__(self, forward: GraphedForward, step: _StaticStep) -> None:
        self._forward = forward
        self._step = step
        self._rows = torch.arange(step.sequences, device=step.input_ids.device)

    def step(self, input_ids: torch.Tensor) -> torch.Tensor:
        self._step.input_ids[self._rows] = input_ids
        return self._step.run()[self._rows]

    def keep(self, rows: torch.Tensor) -> None:
        self._rows = self._rows[rows]
        size = self._step.sequences
        while size // 2 >= max(len(rows), _FEWEST):
            size //= 2
        if size == self._step.sequences:
            return
        smaller = self._forward.step_for(size, self._step.capacity)
        if smaller is not None:
            smaller.go_on(self._step, self._rows)
            self._step, self._rows = smaller, torch.arange(len(rows), device=rows.device)
