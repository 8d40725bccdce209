"""Long commands for administrators: started as the command line starts them, each in a process of its own, watched and stopped.

What a run found is shown to who may read all that it was about.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ragstone.access import Principal
from ragstone.api import body
from ragstone.api.call import Origin, administer, origin
from ragstone.api.documents import shelved
from ragstone.config import GroupRule
from ragstone.corpus import questions, snapshot
from ragstone.errors import Conflict, ExamError, RequestError
from ragstone.fields import Fields
from ragstone.runs import Run
from ragstone.wire import sse

PERIOD = 1.0
"""Seconds between two events."""
EVENTS = 10
"""After so many the stream ends, and the page asks again: an origin that is told to end waits no longer for it."""
COMMANDS = {"training": "train", "exam": "eval", "forget": "forget", "sync": "build"}
"""What is run, by its name in the address."""
MINUTES = 24 * 60
"""Of a training run, at most."""
MOST = 100
"""Documents that are forgotten at once."""
HEADERS = {"cache-control": "no-store"}
T = TypeVar("T")


async def listing(request: Request) -> Response:
    """The last runs, the newest first."""
    principal = administer(request)
    return JSONResponse(await _told(origin(request), _command(request), principal), headers=HEADERS)


async def follow(request: Request) -> Response:
    """The same as server-sent events."""
    principal = administer(request)
    headers = {**HEADERS, "x-accel-buffering": "no"}
    return StreamingResponse(_events(origin(request), _command(request), principal), headers=headers, media_type="text/event-stream")


async def stop(request: Request) -> Response:
    """End the one under way; what it has done so far is kept where the command keeps it."""
    administer(request)
    here, command = origin(request), _command(request)
    stopped = await here.compute(lambda: _or_conflict(lambda: here.runs.stop(command)))
    return JSONResponse({"stopped": stopped.id if stopped else None}, 202)


async def train(request: Request) -> Response:
    """Train: for so many `minutes`, with `feedback` as labels or not; a model that wins is put in force only with `promote`."""
    administer(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("minutes", "feedback", "promote")
    minutes = fields.number("minutes", 0.01, MINUTES)
    arguments = [] if minutes is None else ["--minutes", f"{minutes:g}"]
    arguments += ["--feedback"] if fields.flag("feedback") else []
    return await _start(request, [*arguments, "--promote" if fields.flag("promote") else "--no-promote"])


async def examine(request: Request) -> Response:
    """Examine one of the `releases`, or compare two: on the lines of `questions`, or without them on those made of the documents."""
    principal = administer(request)
    here = origin(request)
    fields = await body.read(request, here.limit)
    fields.only("releases", "questions", "answers")
    named = _names(fields, "releases", 1, 2)
    arguments = [part for name in named for part in ("--release", name)]
    arguments += ["--json", "--groups", ",".join(principal.groups), "--answers" if fields.flag("answers") else "--no-answers"]
    if "questions" not in fields.values:
        return await _start(request, [*arguments, "--held-out"])
    text = fields.text("questions")
    return await _start(request, [*arguments, "--questions", str(await here.compute(lambda: _kept(here, text, principal)))])


async def forget(request: Request) -> Response:
    """Say where `documents` are, which this key may read; with `delete` take them out. Raises `RequestError` (not_found)."""
    principal = administer(request)
    fields = await body.read(request, origin(request).limit)
    fields.only("documents", "delete")
    named = _names(fields, "documents", 1, MOST)
    _, shelf = await shelved(request, Fields({}))
    if not all(shelf.has(name, principal.groups) for name in named):
        message = "documents names one that this key may not read, or that is not in force"
        raise RequestError(message, "documents", status=404, code="not_found")
    return await _start(request, ["--json", *(["--delete"] if fields.flag("delete") else []), "--", *named])


async def sync(request: Request) -> Response:
    """Read the source folder as it is now, and put the release of it in force."""
    administer(request)
    (await body.read(request, origin(request).limit)).only()
    return await _start(request, [])


async def _start(request: Request, arguments: Sequence[str]) -> Response:
    here, command = origin(request), _command(request)
    run = await here.compute(lambda: _or_conflict(lambda: here.runs.start(command, arguments)))
    return JSONResponse(asdict(run), 201)


async def _events(here: Origin, command: str, principal: Principal) -> AsyncIterator[bytes]:
    for number in range(EVENTS):
        if number:
            await asyncio.sleep(PERIOD)
        yield sse(json.dumps(await _told(here, command, principal)).encode())


async def _told(here: Origin, command: str, principal: Principal) -> dict[str, Any]:
    runs = await here.compute(lambda: here.runs.all(command))
    current = next((run for run in runs if run.state == "running"), None) or next((run for run in runs if run.state == "done"), None)
    told = [_shown(run, principal, run is current) | _read(run, principal, here.settings.corpus.groups) for run in runs]
    return {"minutes": here.settings.train.minutes, "source": here.settings.project.source, "runs": told}


def _read(run: Run, principal: Principal, rules: Sequence[GroupRule]) -> dict[str, Any]:
    """What a run says of files, as far as the key may read them. The error of a build may name any."""

    def readable(path: str) -> bool:
        return not {*snapshot.groups(path, rules)}.isdisjoint(principal.groups)

    everything = {group for rule in rules for group in rule.groups} <= {*principal.groups}
    return {
        "note": run.note if run.stage == "parse" and run.note and readable(run.note) else "",
        "failures": [one for one in run.failures if readable(one["path"])],
        "error": run.error if everything or run.kind != "build" else run.error and "the origin's machine has the reason in its log",
    }


def _shown(run: Run, principal: Principal, whole: bool) -> dict[str, Any]:
    """The run, its result only where the key may read all that it is about; without its curve and questions unless it is to be `whole`."""
    result = run.result if isinstance(run.result, dict) else {}
    hidden = not {*result.get("groups", ())} <= {*principal.groups}
    told = {name: value for name, value in result.items() if whole or name != "questions" or run.kind != "eval"}
    return {**asdict(run), "curve": run.curve if whole else (), "result": None if hidden else told, "hidden": hidden}


def _kept(here: Origin, text: str, principal: Principal) -> str:
    """The file of the questions, once they can all be asked by who asks."""
    path = here.settings.work_folder / "runs" / "eval" / "questions.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    try:
        posed = questions.read(path, principal.groups)
    except ExamError as error:
        raise RequestError(error.message, "questions") from None
    foreign = next((one for one in posed if not {*one.groups} <= {*principal.groups}), None)
    if foreign:
        raise RequestError(f"{foreign.where} asks as {', '.join(foreign.groups)}: this key may not", "questions")
    return str(path)


def _names(fields: Fields, key: str, least: int, most: int) -> list[str]:
    given = fields.values.get(key)
    if not isinstance(given, list) or not least <= len(given) <= most or not all(isinstance(name, str) and name for name in given):
        raise fields.wrong(key, f"a list of {least} to {most} names")
    return list(given)


def _command(request: Request) -> str:
    return COMMANDS[request.url.path.split("/")[2]]


def _or_conflict(act: Callable[[], T]) -> T:
    """What is under way is for the administrator to read."""
    try:
        return act()
    except Conflict as error:
        raise RequestError(error.message, status=error.status, code=error.code) from None
