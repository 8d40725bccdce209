"""What the running system says of itself: Prometheus metrics, and OpenTelemetry spans with the GenAI semantic conventions.

Nothing here records what was asked, retrieved or answered, nor a key: counts, times, names and digests only. Spans cost nothing
until `configure` sets up the SDK.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ragstone.errors import ConfigError, RagstoneError
from ragstone.wire import Sampling, Usage

Attributes = dict[str, str | int | float | bool]

CONTENT_TYPE = CONTENT_TYPE_LATEST
REGISTRY = CollectorRegistry(auto_describe=True)
"""Our own: nothing that another library registers is shown."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Bucket bounds from a cache hit (1 ms) to the generator's time-out (120 s)."""

requests = Counter("ragstone_requests", "HTTP requests answered.", ["part", "route", "status"], registry=REGISTRY)
"""`part` is `origin` or `edge`, for both may run in one process; `route` is the template, never the raw path."""
seconds = Histogram("ragstone_seconds", "Time of a stage of one answer, in seconds.", ["stage"], buckets=SECONDS, registry=REGISTRY)
"""`stage` is one of retrieve, generate, first_token, total."""
tokens = Counter("ragstone_tokens", "Tokens of the generator.", ["kind"], registry=REGISTRY)
"""`kind` is `input` or `output`."""
answers = Counter("ragstone_answers", "Answers by what they rest on.", ["basis"], registry=REGISTRY)
"""`basis` is generated, quoted or abstained."""
reused = Counter("ragstone_reused", "Answers given again to a question in other words.", registry=REGISTRY)
cache = Counter("ragstone_cache", "Answers of the edge by cache state.", ["state"], registry=REGISTRY)
"""`state` is hit, revalidated, miss or bypass."""
shared_failures = Counter("ragstone_shared_failures", "Calls of the edge's shared Redis that failed.", registry=REGISTRY)
origin_failures = Counter("ragstone_origin_failures", "Requests of the edge that an origin failed.", ["origin"], registry=REGISTRY)
hedges = Counter("ragstone_hedges", "Second requests of the edge, because the first was late.", registry=REGISTRY)
failures = Counter("ragstone_generator_failures", "Generations that failed.", ["code"], registry=REGISTRY)
replicas = Gauge("ragstone_replicas", "Local replicas that take requests.", ["model"], registry=REGISTRY)
restarts = Counter("ragstone_replica_restarts", "Local replicas started again after they died.", registry=REGISTRY)
_release = Gauge("ragstone_release_info", "1 for the release in force on a channel.", ["channel", "release"], registry=REGISTRY)
_in_force: dict[str, str] = {}
_number = Gauge("ragstone_release_number", "The number of the channel's record in force.", ["channel"], registry=REGISTRY)
_gain = Gauge("ragstone_training_gain", "Held-out gain of the last training: mean and bounds.", ["measure", "bound"], registry=REGISTRY)
_verdict = Gauge("ragstone_training_promoted", "1 when the last trained model was promoted, 0 when it was refused.", registry=REGISTRY)


_service: ContextVar[str] = ContextVar("service", default="")


@contextmanager
def serving(service: str) -> Iterator[None]:
    """What is logged inside, and in tasks that begin there, is of this service version."""
    token = _service.set(service)
    try:
        yield
    finally:
        _service.reset(token)


def service() -> str:
    """The service version that this is done for; empty for none."""
    return _service.get()


def exposition() -> bytes:
    """All metrics in Prometheus' text format, to be served as `CONTENT_TYPE`."""
    return generate_latest(REGISTRY)


def samples() -> dict[str, list[tuple[dict[str, str], float]]]:
    """Every count, sum and gauge now, by the name of its metric: labels and value. Of histograms the buckets are left out."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for sample in (sample for metric in REGISTRY.collect() for sample in metric.samples):
        if not sample.name.endswith(("_bucket", "_created")):
            found.setdefault(sample.name, []).append((dict(sample.labels), float(sample.value)))
    return found


def released(channel: str, release: str, number: int) -> None:
    """Show `release` as the one in force on `channel`, instead of the one before it."""
    if channel in _in_force:
        _release.remove(channel, _in_force[channel])
    _in_force[channel] = release
    _release.labels(channel, release).set(1)
    _number.labels(channel).set(number)


def trained(promoted: bool, measure: str, gain: float, low: float, high: float) -> None:
    """Show the training verdict: the gain in `measure` (`ndcg@10`) with its confidence interval."""
    _verdict.set(promoted)
    for bound, value in (("mean", gain), ("low", low), ("high", high)):
        _gain.labels(measure, bound).set(value)


@contextmanager
def stage(name: str, **attributes: str | int | float | bool) -> Iterator[Span]:
    """Times a stage and spans it as `ragstone <name>`; an error inside is the span's status. Yields the span, to add attributes to.

    What runs inside is below it in the trace, so a generator must not yield in it.
    """
    begun = perf_counter()
    named: Attributes = {f"ragstone.{key}": value for key, value in attributes.items()}
    start = trace.get_tracer("ragstone").start_as_current_span
    with start(f"ragstone {name}", attributes=named, record_exception=False, set_status_on_exception=False) as span, _faults(span):
        yield span
    seconds.labels(name).observe(perf_counter() - begun)


@dataclass
class Generation:
    """One generation under way: tell it of the first token and of the end."""

    span: Span
    begun: float
    _spoke: bool = False

    def token(self) -> None:
        """Text arrived. Only the first call counts: the time to first token."""
        if not self._spoke:
            self._spoke = True
            seconds.labels("first_token").observe(perf_counter() - self.begun)

    def end(self, finish: str, usage: Usage) -> None:
        """The answer is whole: why it ended and what it used."""
        self.span.set_attribute("gen_ai.response.finish_reasons", [finish])
        self.span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
        self.span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
        tokens.labels("input").inc(usage.prompt_tokens)
        tokens.labels("output").inc(usage.completion_tokens)


@contextmanager
def generation(provider: str, model: str, sampling: Sampling) -> Iterator[Generation]:
    """Times and spans one call of a generator, as the GenAI conventions say. It may hold a `yield`. `provider` is the connector."""
    attributes: Attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "gen_ai.output.type": "text",
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
    }
    if sampling.seed is not None:
        attributes["gen_ai.request.seed"] = sampling.seed
    # never the current span: the context in which a stream is read or closed may not be the one in which it was begun
    span = trace.get_tracer("ragstone").start_span(f"chat {model}", kind=SpanKind.CLIENT, attributes=attributes)
    begun = perf_counter()
    try:
        with _faults(span):
            yield Generation(span, begun)
    except RagstoneError as error:
        failures.labels(error.code).inc()
        raise
    finally:
        span.end()
    seconds.labels("generate").observe(perf_counter() - begun)


def configure(endpoint: str, version: str = "") -> None:
    """Send spans to the OTLP/HTTP `endpoint` (`telemetry.otlp`); an empty one sends none.

    Raises `ConfigError` when it is no http(s) URL or the `otlp` extra is not installed.
    """
    if not endpoint:
        return
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"telemetry.otlp = {endpoint!r} is not an http:// or https:// URL")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(f"telemetry.otlp needs a package that is not installed: {error.name}", "pip install 'ragstone[otlp]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "ragstone", "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=_traces(endpoint))))
    trace.set_tracer_provider(provider)


def _traces(endpoint: str) -> str:
    """The signal's own URL: the OTLP specification puts `/v1/traces` below a base endpoint."""
    return endpoint if endpoint.endswith("/v1/traces") else endpoint.rstrip("/") + "/v1/traces"


@contextmanager
def _faults(span: Span) -> Iterator[None]:
    """An error inside is the span's status, by type and code only: its message may quote what was asked."""
    try:
        yield
    except Exception as error:
        span.set_attribute("error.type", error.code if isinstance(error, RagstoneError) else type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
        raise
