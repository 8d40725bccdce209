"""A Hugging Face folder of a generator small enough to be made in a test: two layers of seeded noise, and a tokenizer of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = """the pump starts when a valve opens and water runs to the boiler house where nine men look after old bearings
grease every bearing before winter name three kinds of valves what does a feed pump do answer in one sentence go on quote
tell me a very long story system user assistant word""".split()  # noqa: SIM905  a list of words reads better as prose
PLACES = 131_072
TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


def made(folder: Path, seed: int = 17, *, ends: bool = False) -> Path:
    """A complete folder; each seed is another model. Its answers are as long as they may be, unless it `ends` them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=_trained(), bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=PLACES,
        initializer_range=1.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    if not ends:
        model.lm_head.weight.data[tokenizer.eos_token_id] = 0  # beside noise, never the likeliest
    model.save_pretrained(folder)
    return folder


def _trained() -> Any:
    """Byte-free: noise may draw any tokens, and every row of them is text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS), json.dumps(WORDS)], trainer)
    return tokenizer
