"""The `ragstone` command: one verb per stage, and `up` for all of them. It parses, calls `project`, and prints.

What stands under a noun (`ragstone release list`) is in `commands`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ragstone import __version__, config
from ragstone.commands import Channel, apps, keys, members, models, opened, releases, services
from ragstone.errors import RagstoneError
from ragstone.show import Terminal

app = typer.Typer(
    help="A folder of domain documents in, a private OpenAI-compatible answering service out.\n\nStart with: ragstone up ./docs",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
edges = typer.Typer(help="Run the edge, or deploy it.")
app.add_typer(releases, name="release")
app.add_typer(services, name="service")
app.add_typer(apps, name="app")
app.add_typer(keys, name="keys")
app.add_typer(models, name="models")
app.add_typer(edges, name="edge")

Source = Annotated[Path | None, typer.Argument(help="The folder of documents; default: project.source of ragstone.toml.")]
Minutes = Annotated[float | None, typer.Option(help="Stop the optimisation after so many minutes; 0 turns training off.")]
Epochs = Annotated[int | None, typer.Option(help="Stop after so many passes over the pairs.")]
Pairs = Annotated[list[str] | None, typer.Option(help="Labels: a JSONL, CSV or TSV file, or a BEIR folder. May be repeated.")]
Groups = Annotated[str | None, typer.Option(help="Ask as a member of these groups, separated by commas; default: public.")]
Strict = Annotated[bool, typer.Option("--strict", help="A file that can't be parsed, or a label that can't be used, ends the run.")]
SameAs = Annotated[str | None, typer.Option("--release", help="A channel or a release id; default: the channel in ragstone.toml.")]


def main() -> None:
    """Run the command line: an error of ours ends with one clear message and status 1, never a traceback."""
    try:
        app()
    except RagstoneError as error:
        print(f"ragstone: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"ragstone: {error.strerror or error}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("ragstone: interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False) -> None:
    """What holds for every command."""
    if version:
        print(f"ragstone {__version__}")
        raise typer.Exit


@app.command()
def up(
    source: Source = None,
    minutes: Minutes = None,
    epochs: Epochs = None,
    port: Annotated[int | None, typer.Option(help="The edge's port.")] = None,
    strict: Strict = False,
) -> None:
    """Build everything that is missing, serve it behind the edge, and train in the background."""
    from ragstone import up as running

    settings, store = opened(source, strict)
    settings = config.override(settings, "train", minutes=minutes, epochs=epochs)
    settings = config.override(settings, "edge", port=port)
    running.up(settings, store, Terminal())


@app.command()
def build(source: Source = None, strict: Strict = False) -> None:
    """Stage, snapshot, index and promote with the model in force (the base model at first), without serving or training."""
    from ragstone.sync import sync

    settings, store = opened(source, strict)
    print(sync(settings, store, Terminal()).id)


@app.command()
def stage(source: Source = None) -> None:
    """Copy new and changed documents into the store; forget deleted ones."""
    from ragstone import project

    settings, store = opened(source)
    project.stage(settings, store, Terminal())


@app.command()
def cp(
    source: Annotated[Path, typer.Argument(help="The folder of documents.")],
    destination: Annotated[
        str, typer.Argument(help="The raw/ folder of a store: file:///srv/store/raw/, s3://bucket/raw/ or oss://bucket/raw/.")
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders and all that is in them; always on.")] = True,
    delete: Annotated[bool, typer.Option("--delete", help="Forget what is staged there and no longer in SOURCE, as `stage` does.")] = False,
) -> None:
    """Stage a folder into any store, in ossutil's spelling: ragstone cp -r ./data oss://bucket/raw/"""
    from ragstone import project
    from ragstone.store import connect

    settings = config.load()
    store_url = project.store_of_raw(destination, settings.store_url)
    settings = config.override(settings, "project", source=str(source.resolve()), store=store_url)
    project.stage(settings, connect(store_url), Terminal(), delete=delete)


@app.command()
def snapshot(strict: Strict = False) -> None:
    """Parse and chunk what is staged into an immutable snapshot; print its digest."""
    from ragstone import project

    settings, store = opened(strict=strict)
    print(project.snapshot(settings, store, Terminal()))


@app.command()
def train(
    minutes: Minutes = None,
    epochs: Epochs = None,
    promote: Annotated[bool, typer.Option(help="Put a model that passes the gate in force.")] = True,
    pairs: Pairs = None,
    feedback: Annotated[bool | None, typer.Option(help="Learn from what people said of answers, where they agreed to that.")] = None,
    strict: Strict = False,
    to: Annotated[str | None, typer.Option(help="Train the weights there, labels or not: local, ray, pai, or a URL.")] = None,
    job_name: Annotated[str | None, typer.Option(help="pai: what the job is called.")] = None,
    oss_path: Annotated[str | None, typer.Option(help="pai: the raw/ folder of the bucket, oss://bucket/raw/.")] = None,
    framework: Annotated[str | None, typer.Option(help="pai: pytorch, the only one.")] = None,
    instance_type: Annotated[str | None, typer.Option(help="pai: the machine, such as ecs.gn6v-c8g1.2xlarge.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print the calls that this would make, and send none.")] = False,
) -> None:
    """Train an embedding model on the newest snapshot, judge it against the one in force, promote it if it wins."""
    from ragstone import lessons, project, runs
    from ragstone import train as training

    settings, store = opened(strict=strict)
    options = {"job_name": job_name, "oss_path": oss_path, "framework": framework, "instance_type": instance_type}
    url = training.address(settings.train.url, to, **options)
    settings = config.override(settings, "train", url=url, minutes=minutes, epochs=epochs, pairs=tuple(pairs) if pairs else None)
    settings = config.override(settings, "train", feedback=feedback)
    if explain:
        print("\n".join([training.explain(url, settings.train.minutes), *lessons.explain(settings)]))
        return
    with runs.kept(settings.work_folder, "train", Terminal()) as (show, ended):  # `ragstone up` ends it by SIGTERM
        verdict = project.train(settings, store, show, promote=promote)
        ended.result = {"verdict": str(verdict), "promoted": verdict.promoted}
        print(verdict)


@app.command()
def index(
    inference: Annotated[str | None, typer.Option(help="Who makes vectors: client, or engine, which asks Ragstone for them.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="A mapping with a dense_vector field, as Elasticsearch has it.")] = None,
    pipeline: Annotated[Path | None, typer.Option(help="An ingest pipeline with an inference processor, likewise.")] = None,
    progress: Annotated[bool, typer.Option("--progress", help="Print how far each index in the making is, as JSON lines.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print the requests that this would send, and send none.")] = False,
) -> None:
    """Index the newest snapshot with the model in force; print the index's digest."""
    from dataclasses import asdict

    from ragstone import dialect, draft, indexing, project

    if progress:
        for told in draft.progress(config.load().work_folder):
            print(json.dumps(asdict(told)))
        return
    settings, store = opened()
    asked = dialect.translate(settings.index, *(file.read_text(encoding="utf-8") if file else "" for file in (mapping, pipeline)))
    settings = config.override(replace(settings, index=asked.index), "index", inference=inference)
    show = Terminal()
    snapshot, model = project.snapshot(settings, store, show), project.incumbent(settings, store, show)
    asked.check(indexing.sized(store, model).dimensions)
    if explain:
        print("\n".join([*asked.explain(), *indexing.explain(settings, store, snapshot, model)]))
    else:
        print(indexing.index(settings, store, snapshot, model, show))


@app.command()
def collect(
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; else they are only named.")] = False,
    back: Annotated[int | None, typer.Option(min=0, help="How many releases a channel must still go back; default: all.")] = None,
) -> None:
    """Name the indexes, in the store and in an engine, that no release a channel could be rolled back to needs; and halves of folders."""
    import time

    from ragstone import collect as collecting

    settings, store = opened()
    found = collecting.unneeded(store, back)
    for one in found:
        if delete:
            collecting.remove(settings, store, one.digest)
        print(f"{one.digest[:12]}  {one.size / 1e6:>8.1f} MB  {one.place}".rstrip())
    halves = collecting.halves(store, time.time() - collecting.DAY)
    for half in halves:
        if delete:
            collecting.remove_half(store, half)
        print(f"{half.prefix[:20]}  {half.size / 1e6:>8.1f} MB  never finished")
    print(f"{len(found) + len(halves)} {'removed' if delete else 'would be removed; to do it: ragstone collect --delete'}", file=sys.stderr)


@app.command()
def forget(
    documents: Annotated[list[str], typer.Argument(help="Paths below the source folder, as the documents are cited.")],
    delete: Annotated[bool, typer.Option("--delete", help="Do it; else it is only said what would be done.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Let what was forgotten be staged again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Say where documents are, and with --delete take them out of everything: store, indexes, releases, cached answers, feedback."""
    from ragstone import forget as forgetting
    from ragstone import runs

    settings, store = opened()
    if undo:
        forgetting.undo(store, documents)
        return
    with runs.kept(settings.work_folder, "forget", Terminal()) as (show, ended):
        done = forgetting.forget(settings, store, documents, show) if delete else forgetting.report(settings, store, documents)
        ended.result = done.json()
    print(json.dumps(done.json(), indent=1, ensure_ascii=False) if as_json else done)
    if not delete:
        print("nothing was changed; to do it: the same with --delete", file=sys.stderr)


@app.command()
def serve(port: Annotated[int | None, typer.Option(help="The origin's port; 0 takes a free one.")] = None) -> None:
    """Run the origin: the OpenAI-compatible API over the channel's release. `ragstone up` starts it behind the edge."""
    from ragstone.api import app as origin

    settings, store = opened()
    origin.serve(store, config.override(settings, "api", port=port), lambda url: print(f"origin {url}", flush=True))


@edges.callback(invoke_without_command=True)
def edge(
    context: typer.Context,
    port: Annotated[int | None, typer.Option(help="The edge's port; 0 takes a free one.")] = None,
    origin: Annotated[str | None, typer.Option(help="The origin's URL.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on the port; more than one need edge.redis.")] = None,
) -> None:
    """Run the edge: keys, limits and the answer cache in front of the origin. `ragstone up` starts it."""
    from ragstone.connect import connector

    if context.invoked_subcommand:
        return
    settings = config.override(config.load(), "edge", port=port, origin=origin, workers=workers)
    connector("edge", settings.edge.url).run(settings, lambda url: print(f"edge {url}", flush=True))


@edges.command("deploy")
def edge_deploy(
    to: Annotated[str | None, typer.Option(help="Where: cloudflare, or a whole edge.url; default: edge.url of ragstone.toml.")] = None,
    origin: Annotated[str | None, typer.Option(help="The origin's URL, as it is reached from there.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Render, check and bundle, offline; deploy nothing.")] = False,
) -> None:
    """Put the edge on a network of others: Cloudflare's, by wrangler."""
    from ragstone import edge as stage

    settings = config.load()
    url = stage.address(settings.edge.url, to)
    stage.deploy(config.override(settings, "edge", url=url, origin=origin), dry_run=dry_run)


@edges.command("purge")
def edge_purge(channel: Channel = None) -> None:
    """Have every answer made anew: no edge of the channel serves what it kept until now."""
    from ragstone import release as rel

    settings, store = opened()
    rel.purge(store, channel or settings.project.channel)
    print(f"answers kept until now are not served any more, {settings.edge.release_check + 3:g} s from now at the latest")


@edges.command("tail")
def edge_tail(
    to: Annotated[str | None, typer.Option(help="Which edge: local, cloudflare or a URL; default: edge.url of ragstone.toml.")] = None,
) -> None:
    """Print each request of the edge as it comes: from the Python edge's access log, or from Cloudflare by wrangler."""
    from ragstone import edge as stage

    settings = config.load()
    stage.tail(config.override(settings, "edge", url=stage.address(settings.edge.url, to)))


@app.command()
def deploy(
    file: Annotated[Path, typer.Argument(help="A service.json: name, model, AutoScaling; PAI-EAS's fields are understood.")],
    version: Annotated[str, typer.Option(help="What this version is called; it never changes.")] = "v1",
    to: Annotated[str, typer.Option(help="Where it runs: local, ray, eas, kserve, or a URL such as eas://?region=cn-hangzhou.")] = "local",
    explain: Annotated[bool, typer.Option("--explain", "--dry-run", help="Print what this would do or send, and do nothing.")] = False,
) -> None:
    """Keep a version of a generator, after it has answered once; it takes no questions until it is given a share."""
    from ragstone import service

    if explain:
        print(service.explain(service.read(file, version, config.load()), to))
        return
    settings, store = opened()
    deployment = service.read(file, version, settings)
    service.deploy(settings, store, deployment, Terminal().say, to)
    generates = deployment.kind == "generator"
    how = f"ragstone service promote {deployment.id}" if generates else f'serve.embeddings = "{deployment.id}"'
    print(f"{deployment.id} is there; to let it answer: {how}")


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    groups: Groups = None,
    release: SameAs = None,
) -> None:
    """Answer a question in the terminal, with its sources."""
    from ragstone import project

    settings, store = opened()
    for text in project.ask(settings, store, question, members(groups), release):
        print(text, end="", flush=True)
    print()


@app.command()
def retrieve(
    question: Annotated[str, typer.Argument(help="The question.")],
    top_k: Annotated[int | None, typer.Option(help="How many hits; default: retrieve.top_k of ragstone.toml.")] = None,
    groups: Groups = None,
    release: SameAs = None,
) -> None:
    """Show what a question finds: scores dense (cosine), keyword (BM25), fused (the order) and calibrated (P(relevant))."""
    from ragstone import project

    settings, store = opened()
    for number, hit in enumerate(project.retrieve(settings, store, question, members(groups), release, top_k), 1):
        print(f"{number:>2}  P(relevant) {hit.score:.3f}  fused {hit.fused:.3f}  dense {hit.dense:.3f}  keyword {hit.keyword:.2f}")
        print(f"    {hit.chunk.document} {hit.chunk.start}-{hit.chunk.end}")
        print(f"    {' '.join(hit.chunk.text.split())[:160]}\n")


@app.command("eval")
def evaluate(
    questions: Annotated[
        Path | None, typer.Option(help="A JSONL file: question, and what answers it (document or passage), if that is known.")
    ] = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="Ask what training holds out of the documents, without a file.")] = False,
    release: Annotated[list[str] | None, typer.Option(help="A channel or release id; twice to compare two; default: the channel.")] = None,
    answers: Annotated[bool, typer.Option(help="Generate and judge answers too; without them it takes seconds.")] = True,
    groups: Groups = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print figures and every question's marks as JSON.")] = False,
) -> None:
    """Examine a release on questions of your own, or compare two: what is found, what is answered, and how well that is grounded."""
    from ragstone import project, runs
    from ragstone.corpus import questions as asked
    from ragstone.errors import ExamError

    if (questions is None) is not held_out:
        raise ExamError("an exam needs questions: a file of yours, or those held out", "ragstone eval --questions questions.jsonl")
    settings, store = opened()
    names = release or [settings.project.channel]
    posed = asked.read(questions, members(groups)) if questions else project.held_out(settings, store, names[0], members(groups))
    with runs.kept(settings.work_folder, "eval", Terminal()) as (show, ended):
        report = project.examine(settings, store, posed, names, show, answers=answers)
        ended.result = {**report.json(), "asked": len(posed), "groups": sorted({group for one in posed for group in one.groups})}
    print(json.dumps(report.json(), indent=1, ensure_ascii=False) if as_json else report)
    for one in report.unusable:
        print(f"not judged by passages: {one.where} {one.reason}", file=sys.stderr)
