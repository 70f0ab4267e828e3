"""Tiny random models in Hugging Face format, so that tests run real architectures without a model hub."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
}
CONFIGS = {
    "qwen2": lambda vocabulary: Qwen2Config(vocab_size=vocabulary, tie_word_embeddings=True, **SHAPE),
    "llama": lambda vocabulary: LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=False, **SHAPE),
    "gemma": lambda vocabulary: GemmaConfig(vocab_size=vocabulary, **SHAPE),
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def left_padded(
    lengths: Sequence[int], vocabulary: int, *, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random prompts of these lengths and their attention mask, [prompts, width]."""
    width = max(lengths)
    mask = torch.tensor([[0] * (width - length) + [1] * length for length in lengths])
    ids = torch.randint(0, vocabulary, mask.shape, generator=torch.Generator().manual_seed(seed))
    return ids * mask, mask


def save_random_model(
    directory: Path, architecture: str = "qwen2", *, seed: int = 0, chat: bool = False, words: int = 128
) -> Path:
    """A model with random weights and a tokenizer of the integers below `words`, the operators and a few words."""
    vocabulary = [
        "<pad>",
        "<eos>",
        "<unk>",
        *"()+-*/=:",
        "system",
        "user",
        "assistant",
        *map(str, range(words)),
    ]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    config = CONFIGS[architecture](len(vocabulary))
    config.eos_token_id = fast.eos_token_id
    config.pad_token_id = fast.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "_proj" in name:
                    parameter.mul_(12)  # so that a completion depends on all of its prompt
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory
