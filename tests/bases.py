"""Narrow base models of many architectures in Sentence-Transformers' layout, of seeded noise, as their authors publish them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ragstone import weights

WORDS, WIDTH, PLACES = 30_522, 64, 130
NARROW: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CAUSAL: dict[str, Any] = {
    **NARROW,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": PLACES,
    "tie_word_embeddings": True,
}


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**NARROW, max_position_embeddings=PLACES))


def _roberta() -> Any:
    from transformers import RobertaConfig, RobertaModel

    return RobertaModel(RobertaConfig(**NARROW, max_position_embeddings=PLACES, type_vocab_size=1, layer_norm_eps=1e-5))


def _xlm_roberta() -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    return XLMRobertaModel(XLMRobertaConfig(**NARROW, max_position_embeddings=PLACES, type_vocab_size=1, layer_norm_eps=1e-5))


def _distilbert() -> Any:
    from transformers import DistilBertConfig, DistilBertModel

    return DistilBertModel(
        DistilBertConfig(vocab_size=WORDS, dim=WIDTH, hidden_dim=96, n_layers=2, n_heads=4, max_position_embeddings=PLACES)
    )


def _mpnet() -> Any:
    from transformers import MPNetConfig, MPNetModel

    return MPNetModel(MPNetConfig(**NARROW, max_position_embeddings=PLACES, layer_norm_eps=1e-5))


def _relu() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**NARROW, max_position_embeddings=PLACES, hidden_act="relu"))


def _modernbert() -> Any:
    from transformers import ModernBertConfig, ModernBertModel

    return ModernBertModel(ModernBertConfig(**NARROW, max_position_embeddings=PLACES, pad_token_id=0, cls_token_id=101, sep_token_id=102))


def _qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(Qwen3Config(**CAUSAL))


def _t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=WORDS, d_model=WIDTH, d_kv=16, d_ff=96, num_layers=2, num_heads=4))


GRAPHED: Mapping[str, Callable[[], Any]] = {
    "bert": _bert,
    "roberta": _roberta,
    "xlm-roberta": _xlm_roberta,
    "distilbert": _distilbert,
    "mpnet": _mpnet,
}
"""Those that the graph is built for."""

OTHERS: Mapping[str, Callable[[], Any]] = {"relu": _relu, "modernbert": _modernbert, "qwen3": _qwen3, "t5": _t5}
"""Those that the package transformers runs."""


def base(
    folder: Path,
    kind: str,
    *,
    pooling: str = "pooling_mode_mean_tokens",
    dense: Sequence[str] = (),
    prompts: Mapping[str, str] | None = None,
    normalise: bool = True,
) -> Path:
    """The model in `folder`, with a dense layer for each activation named."""
    import torch

    torch.manual_seed(17)
    model = {**GRAPHED, **OTHERS}[kind]().eval()
    _save(model, folder)
    put(folder / "1_Pooling/config.json", {"word_embedding_dimension": WIDTH, pooling: True})
    put(folder / "config_sentence_transformers.json", {"prompts": prompts or {}, "similarity_fn_name": "cosine"})
    layers = [("Transformer", ""), ("Pooling", "1_Pooling")]
    for number, activation in enumerate(dense, len(layers)):
        layers.append(("Dense", f"{number}_Dense"))
        _dense(folder / f"{number}_Dense", activation)
    layers += [("Normalize", f"{len(layers)}_Normalize")] if normalise else []
    put(
        folder / "modules.json",
        [{"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{of}"} for at, (of, path) in enumerate(layers)],
    )
    return folder


def put(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _dense(folder: Path, activation: str) -> None:
    import torch
    from safetensors.torch import save_file

    put(folder / "config.json", {"in_features": WIDTH, "out_features": WIDTH, "bias": True, "activation_function": activation})
    linear = torch.nn.Linear(WIDTH, WIDTH)
    save_file({f"linear.{name}": tensor.detach() for name, tensor in linear.named_parameters()}, folder / "model.safetensors")


def cross_encoder(folder: Path, outputs: int = 1) -> Path:
    """A transformer that scores a question with a passage, as Sentence-Transformers' CrossEncoder saves one."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(17)
    config: Any = BertConfig(**NARROW, max_position_embeddings=PLACES)
    config.num_labels = outputs
    model: Any = BertForSequenceClassification(config)
    _save(model.eval(), folder)
    return folder


def _save(model: Any, folder: Path) -> None:
    import torch

    for weight in model.parameters():
        if weight.dim() == 2:  # wide enough that a text's words, not the position alone, make its vector
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    model.save_pretrained(folder)
    shutil.copyfile(weights.pull("minilm") / "tokenizer.json", folder / "tokenizer.json")
    special = {name: f"[{name.removesuffix('_token').upper()}]" for name in ("pad_token", "cls_token", "sep_token", "unk_token")}
    put(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128, **special})


def static(folder: Path) -> Path:
    """A static model as Sentence-Transformers saves one: no `config.json`."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(17)
    save_file({"embedding.weight": torch.randn(WORDS, WIDTH)}, folder / "model.safetensors")
    shutil.copyfile(weights.pull("minilm") / "tokenizer.json", folder / "tokenizer.json")
    put(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"}])
    return folder
