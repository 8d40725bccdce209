"""An application: the release in force, with other settings of retrieval, or with passages that another system finds."""

from __future__ import annotations

from ragstone import project, rag
from ragstone import release as releases
from ragstone.config import Settings, override
from ragstone.errors import ConfigError, ReleaseError
from ragstone.release import Record, Release
from ragstone.show import Show
from ragstone.store import Store


def configured(settings: Settings, to: str | None, top_k: int | None, threshold: float | None, channel: str | None) -> Settings:
    """The settings with what a person asked for over them. Raises `ConfigError` on what can't be."""
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k is {top_k}: an answer rests on one passage at least", "ragstone app create --top-k 5")
    if threshold is not None and not 0 < threshold < 1:
        raise ConfigError(f"similarity_threshold is {threshold:g}: it is more than 0 and less than 1", "--similarity-threshold 0.75")
    settings = override(settings, "rag", url=to)
    settings = override(settings, "project", channel=channel)
    return override(settings, "retrieve", top_k=top_k, similarity_threshold=threshold)


def create(settings: Settings, store: Store, show: Show) -> Record:
    """The record that puts it in force: documents, model and generators stay. Raises `ReleaseError` where no release is in force."""
    record, release = _in_force(settings, store)
    made = project.assemble(settings, store, release.snapshot, release.model, "application", show)
    if made.id == record.release:
        return record
    made_record = releases.promote(store, record.channel, made.id, after=record.number)
    project.point(settings, store, made_record, show)
    return made_record


def explain(settings: Settings, store: Store) -> str:
    """The calls that `create` would make, and that each question would; none is made."""
    _, release = _in_force(settings, store)
    return rag.explain(settings, store, release.snapshot)


def lines(settings: Settings) -> str:
    """What belongs in ragstone.toml, so that the next build makes the same of new documents."""
    asked = settings.retrieve
    told = [f'rag.url = "{settings.rag.url}"', f"retrieve.top_k = {asked.top_k}"]
    told.append(f"retrieve.similarity_threshold = {asked.similarity_threshold:g}")
    return "\n".join(["the next build takes these from ragstone.toml:", *(f"  {line}" for line in told)])


def _in_force(settings: Settings, store: Store) -> tuple[Record, Release]:
    record = releases.current(store, settings.project.channel)
    if record is None:
        raise ReleaseError(f"channel {settings.project.channel} has no release to make an application of", "ragstone build")
    return record, releases.load(store, record.release)
