"""Text from the folder of a causal language model, token by token, by transformers on the CPU. It knows no HTTP.

Each answer is made alone, so that what else is asked changes none of its roundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragstone.errors import RequestError, WeightsError
from ragstone.wire import Message, Sampling, Usage

if TYPE_CHECKING:
    import torch


class Model:
    """A folder of safetensors with tokenizer.json and a chat template, loaded; `room` is how many tokens prompt and answer may have."""

    def __init__(self, folder: Path, room: int) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._chat = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not self._chat.chat_template:
            raise WeightsError(f"{folder} has no chat template, so how a question is put to it is not known")
        # without use_safetensors a .bin file beside them could be read, and float32 is what every CPU computes fast
        self._model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        most = int(getattr(self._model.config, "max_position_embeddings", None) or room)
        if room > most:
            raise WeightsError(f"{folder} has room for {most} tokens, and serve.context gives each slot {room}")
        self.room = room
        self.ends = _ends(self._model.generation_config.eos_token_id) | _ends(self._chat.eos_token_id)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, by the folder's own template. Raises `RequestError` when it is too long or refused there."""
        from jinja2 import TemplateError

        told = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text = self._chat.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise RequestError(f"the model's chat template refuses these messages: {error}", "messages") from error
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) >= self.room:
            raise RequestError(f"the prompt has {len(ids)} tokens, and the context of an answer is {self.room}", "messages")
        return ids

    def answer(self, prompt: Sequence[int], sampling: Sampling) -> Answer:
        """The answer to a prompt, of which nothing is made yet."""
        return Answer(self, prompt, sampling)

    def logits(self, ids: Sequence[int], past: Any) -> tuple[torch.Tensor, Any]:
        """What the model says of the next token, and what it remembers, after some more tokens."""
        import torch

        with torch.inference_mode():
            # for a whole prompt's tokens the logits would take gigabytes
            out = self._model(input_ids=torch.tensor([list(ids)]), past_key_values=past, use_cache=True, logits_to_keep=1)
            return out.logits[0, -1].float(), out.past_key_values


class Answer:
    """An answer in the making. It may be left after any step."""

    def __init__(self, model: Model, prompt: Sequence[int], sampling: Sampling) -> None:
        import torch
        from tokenizers.decoders import DecodeStream

        self._model, self._sampling = model, sampling
        self._most = min(sampling.max_tokens, model.room - len(prompt))
        self._next, self._past = list(prompt), None
        self._words = DecodeStream(skip_special_tokens=True)
        self._held = ""
        self._draw = torch.Generator()
        if sampling.seed is None:
            self._draw.seed()
        else:
            self._draw.manual_seed(sampling.seed % (1 << 63))
        self.usage = Usage(len(prompt), 0)

    def step(self) -> tuple[str, str | None]:
        """The text that one more token gives, which may be none, and at the end the finish reason: `stop` or `length`."""
        logits, self._past = self._model.logits(self._next, self._past)
        token = _drawn(logits, self._sampling, self._draw)
        self._next = [token]
        if token in self._model.ends:
            return self._held, "stop"
        self.usage = Usage(self.usage.prompt_tokens, self.usage.completion_tokens + 1)
        self._held += self._words.step(self._model.tokenizer, token) or ""
        found = [at for stop in self._sampling.stop if (at := self._held.find(stop)) >= 0]
        if found:
            return self._held[: min(found)], "stop"
        if self.usage.completion_tokens >= self._most:
            return self._held, "length"
        keep = beginning(self._held, self._sampling.stop)
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text, None


def beginning(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop sequence.

    >>> beginning("the pump\\n", ["\\n\\n"]), beginning("the pump", ["\\n\\n"]), beginning("a ##", ["###", "# "])
    (1, 0, 2)
    """
    return max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)


def _drawn(logits: torch.Tensor, sampling: Sampling, draw: torch.Generator) -> int:
    """The likeliest token at temperature 0; else one of the likeliest that make up `top_p`."""
    import torch

    if sampling.temperature == 0:
        return int(logits.argmax())
    shares, tokens = torch.softmax(logits / sampling.temperature, -1).sort(descending=True)
    kept = shares * (shares.cumsum(-1) - shares < max(sampling.top_p, 1e-6))
    return int(tokens[torch.multinomial(kept, 1, generator=draw)])


def _ends(told: int | list[int] | None) -> frozenset[int]:
    return frozenset() if told is None else frozenset([told] if isinstance(told, int) else told)
