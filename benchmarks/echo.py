"""A replica without a model, for `benchmarks.dataplane`: it answers at once, until the process that started it is gone."""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import web

from ragstone.replica import follow_parent


async def main() -> None:
    sys.stdin.buffer.readline()
    follow_parent()

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_post("/v1/echo", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"address": f"http://127.0.0.1:{runner.addresses[0][1]}"}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
