"""The embedding model changes while a service, in a process of its own, is asked over HTTP all the time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from ragstone import config, draft, encoding, project, release, store
from ragstone.corpus.snapshot import chunks as read_chunks
from ragstone.corpus.views import views
from ragstone.show import Silence
from tests import engines, kills
from tests.kills import ROOT
from tests.many import many
from tests.origins import Origin, Site, until
from tests.speaker import speaking
from tests.tiny import tiny

SIZE = 1240
CLIENTS = 2
QUESTIONS = ("Which seal has part 7?", "valve3 seal5", "Where is pump1200 fitted?", "What belongs to part 44?")
APART = 0.05
"""What a cosine between one model's question and the other's passage must be off by, to be told from a right one; rounding makes 0.001."""

Cosines = Mapping[str, Mapping[str, float]]
"""Question -> chunk -> cosine."""


@contextmanager
def serving(site: Site) -> Iterator[Origin]:
    """`ragstone serve` in a process of its own."""
    command = [sys.executable, "-m", "ragstone", "serve", "--port", "0"]
    environment, key = {**os.environ, "PYTHONPATH": str(ROOT)}, site.key()
    with subprocess.Popen(command, cwd=site.settings.folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            origin = Origin(site, process.stdout.readline().split()[1], key)
            until(lambda: origin.request("GET", "/readyz").status == 200)
            yield origin
        finally:
            process.terminate()


@dataclass
class Load:
    """What the clients saw: replies by release, and each hit as question, chunk, cosine."""

    origin: Origin
    over: threading.Event = field(default_factory=threading.Event)
    faults: list[bytes] = field(default_factory=list)
    replies: Counter[str] = field(default_factory=Counter)
    hits: dict[str, set[tuple[str, str, float]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self) -> None:
        """Ask one question after the other until it is over."""
        number = 0
        while not self.over.is_set():
            question, number = QUESTIONS[number % len(QUESTIONS)], number + 1
            reply = self.origin.request("POST", "/v1/retrieve", {"query": question, "top_k": 5})
            with self.lock:
                if reply.status != 200:
                    self.faults.append(reply.data)
                    continue
                name = reply.headers["x-ragstone-release"]
                self.replies[name] += 1
                seen = self.hits.setdefault(name, set())
                seen |= {(question, hit["chunk"], hit["scores"]["dense"]) for hit in json.loads(reply.data)["data"]}

    def more(self, name: str) -> None:
        """Wait for some more replies of a release."""
        before = self.replies[name]
        until(lambda: self.replies[name] >= before + 20)


def cosines(at: store.Store, snapshot: str, asking: str, holding: str) -> Cosines:
    """Of the questions under one model to the passages under another."""
    chunks = list(read_chunks(at, snapshot))
    vectors = project.open_model(at, holding).passages([views(chunk) for chunk in chunks])
    found = project.open_model(at, asking).queries(QUESTIONS) @ vectors.T
    ids = [chunk.id for chunk in chunks]
    return {question: dict(zip(ids, row.tolist(), strict=True)) for question, row in zip(QUESTIONS, found, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["local", "opensearch"])
def test_the_model_changes_under_load_without_a_failed_query_and_without_a_mixed_one(tmp_path: Path, place: str) -> None:
    url = engines.url(f"change-{uuid4().hex}") if place == "opensearch" else place
    with speaking() as speaker:
        settings = many(tmp_path, SIZE, tiny(tmp_path / "first"), speaker.url, url)
        at = store.connect(settings.store_url)
        first = project.build(settings, at, Silence())
        other = project.base(config.override(settings, "train", base=str(tiny(tmp_path / "second", seed=18))), at, Silence())
        with serving(Site(settings, at)) as origin, ThreadPoolExecutor(CLIENTS) as pool:
            load = Load(origin)
            clients = [pool.submit(load.ask) for _ in range(CLIENTS)]
            try:
                load.more(first.id)
                kills.index(settings, first.snapshot, other, "encode", encoding.FIRST + 200)
                (told,) = draft.progress(settings.work_folder)
                assert (told.model, told.encoded, told.running) == (other, encoding.FIRST, False)
                load.more(first.id)
                second = project.assemble(settings, at, first.snapshot, other, "another model", Silence())
                load.more(first.id)
                release.promote(at, "production", second.id, after=1)
                load.more(second.id)
                release.rollback(at, "production")
                load.more(first.id)
            finally:
                load.over.set()
            for client in clients:
                client.result()
    assert load.faults == []
    assert load.replies.keys() == {first.id, second.id}
    right = {made.id: cosines(at, made.snapshot, made.model, made.model) for made in (first, second)}
    mixed = [cosines(at, first.snapshot, *both) for both in ((first.model, other), (other, first.model))]
    for name, hits in load.hits.items():
        for question, chunk, cosine in hits:
            assert cosine == pytest.approx(right[name][question][chunk], abs=2e-3)
            assert all(abs(cosine - wrong[question][chunk]) > APART for wrong in mixed)
