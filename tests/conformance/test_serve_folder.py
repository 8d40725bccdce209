"""A Hugging Face folder under the generators' contract: transformers in processes. And its own: files, template, versions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest

from ragstone import programs, service, store
from ragstone.config import Serve, Settings
from ragstone.decode import Model
from ragstone.errors import GeneratorError, WeightsError
from ragstone.replicas import Child
from ragstone.serve import Message, Sampling, ray
from ragstone.serve.local import LocalGenerator
from ragstone.vllm import Vllm
from tests.causal import made
from tests.conformance.test_serve import (  # noqa: F401
    CONTEXT,
    PUMP,
    VALVE,
    answer,
    loop,
    test_a_prompt_beyond_the_context_is_refused_and_harms_nothing,
    test_a_seed_makes_a_warm_answer_repeat,
    test_a_stop_sequence_ends_the_answer_and_is_no_part_of_it,
    test_an_answer_comes_in_pieces_and_only_the_last_carries_the_end,
    test_at_temperature_zero_an_answer_is_the_same_again_and_beside_another,
    test_max_tokens_bounds_the_answer,
    test_the_version_is_a_digest_that_stays_the_same,
    test_what_is_asked_may_hold_any_text,
)
from tests.test_service import written

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed: pip install 'ragstone[transformers]'"
)


def of(folder: Path, **serve: int) -> LocalGenerator:
    return LocalGenerator(Settings(serve=Serve(**{"url": f"local://{folder}", "threads": 1, "slots": 2, "context": CONTEXT, **serve})))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="module")
def generator(folder: Path, loop: asyncio.Runner) -> Iterator[LocalGenerator]:  # noqa: F811
    found = of(folder)
    loop.run(found.start())
    yield found
    loop.run(found.close())


def test_an_answer_is_that_of_transformers_own_generation(folder: Path, generator: LocalGenerator, loop: asyncio.Runner) -> None:  # noqa: F811
    text, last = loop.run(answer(generator, VALVE, Sampling(max_tokens=20)))
    assert (text, last.finish) == (generated(folder), "length")


def test_an_answer_ends_where_the_model_ends_it_and_what_its_template_refuses_is_an_error(
    tmp_path: Path,
    loop: asyncio.Runner,  # noqa: F811
) -> None:
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template = made(tmp_path, ends=True) / "chat_template.jinja"
    template.write_text(refusing + template.read_text())

    async def case() -> None:
        one = of(tmp_path)
        await one.start()
        text, last = await answer(one, VALVE, Sampling(max_tokens=20))
        assert (text, last.finish) == (generated(tmp_path), "stop")
        with pytest.raises(GeneratorError, match="no system role"):
            await answer(one, [Message("system", "Be short."), *VALVE])
        await one.close()

    loop.run(case())


def generated(folder: Path) -> str:
    """The answer by transformers' own `generate`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    told = [{"role": "user", "content": VALVE[0].content}]
    prompt = tokenizer.apply_chat_template(told, add_generation_prompt=True, return_tensors="pt")
    tokens = model.generate(**prompt, do_sample=False, max_new_tokens=20)[0]
    return str(tokenizer.decode(tokens[prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def test_openais_client_gets_whole_answers_and_streams(generator: LocalGenerator, loop: asyncio.Runner) -> None:  # noqa: F811
    told, _ = loop.run(answer(generator, VALVE))

    async def case() -> None:
        at = generator.endpoint
        async with openai.AsyncOpenAI(base_url=at.url, api_key=at.key) as client:
            asked = {"model": at.model, "messages": [{"role": "user", "content": VALVE[0].content}], "max_tokens": 12, "temperature": 0}
            whole = await client.chat.completions.create(**asked)  # type: ignore[call-overload]
            assert whole.choices[0].message.content == told
            assert whole.usage.completion_tokens == 12
            parts = [part async for part in await client.chat.completions.create(**asked, stream=True)]  # type: ignore[call-overload]
            assert "".join(part.choices[0].delta.content or "" for part in parts) == told
            with pytest.raises(openai.BadRequestError, match="text as its content"):
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": [{"type": "text", "text": "?"}]}])
        async with openai.AsyncOpenAI(base_url=at.url, api_key="another") as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()

    loop.run(case())


def test_closing_the_stream_stops_the_generation(folder: Path, loop: asyncio.Runner) -> None:  # noqa: F811
    """With one slot the next question would wait for the 100,000 tokens of the one before."""

    async def case() -> None:
        one = of(folder, slots=1, context=120_000)
        await one.start()
        async with aclosing(one.stream(PUMP, Sampling(max_tokens=100_000))) as pieces:
            await anext(pieces)
        async with asyncio.timeout(60):
            assert (await answer(one, VALVE))[1].finish == "length"
        await one.close()

    loop.run(case())


def test_other_files_under_a_version_are_not_served_and_are_another_version(tmp_path: Path, loop: asyncio.Runner) -> None:  # noqa: F811
    before = of(made(tmp_path))
    version = before.version
    made(tmp_path, seed=18)
    with pytest.raises(GeneratorError, match="has other files than when its version was read"):
        loop.run(before.start())
    assert of(tmp_path).version != version


def test_a_folder_without_a_chat_template_or_with_less_room_than_is_asked_for_can_not_be_served(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(WeightsError, match=r"has room for 131072 tokens, and serve\.context gives each slot 200000"):
        Model(tmp_path, 200_000)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(WeightsError, match="has no chat template"):
        Model(tmp_path, CONTEXT)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed: with a GPU it would start")
def test_vllm_where_it_is_not_installed_is_an_error_and_its_key_is_in_no_process_list(folder: Path, loop: asyncio.Runner) -> None:  # noqa: F811
    kind = programs.choose(folder, "tiny", Serve(context=CONTEXT), gpus=1).keyed("a-key")
    assert isinstance(kind, Vllm)
    assert "a-key" not in " ".join(kind.command(1))
    with pytest.raises(GeneratorError, match="vLLM is not installed on this node"):
        loop.run(Child.start(kind))


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    (made(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"only pytorch_model\.bin, which may run code"):
        _ = of(tmp_path).version


def test_a_folder_is_deployed_as_a_version_here_and_named_as_what_it_is_on_ray(folder: Path, settings: Settings, tmp_path: Path) -> None:
    opened, told = (
        store.connect(settings.store_url),
        {"name": "tiny", "model": f"local://{folder}", "slots": 1, "context": 512, "threads": 1},
    )
    service.deploy(settings, opened, service.read(written(tmp_path, told), "v1", settings), print)
    assert "tiny/v1" in service.deployed(opened)
    on_cpu = service.read(written(tmp_path, told), "v2", settings)
    assert "1 to 1 replicas of transformers with" in service.explain(on_cpu, "ray")
    on_gpu = service.read(written(tmp_path, {**told, "metadata": {"gpu": 1}}), "v3", settings)
    assert "1 to 1 replicas of vLLM on 1 GPU each with" in service.explain(on_gpu, "ray")
    assert "metadata.gpu is not used here" in service.explain(on_gpu)
    assert "metadata.gpu" not in service.explain(on_gpu, "ray")
    assert ray.read(ray.address(on_gpu, "ray")).gpu == 1
