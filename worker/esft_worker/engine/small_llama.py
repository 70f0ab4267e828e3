"""Makes rollouts of small Llama models fast on a CPU: their forward pass in a few fused operations a block.

In a model of a few hundred thousand parameters most of a step's time goes into starting operations and into passing
over memory again for each. Here a block is seven matrix products by torch and four kernels, all in buffers that stay;
keys and values go into a cache allocated ahead, and the last block computes the last position alone. The demo's
rollouts take half the time that they take with the modules of `transformers`; the logits are the same to rounding.

It reads the weights of a loaded model in place, so that a perturbation needs no further step. Kernels run on one
thread, matrix products on as many as torch has.

Limits: float32, the plain architecture (no biases, SiLU, rotary embeddings whose frequencies do not depend on the
length). Other models, large ones and those on a GPU go through `ModelForward`.
Rejected: torch.compile (a C++ compiler on every machine, a minute before the first member, and other roundings than
where it is missing, so that workers would differ), several members in one pass (no faster here).
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention, silu

from esft_worker.compiled import RelaxedKernel
from esft_worker.engine.forward import Sequences

_MOST_PARAMETERS: Final = 100_000_000
"""Above, matrix products dwarf what is saved here, and the kernels' single thread would hold others up."""

_LONG_STEP: Final = 32
"""From so many tokens on, torch's attention with its blocks is faster than the kernel."""

_FED_AT_ONCE: Final = 256
"""Tokens that pass through a feed-forward layer together: of more, what is inside it would not stay in the cache."""

_FIXED_ROTARY: Final = frozenset({"default", "linear", "llama3", "yarn"})

_f32 = np.float32


def fits(model: Any) -> bool:
    """Whether `SmallLlama` computes what this model does. Depends on nothing but the model, so workers agree."""
    config = model.config
    return (
        config.model_type == "llama"
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and model.num_parameters() <= _MOST_PARAMETERS
        and config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
        and config.rope_parameters["rope_type"] in _FIXED_ROTARY
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """Views of a block's weights, which change with the model's; matrices are [inputs, outputs]."""

    attention_norm: Any
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    output: torch.Tensor
    feed_forward_norm: Any
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


class SmallLlama:
    """`Forward` for a model that `fits`, one batch at a time: its buffers are those of the latest `begin`."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.epsilon = _f32(config.rms_norm_eps)
        self.heads: int = config.num_attention_heads
        self.key_heads: int = config.num_key_value_heads
        self.head_size: int = config.head_dim
        self.inner_size: int = config.intermediate_size
        self.embedding = model.get_input_embeddings().weight
        self.norm = model.model.norm.weight.numpy()
        self.vocabulary = model.get_output_embeddings().weight.t()
        self.blocks = [_block(layer) for layer in model.model.layers]
        self._rotary = model.model.rotary_emb
        self._angles = self._angles_up_to(1)
        self._buffers: dict[str, torch.Tensor] = {}

    def begin(self, attention_mask: torch.Tensor, *, room: int) -> Sequences:
        """See `Forward.begin`."""
        capacity = attention_mask.shape[1] + room
        if len(self._angles[0]) < capacity:
            self._angles = self._angles_up_to(capacity)
        return _SmallLlamaSequences(self, attention_mask, self._angles, capacity=capacity)

    def buffer(self, name: str, *shape: int) -> torch.Tensor:
        """A float32 tensor to write to; the next of this name may be the same memory."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size)
        return self._buffers[name][:size].view(shape)

    def _angles_up_to(self, positions: int) -> tuple[Any, Any]:
        """Cosines and sines, float32 [positions, head size]."""
        cosines, sines = self._rotary(self.embedding, torch.arange(positions)[None])
        return cosines[0].numpy(), sines[0].numpy()


class _SmallLlamaSequences:
    def __init__(
        self, model: SmallLlama, attention_mask: torch.Tensor, angles: tuple[Any, Any], *, capacity: int
    ) -> None:
        self._model = model
        self._angles = angles
        self._first = attention_mask.argmax(dim=1)  # the column of each sequence's first token
        shape = (len(attention_mask), model.key_heads, capacity, model.head_size)
        self._cache = [
            (model.buffer(f"keys {index}", *shape), model.buffer(f"values {index}", *shape))
            for index in range(len(model.blocks))
        ]
        self._length = 0

    def keep(self, rows: torch.Tensor) -> None:
        self._first = self._first[rows]
        self._cache = [(keys[rows], values[rows]) for keys, values in self._cache]

    def step(self, input_ids: torch.Tensor) -> torch.Tensor:
        model = self._model
        tokens = input_ids.numel()
        stream = model.buffer("stream", tokens, model.embedding.shape[1])
        torch.index_select(model.embedding, 0, input_ids.flatten(), out=stream)
        new = input_ids.shape[1]
        mask = self._mask(new) if new >= _LONG_STEP else None
        for block, cache in zip(model.blocks, self._cache, strict=True):
            attended = self._attend(block, cache, stream, new=new, mask=mask)
            if block is model.blocks[-1]:  # what follows is needed at the last position alone
                stream, attended = (all_of[new - 1 :: new].contiguous() for all_of in (stream, attended))
            stream.addmm_(attended, block.output)
            for some in stream.split(_FED_AT_ONCE):
                self._feed_forward(block, some)
        self._length += new
        return torch.mm(self._normalized(stream, model.norm), model.vocabulary)

    def _mask(self, new: int) -> torch.Tensor:
        """Which columns each new token sees, [sequences, 1, new, columns]; padding sees itself, or it would be NaN."""
        columns = torch.arange(self._length + new)
        itself = columns[self._length :, None]
        seen = (columns >= self._first[:, None])[:, None, :] & (columns <= itself) | (columns == itself)
        return seen[:, None]

    def _attend(
        self,
        block: _Block,
        cache: tuple[torch.Tensor, torch.Tensor],
        stream: torch.Tensor,
        *,
        new: int,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """What each token's heads gather, [tokens, heads x head size]; the cache takes the new keys and values.

        With a mask, torch's attention is used.
        """
        model = self._model
        tokens = len(stream)
        normed = self._normalized(stream, block.attention_norm)
        query = torch.mm(normed, block.query, out=model.buffer("query", tokens, block.query.shape[1]))
        key = torch.mm(normed, block.key, out=model.buffer("key", tokens, block.key.shape[1]))
        value = torch.mm(normed, block.value, out=model.buffer("value", tokens, block.value.shape[1]))
        keys, values = (cached.numpy() for cached in cache)
        _rotate(query.numpy(), *self._angles, self._length, new)
        _rotate(key.numpy(), *self._angles, self._length, new)
        _store(key.numpy(), keys, self._length, new)
        _store(value.numpy(), values, self._length, new)
        if mask is not None:
            return self._attend_in_blocks(query, cache, mask)
        attended = model.buffer("attended", tokens, query.shape[1])
        _attend(query.numpy(), keys, values, self._first.numpy(), self._length, new, attended.numpy())
        return attended

    def _attend_in_blocks(
        self, query: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor
    ) -> torch.Tensor:
        new, end = mask.shape[2:]
        keys, values = (cached[:, :, :end] for cached in cache)
        heads = query.view(len(self._first), new, self._model.heads, -1).transpose(1, 2)
        attended = scaled_dot_product_attention(
            heads,
            keys,
            values,
            attn_mask=mask,
            enable_gqa=self._model.heads != self._model.key_heads,
        )
        return attended.transpose(1, 2).reshape(query.shape)

    def _feed_forward(self, block: _Block, stream: torch.Tensor) -> None:
        """Add what the block's gated feed-forward layer gives to the stream."""
        size = (len(stream), self._model.inner_size)
        normed = self._normalized(stream, block.feed_forward_norm)
        gate = torch.mm(normed, block.gate, out=self._model.buffer("gate", *size))
        up = torch.mm(normed, block.up, out=self._model.buffer("up", *size))
        stream.addmm_(silu(gate, inplace=True).mul_(up), block.down)

    def _normalized(self, stream: torch.Tensor, weight: Any) -> torch.Tensor:
        normed = self._model.buffer("normed", *stream.shape)
        _normalize(stream.numpy(), weight, self._model.epsilon, normed.numpy())
        return normed


def _block(layer: Any) -> _Block:
    attention, feed_forward = layer.self_attn, layer.mlp
    return _Block(
        attention_norm=layer.input_layernorm.weight.numpy(),
        query=attention.q_proj.weight.t(),
        key=attention.k_proj.weight.t(),
        value=attention.v_proj.weight.t(),
        output=attention.o_proj.weight.t(),
        feed_forward_norm=layer.post_attention_layernorm.weight.numpy(),
        gate=feed_forward.gate_proj.weight.t(),
        up=feed_forward.up_proj.weight.t(),
        down=feed_forward.down_proj.weight.t(),
    )


@RelaxedKernel
def _normalize(stream: Any, weight: Any, epsilon: Any, out: Any) -> None:
    """RMSNorm of each row."""
    tokens, size = stream.shape
    for i in range(tokens):
        square = _f32(0)
        for j in range(size):
            square += stream[i, j] * stream[i, j]
        scale = _f32(1) / np.sqrt(square / _f32(size) + epsilon)
        for j in range(size):
            out[i, j] = weight[j] * (stream[i, j] * scale)


@RelaxedKernel
def _rotate(heads: Any, cosines: Any, sines: Any, start: Any, new: Any) -> None:
    """Rotary embedding in place: heads [sequences x new, any number of heads x size], from column `start` on.

    Columns count padding, positions would not: only their differences matter.
    """
    size = cosines.shape[1]
    half = size // 2
    for i in range(heads.shape[0]):
        column = start + i % new
        for offset in range(0, heads.shape[1], size):
            for j in range(half):
                cosine, sine = cosines[column, j], sines[column, j]
                low, high = heads[i, offset + j], heads[i, offset + half + j]
                heads[i, offset + j] = low * cosine - high * sine
                heads[i, offset + half + j] = high * cosine + low * sine


@RelaxedKernel
def _store(heads: Any, cache: Any, start: Any, new: Any) -> None:
    """Copy [sequences x new, heads x size] into the cache [sequences, heads, capacity, size]."""
    sequences, count, _, size = cache.shape
    for row in range(sequences):
        for token in range(new):
            for head in range(count):
                for j in range(size):
                    cache[row, head, start + token, j] = heads[row * new + token, head * size + j]


@RelaxedKernel
def _attend(query: Any, keys: Any, values: Any, first: Any, start: Any, new: Any, out: Any) -> None:
    """Causal attention over what is in the cache; padding sees nothing and gives zeros."""
    sequences, key_heads, capacity, size = keys.shape
    heads = query.shape[1] // size
    scale = _f32(1) / np.sqrt(_f32(size))
    shares = np.empty(capacity, _f32)
    for row in range(sequences):
        begin = first[row]
        for head in range(heads):
            source = head * key_heads // heads
            offset = head * size
            for token in range(new):
                i = row * new + token
                end = start + token + 1
                highest = _f32(-np.inf)
                for s in range(begin, end):
                    product = _f32(0)
                    for j in range(size):
                        product += query[i, offset + j] * keys[row, source, s, j]
                    shares[s] = product * scale
                    highest = max(highest, shares[s])
                total = _f32(0)
                for s in range(begin, end):
                    shares[s] = np.exp(shares[s] - highest)
                    total += shares[s]
                for j in range(size):
                    out[i, offset + j] = _f32(0)
                for s in range(begin, end):
                    share = shares[s] / total
                    for j in range(size):
                        out[i, offset + j] += share * values[row, source, s, j]
