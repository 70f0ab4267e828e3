r"""A random model of half a billion parameters, to measure rollouts of that size: `bench/random_model.py DIRECTORY`.

Its shape is that of Qwen2.5-0.5B; its tokenizer is the demo's, so it answers the demo's prompts, with nonsense of full
length. Then, where there is a GPU:

    python bench/generation.py --set model.source=file:///DIRECTORY --set model.dtype=bfloat16 \
        --set evolution.population=30 --set evolution.promptsPerGeneration=200 \
        --set decoding.maxNewTokens=128 --set decoding.batchSize=200
"""

import argparse
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from esft_worker.tiny_puzzles import EOS, TOKEN_IDS, make_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a random model.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--width", type=int, default=896)
    parser.add_argument("--inner", type=int, default=4864)
    parser.add_argument("--heads", type=int, default=14)
    parser.add_argument("--key-heads", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.width,
        intermediate_size=options.inner,
        num_hidden_layers=options.blocks,
        num_attention_heads=options.heads,
        num_key_value_heads=options.key_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=TOKEN_IDS[EOS],
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(options.directory)
    make_tokenizer().save_pretrained(options.directory)


if __name__ == "__main__":
    main()
