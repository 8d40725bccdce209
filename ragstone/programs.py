"""Which program runs a generator's weights: llama.cpp a GGUF file, transformers a Hugging Face folder, and vLLM a folder on GPUs."""

from __future__ import annotations

from pathlib import Path

from ragstone.causal import Causal, digest
from ragstone.config import Serve
from ragstone.errors import ConfigError
from ragstone.replica import Replica
from ragstone.vllm import Vllm

Program = Replica | Causal | Vllm


def choose(weights: Path, name: str, serve: Serve, gpus: int = 0) -> Program:
    """What a replica of these weights runs, with `gpus` for itself. Raises `ConfigError` where that can't be."""
    if weights.is_dir():
        kind = Vllm if gpus else Causal
        return kind(str(weights), name, serve.context, serve.slots, serve.threads, digest(weights))
    if gpus:
        raise ConfigError(f"vLLM runs folders of safetensors, and {weights} is a file of llama.cpp", '"gpu": 0 in the file')
    return Replica(str(weights), name, serve.context, serve.slots, serve.threads, serve.sleep)
