import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client.parser import text_string_to_metric_families

from ragstone import telemetry
from ragstone.errors import ConfigError, GeneratorError
from ragstone.wire import Sampling, Usage

EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def sdk() -> None:
    """OpenTelemetry takes one provider per process."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)


@pytest.fixture(autouse=True)
def spans() -> Iterator[InMemorySpanExporter]:
    EXPORTER.clear()
    yield EXPORTER
    EXPORTER.clear()


def sample(name: str, **labels: str) -> float | None:
    return telemetry.REGISTRY.get_sample_value(name, labels)


def span(spans: InMemorySpanExporter) -> ReadableSpan:
    (only,) = spans.get_finished_spans()
    return only


def test_the_exposition_is_what_prometheus_reads_and_every_metric_is_ours() -> None:
    telemetry.requests.labels("origin", "/v1/models", "200").inc()
    families = {family.name: family for family in text_string_to_metric_families(telemetry.exposition().decode())}
    assert all(name.startswith("ragstone_") for name in families)
    assert all(family.documentation for family in families.values())
    assert "ragstone_requests" in families


def test_every_metric_has_its_row_in_the_docs() -> None:
    page = (Path(__file__).parent.parent / "docs/telemetry.md").read_text(encoding="utf-8")
    for family in telemetry.REGISTRY.collect():
        assert f"| `{family.name}{'_total' if family.type == 'counter' else ''}` |" in page


def test_a_new_release_takes_the_place_of_the_one_before() -> None:
    telemetry.released("canary", "r-1", 1)
    telemetry.released("canary", "r-2", 2)
    assert sample("ragstone_release_info", channel="canary", release="r-1") is None
    assert sample("ragstone_release_info", channel="canary", release="r-2") == 1
    assert sample("ragstone_release_number", channel="canary") == 2


def test_a_training_verdict_is_shown_with_its_interval() -> None:
    telemetry.trained(False, "ndcg@10", 0.01, -0.02, 0.04)
    assert sample("ragstone_training_promoted") == 0
    bounds = [sample("ragstone_training_gain", measure="ndcg@10", bound=bound) for bound in ("low", "mean", "high")]
    assert bounds == [-0.02, 0.01, 0.04]


def test_a_stage_is_timed_and_spanned(spans: InMemorySpanExporter) -> None:
    before = sample("ragstone_seconds_count", stage="retrieve") or 0
    with telemetry.stage("retrieve", limit=5) as inner:
        inner.set_attribute("ragstone.hits", 3)
    assert sample("ragstone_seconds_count", stage="retrieve") == before + 1
    assert span(spans).name == "ragstone retrieve"
    assert dict(span(spans).attributes or {}) == {"ragstone.limit": 5, "ragstone.hits": 3}


def test_what_happens_within_a_stage_is_below_it(spans: InMemorySpanExporter) -> None:
    with telemetry.stage("total"), telemetry.stage("retrieve"):
        pass
    inner, outer = spans.get_finished_spans()
    assert outer.context is not None
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id


def test_a_generation_carries_the_genai_conventions(spans: InMemorySpanExporter) -> None:
    first = sample("ragstone_seconds_count", stage="first_token") or 0
    output = sample("ragstone_tokens_total", kind="output") or 0
    with telemetry.generation("local", "smollm2", Sampling(max_tokens=9, seed=3)) as generation:
        generation.token()
        generation.token()
        generation.end("stop", Usage(20, 2))
    assert span(spans).name == "chat smollm2"
    assert dict(span(spans).attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "local",
        "gen_ai.request.model": "smollm2",
        "gen_ai.output.type": "text",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.seed": 3,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 2,
    }
    assert sample("ragstone_seconds_count", stage="first_token") == first + 1
    assert sample("ragstone_tokens_total", kind="output") == output + 2


def test_a_failure_is_named_by_its_code_and_never_by_its_message(spans: InMemorySpanExporter) -> None:
    before = sample("ragstone_generator_failures_total", code="generator_error") or 0
    secret = "the question was: where is the key"
    with pytest.raises(GeneratorError), telemetry.generation("openai", "qwen", Sampling()):
        raise GeneratorError(secret)
    with pytest.raises(ValueError), telemetry.stage("retrieve"):
        raise ValueError(secret)
    failed, broken = spans.get_finished_spans()
    assert (failed.attributes or {})["error.type"] == "generator_error"
    assert (broken.attributes or {})["error.type"] == "ValueError"
    assert {failed.status.status_code, broken.status.status_code} == {StatusCode.ERROR}
    assert secret not in failed.to_json() + broken.to_json()
    assert sample("ragstone_generator_failures_total", code="generator_error") == before + 1


PROGRAM = """
import sys
from opentelemetry import trace
from ragstone import telemetry
telemetry.configure(sys.argv[1], "0.1.0")
with telemetry.stage("retrieve"):
    pass
trace.get_tracer_provider().shutdown()
"""


class Collector(BaseHTTPRequestHandler):
    """A collector for OTLP over HTTP that hands on what it is sent."""

    received: Queue[tuple[str, bytes]] = Queue()

    def do_POST(self) -> None:
        self.received.put((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_configured_spans_reach_the_collector() -> None:
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        subprocess.run([sys.executable, "-c", PROGRAM, f"http://127.0.0.1:{server.server_port}"], check=True)
        path, body = Collector.received.get(timeout=30)
        server.shutdown()
    assert path == "/v1/traces"
    assert b"ragstone retrieve" in body
    assert b"0.1.0" in body


def test_without_an_endpoint_nothing_is_set_up() -> None:
    telemetry.configure("")


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match=re.escape("telemetry.otlp = 'collector:4318' is not an http")):
        telemetry.configure("collector:4318")


def test_a_missing_extra_is_named_with_the_command_that_installs_it() -> None:
    program = "import sys; sys.modules['opentelemetry.exporter'] = None; from ragstone import telemetry; telemetry.configure('http://127.0.0.1:1')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'ragstone[otlp]'" in done.stderr
