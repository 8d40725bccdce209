"""A model folder in PyTorch: what is trained, and what runs models that have no graph. Safetensors only; no code of a model's own runs.

Encoders of BERT's kind are computed here, from the tensors that the graph is built of; others by the package transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nn
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ragstone.errors import WeightsError
from ragstone.model import architecture, dense
from ragstone.model.card import Card, read_card
from ragstone.model.layout import STATIC
from ragstone.model.tensors import FILE
from ragstone.model.tokens import tokenizer

FROZEN = ("embeddings.word_embeddings.", "pooler.")
"""Half of MiniLM's weights: a few thousand pairs touch each word too rarely to move it well, and a checkpoint is half as big. The
pooler takes no part in the vectors."""


class Encoder:
    """Texts in, unit vectors out. `weights` are those that training may move, by name; `stored` is the name of each in the weight file."""

    weights: dict[str, Tensor]
    stored: dict[str, str]
    dropout: float
    pace = 1.0
    """How many times the recipe's learning rate its weights take."""
    special = True
    """Whether the tokenizer's own tokens stand around a text."""

    def __init__(self, folder: Path, card: Card, device: torch.device, half: bool) -> None:
        self.card, self.device, self.half = card, device, half
        self.tokenizer = tokenizer(folder, card.max_tokens)
        self.tokenizer.enable_padding()
        self.limit = card.max_tokens
        self.layers_after = [_on(device, dense.load(folder / layer)) for layer in card.dense]

    def encode(self, texts: Sequence[str], tokens: int, dropout: float = 0.0) -> Tensor:
        """float32 [n, dimensions] on the device, with gradients where the weights ask for them; a text is cut to `tokens` tokens."""
        return self.vectors(*self.read(texts, tokens), dropout)

    def vectors(self, ids: Tensor, mask: Tensor, dropout: float = 0.0) -> Tensor:
        """The same for token ids [n, tokens] of which `mask` are the texts', padded at their end."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            states = self.states(ids, mask, dropout).float()
        vectors = self._pool(states, mask)
        for weight, bias, tanh in self.layers_after:
            vectors = nn.linear(vectors, weight, bias)
            vectors = vectors.tanh() if tanh else vectors
        return nn.normalize(vectors, dim=1)

    def states(self, ids: Tensor, mask: Tensor, dropout: float) -> Tensor:
        """The last hidden states, [n, tokens, width]; texts are padded at their end."""
        raise NotImplementedError

    def read(self, texts: Sequence[str], tokens: int) -> tuple[Tensor, Tensor]:
        """Token ids [n, tokens] of texts that are cut to `tokens` tokens, padded at their end, and which of them are the texts'."""
        tokens = min(tokens, self.card.max_tokens)
        if tokens != self.limit:  # not otherwise: another thread may be reading
            self.tokenizer.enable_truncation(tokens)
            self.limit = tokens
        read = self.tokenizer.encode_batch(list(texts), add_special_tokens=self.special)
        ids = torch.tensor([one.ids for one in read], device=self.device, dtype=torch.long)
        return ids, torch.tensor([one.attention_mask for one in read], device=self.device, dtype=torch.bool)

    def _pool(self, states: Tensor, mask: Tensor) -> Tensor:
        if self.card.pooling == "cls":
            return states[:, 0]
        if self.card.pooling == "last":
            return states[torch.arange(len(states), device=self.device), mask.sum(1) - 1]
        weight = mask.unsqueeze(-1).float()
        return (states * weight).sum(1) / weight.sum(1)


class BertEncoder(Encoder):
    """An encoder of BERT's kind."""

    def __init__(self, folder: Path, card: Card, device: torch.device, half: bool) -> None:
        super().__init__(folder, card, device, half)
        config = architecture.read_config(folder / "config.json")
        self.architecture = architecture.read(config)
        self.dropout = self.architecture.dropout
        tensors = {name: weight.float().to(device) for name, weight in load_file(folder / FILE).items() if weight.is_floating_point()}
        self.tensors = {architecture.bert_name(name, config): weight for name, weight in tensors.items()}
        self.stored = {architecture.bert_name(name, config): name for name in tensors}
        self.weights = {name: weight for name, weight in self.tensors.items() if not name.startswith(FROZEN)}

    def states(self, ids: Tensor, mask: Tensor, dropout: float) -> Tensor:
        """The last hidden states, [n, tokens, width]."""
        states = nn.dropout(self._norm("embeddings.LayerNorm", self._embed(ids)), dropout)
        seen = self._seen(mask)
        for layer in range(self.architecture.layers):
            at = f"encoder.layer.{layer}"
            attended = self._linear(f"{at}.attention.output.dense", self._attend(f"{at}.attention.self", states, seen, dropout))
            states = self._norm(f"{at}.attention.output.LayerNorm", states + nn.dropout(attended, dropout))
            inner = self._linear(f"{at}.output.dense", nn.gelu(self._linear(f"{at}.intermediate.dense", states)))
            states = self._norm(f"{at}.output.LayerNorm", states + nn.dropout(inner, dropout))
        return states

    def _embed(self, ids: Tensor) -> Tensor:
        first = self.architecture.first
        places = self.tensors["embeddings.position_embeddings.weight"][first : first + ids.shape[1]]
        states = nn.embedding(ids, self.tensors["embeddings.word_embeddings.weight"]) + places
        types = self.tensors.get("embeddings.token_type_embeddings.weight")
        return states if types is None else states + types[0]

    def _seen(self, mask: Tensor) -> Tensor:
        """What the attention of every layer gets: whether a token is seen, or by how much more, [n, 1 or heads, 1 or tokens, tokens]."""
        table = self.tensors.get(architecture.DISTANCES)
        if table is None:
            return mask[:, None, None, :]
        rows = torch.from_numpy(architecture.buckets(mask.shape[1], len(table))).to(self.device)
        return table[rows].permute(2, 0, 1).masked_fill(~mask[:, None, None, :], -torch.inf)

    def _attend(self, at: str, states: Tensor, seen: Tensor, dropout: float) -> Tensor:
        texts, tokens, width = states.shape
        parts = (self._linear(f"{at}.{part}", states) for part in ("query", "key", "value"))
        query, key, value = (part.view(texts, tokens, self.architecture.heads, -1).transpose(1, 2) for part in parts)
        seen = seen if seen.dtype == torch.bool else seen.to(query.dtype)
        mixed = nn.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
        return mixed.transpose(1, 2).reshape(texts, tokens, width)

    def _linear(self, at: str, states: Tensor) -> Tensor:
        return nn.linear(states, self.tensors[f"{at}.weight"], self.tensors[f"{at}.bias"])

    def _norm(self, at: str, states: Tensor) -> Tensor:
        weight, bias = self.tensors[f"{at}.weight"], self.tensors[f"{at}.bias"]
        return nn.layer_norm(states.float(), weight.shape, weight, bias, self.architecture.epsilon)


class AnyEncoder(Encoder):
    """A transformer of any architecture that the package transformers has. Its word embeddings are not trained, like BERT's, nor is a
    weight that the package puts together from several of the file's."""

    def __init__(self, folder: Path, card: Card, device: torch.device, half: bool) -> None:
        super().__init__(folder, card, device, half)
        self.model = _transformer(folder).to(device).eval()
        self.dropout = max((module.p for module in self.model.modules() if isinstance(module, torch.nn.Dropout)), default=0.0)
        words = {id(weight) for weight in self.model.get_input_embeddings().parameters()}
        moved = {name: weight.requires_grad_(False) for name, weight in self.model.named_parameters() if id(weight) not in words}
        self.stored = _stored(folder, moved)
        self.weights = {name: moved[name] for name in self.stored if "pooler." not in name}

    def states(self, ids: Tensor, mask: Tensor, dropout: float) -> Tensor:
        """The last hidden states, [n, tokens, width]; a rate of dropout turns on the model's own."""
        if self.model.training != bool(dropout):
            self.model.train(bool(dropout))
        states: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return states


class StaticEncoder(Encoder):
    """A vector for each token; a text is their mean."""

    dropout = 0.0
    special = False
    pace = 100.0
    """A token's row is touched by the few texts that hold it: at a transformer's rate it would not move."""

    def __init__(self, folder: Path, card: Card, device: torch.device, half: bool) -> None:
        super().__init__(folder, card, device, half)
        ((name, table),) = ((name, tensor) for name, tensor in load_file(folder / FILE).items() if name in STATIC)
        self.weights, self.stored = {name: table.float().to(device)}, {name: name}

    def vectors(self, ids: Tensor, mask: Tensor, dropout: float = 0.0) -> Tensor:
        """float32 [n, dimensions]; a text without a token is zeros."""
        counts = mask.sum(1)
        (table,) = self.weights.values()
        return nn.normalize(nn.embedding_bag(ids[mask], table, counts.cumsum(0) - counts, mode="mean"), dim=1)


KINDS: Mapping[str, type[Encoder]] = {"onnx": BertEncoder, "static": StaticEncoder, "transformers": AnyEncoder}
"""The encoder of each engine's models."""


def open(folder: Path, device: torch.device, half: bool = False) -> Encoder:
    """The encoder of a complete model folder; `half` computes in bfloat16. Raises `WeightsError` when it can't be read or made."""
    card = read_card(folder)
    return KINDS[card.engine](folder, card, device, half)


def _on(device: torch.device, layer: dense.Dense) -> tuple[Tensor, Tensor, bool]:
    return torch.from_numpy(layer.weight.copy()).to(device), torch.from_numpy(layer.bias.copy()).to(device), layer.tanh


def _transformer(folder: Path) -> Any:
    """The model without its head, in float32."""
    try:
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
        from transformers.utils import logging
    except ImportError as error:
        kind = architecture.read_config(folder / "config.json").get("model_type")
        raise WeightsError(f"a {kind} model needs {error.name}, which is not installed", "pip install 'ragstone[transformers]'") from error
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config.use_cache = False
        kind = AutoModelForTextEncoding if "t5" in config.model_type else AutoModel  # without the decoder
        options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
        return kind.from_pretrained(folder, config=config, dtype=torch.float32, **options)
    except Exception as error:  # the package raises whatever it meets
        raise WeightsError(f"transformers can't load {folder}: {str(error).splitlines()[0]}", "ragstone models list") from error


def _stored(folder: Path, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The name in the weight file of each weight: its own, or the one that ends in it, under a head's prefix."""
    with safe_open(folder / FILE, framework="pt") as file:
        names = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  not a dictionary
    found = {}
    for name, weight in weights.items():
        ends = [name] if name in names else [one for one in names if one.endswith(f".{name}")]
        if len(ends) == 1 and names[ends[0]] == tuple(weight.shape):
            found[name] = ends[0]
    return found
