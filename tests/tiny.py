"""A base model small enough to train in a second: MiniLM's tokenizer over two narrow layers of seeded noise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ragstone import embedder, weights

WIDTH, INNER, LAYERS, WORDS, PLACES = 32, 64, 2, 30_522, 64
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "vocab_size": WORDS,
    "max_position_embeddings": PLACES,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
}


def tiny(folder: Path, seed: int = 17) -> Path:
    """A complete model folder in `folder`; each seed is another model of the same width."""
    source = folder / "source"
    (source / "1_Pooling").mkdir(parents=True)
    save_file(_weights(seed), source / "model.safetensors")
    shutil.copyfile(weights.pull("minilm") / "tokenizer.json", source / "tokenizer.json")
    (source / "config.json").write_text(json.dumps(CONFIG))
    (source / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    (source / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": PLACES}))
    embedder.prepare(source, folder / "model", name="tiny", base="tiny")
    return folder / "model"


def _weights(seed: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    draw = np.random.default_rng(seed)
    shapes = {
        "embeddings.word_embeddings.weight": (WORDS, WIDTH),
        "embeddings.position_embeddings.weight": (PLACES, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "pooler.dense.weight": (WIDTH, WIDTH),
        "pooler.dense.bias": (WIDTH,),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{number}" for number in range(LAYERS)):
        dense = {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        dense |= {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (INNER, WIDTH), "output.dense": (WIDTH, INNER)}
        for name, (rows, columns) in dense.items():
            shapes |= {f"{layer}.{name}.weight": (rows, columns), f"{layer}.{name}.bias": (rows,)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    found = {name: draw.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    for norm in norms:
        found |= {f"{norm}.weight": np.ones(WIDTH, np.float32), f"{norm}.bias": np.zeros(WIDTH, np.float32)}
    return found
