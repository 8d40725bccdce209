"""PAI-EAS under the generators' contract: its API on loopback says where a real server answers, and with which token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ragstone import serve
from ragstone.config import Serve, Settings
from ragstone.serve import Generator
from ragstone.serve.local import LocalGenerator
from tests import cloud as clouds
from tests.conformance.test_serve import (  # noqa: F401
    loop,
    replica,
    test_a_prompt_beyond_the_context_is_refused_and_harms_nothing,
    test_a_seed_makes_a_warm_answer_repeat,
    test_a_stop_sequence_ends_the_answer_and_is_no_part_of_it,
    test_an_answer_comes_in_pieces_and_only_the_last_carries_the_end,
    test_at_temperature_zero_an_answer_is_the_same_again_and_beside_another,
    test_closing_the_stream_stops_the_generation,
    test_max_tokens_bounds_the_answer,
    test_the_version_is_a_digest_that_stays_the_same,
    test_what_is_asked_may_hold_any_text,
)


@pytest.fixture(scope="module")
def generator(loop: asyncio.Runner, replica: LocalGenerator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:  # noqa: F811
    pytest.importorskip("ragstone.serve.eas", reason="pip install 'ragstone[eas]'")
    with pytest.MonkeyPatch.context() as monkeypatch, clouds.running(Path(tmp_path_factory.mktemp("cloud"))) as cloud:
        clouds.keys(monkeypatch)
        cloud.services.looks = 0
        cloud.services.answer("POST", "", {}, {"name": "llm", "metadata": {}, "containers": []})
        cloud.services.elsewhere = replica.endpoint.url.removesuffix("/v1")
        cloud.services.token = replica.endpoint.key
        made = serve.connect(Settings(serve=Serve(url=f"eas://llm?region={clouds.REGION}&endpoint={cloud.endpoint}")))
        loop.run(made.start())
        yield made
        loop.run(made.close())
