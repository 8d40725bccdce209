"""What the edges of one service share in Redis or Valkey: finished answers, who makes one, and what every key has taken of its limits.

A Redis that can't be asked is never an error: an answer is then not found, a count is None, and `ragstone_shared_failures` grows.
Whoever can write there can answer every question, so it is as private as the edges themselves.

Source of the rule of `TAKE`: `ragstone.limit`, which `tests/vectors/limits.json` holds both to.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from ragstone import telemetry
from ragstone.cache import OVERHEAD, Entry
from ragstone.errors import ConfigError
from ragstone.limit import Kind

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("ragstone.edge")
T = TypeVar("T")

PATIENCE = 1.0
"""Seconds that a call may take, and for which Redis is left alone after one that failed."""
CONNECTIONS = 32
SPACE = "{ragstone}:"
"""What every key begins with; the braces keep them in one slot of a cluster, since a script names several."""
FIELDS = ("body", "etag", "release", "stored", "begun", "reused")

TAKE = """
local most = {requests = tonumber(ARGV[1]), tokens = tonumber(ARGV[2])}
local kind, cost, owed, now = ARGV[3], tonumber(ARGV[4]), ARGV[5] == '1', tonumber(ARGV[6])
if not now then
  local time = redis.call('TIME')
  now = time[1] + time[2] / 1e6
end
local function left(of)
  local kept = redis.call('HMGET', KEYS[1], of, of .. ' at')
  return math.max(0, (tonumber(kept[1]) or 0) - math.max(0, now - (tonumber(kept[2]) or 0)))
end
local taken = {requests = left('requests'), tokens = left('tokens')}
local interval = 60 / most[kind]
local fitting = math.min(cost, most[kind])
local wait = taken[kind] + fitting * interval - 60
if owed or wait <= 1e-6 then
  wait = 0
  taken[kind] = math.max(0, taken[kind] + (owed and cost or fitting) * interval)
  redis.call('HSET', KEYS[1], kind, string.format('%.17g', taken[kind]), kind .. ' at', string.format('%.17g', now))
  redis.call('PEXPIRE', KEYS[1], math.ceil(math.max(taken.requests, taken.tokens) * 1000) + 1000)
end
return {string.format('%.17g', wait), string.format('%.17g', taken.requests), string.format('%.17g', taken.tokens)}
"""
PUT = """
local space, key, release, in_force, most, size = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local at, used, sizes, whole = space .. 'answer:' .. key, space .. 'used', space .. 'sizes', space .. 'size'
if release ~= in_force and redis.call('HGET', at, 'release') == in_force then return end
local function drop(one)
  redis.call('DEL', space .. 'answer:' .. one)
  redis.call('ZREM', used, one)
  redis.call('DECRBY', whole, redis.call('HGET', sizes, one) or 0)
  redis.call('HDEL', sizes, one)
end
drop(key)
if size > most then return end
redis.call('HSET', at, 'release', release, 'body', ARGV[7], 'etag', ARGV[8], 'stored', ARGV[9], 'begun', ARGV[10], 'reused', ARGV[11])
redis.call('ZADD', used, ARGV[9], key)
redis.call('HSET', sizes, key, size)
local total = redis.call('INCRBY', whole, size)
while total > most do
  local oldest = redis.call('ZRANGE', used, 0, 0)[1]
  if not oldest then
    redis.call('DEL', whole, sizes)
    break
  end
  drop(oldest)
  total = tonumber(redis.call('GET', whole))
end
"""

PROLONG = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
"""
"""A time of 0 ends it."""


@dataclass(frozen=True)
class Taken:
    """What a key has taken, as the seconds that each limit needs until all of it is back; and the seconds to wait, 0 when it fitted."""

    wait: float
    requests: float
    tokens: float


class Shared:
    """A connection to the Redis at `url` (`redis://`, `rediss://` with TLS, or `unix://`), which keeps `most` bytes of answers."""

    def __init__(self, url: str, most: int) -> None:
        self._redis = _connected(url)
        self._host = urlsplit(url).hostname or "a socket"
        self._most = most
        self._take = self._redis.register_script(TAKE)
        self._put = self._redis.register_script(PUT)
        self._prolong = self._redis.register_script(PROLONG)
        self._rests = 0.0

    async def get(self, key: str) -> Entry | None:
        """The answer kept under the key, which counts as used now; None also when Redis can't be asked."""
        found = await self._ask(lambda: self._read(key))
        if found is None or None in found:
            return None
        body, etag, release, stored, begun, reused = found
        return Entry(body, etag.decode(), release.decode(), float(stored), float(begun), reused.decode())

    async def put(self, key: str, entry: Entry, release: str) -> None:
        """Keep the entry for every edge, by the rule of `Cache.put`; the least recently used go when there are too many bytes."""
        size = len(entry.body) + OVERHEAD
        given: list[str | int | bytes] = [SPACE, key, entry.release, release, self._most, size, entry.body, entry.etag]
        given += [repr(entry.stored), repr(entry.begun), entry.reused]
        await self._ask(lambda: self._put(keys=[SPACE + "used"], args=given))

    async def take(
        self, key: str, rpm: int, tpm: int, kind: Kind, cost: float, owed: bool = False, at: float | None = None
    ) -> Taken | None:
        """`Allowance.take` for all edges together, in one step, by Redis's clock unless `at` says when. None when Redis can't be asked."""
        given = [rpm, tpm, kind, cost, int(owed), "" if at is None else repr(at)]
        taken = await self._ask(lambda: self._take(keys=[f"{SPACE}limit:{key}"], args=given))
        return None if taken is None else Taken(*map(float, taken))

    async def claim(self, name: str, token: str, seconds: float) -> bool | None:
        """Whether the name was free, and is now the token's for so long. None when Redis can't be asked."""
        return await self._ask(lambda: self._set(name, token, seconds))

    async def claimed(self, name: str) -> bool:
        """Whether it is somebody's; not while Redis can't be asked."""
        return bool(await self._ask(lambda: self._redis.exists(_claim(name))))

    async def prolong(self, name: str, token: str, seconds: float) -> None:
        """Keep the name for so long from now, unless it is another's; 0 gives it back."""
        await self._ask(lambda: self._prolong(keys=[_claim(name)], args=[token, int(seconds * 1000)]))

    async def close(self) -> None:
        await self._redis.aclose()

    async def _set(self, name: str, token: str, seconds: float) -> bool:
        return bool(await self._redis.set(_claim(name), token, nx=True, px=int(seconds * 1000)))

    async def _read(self, key: str) -> list[Any]:
        calls = self._redis.pipeline(transaction=False)
        calls.hmget(f"{SPACE}answer:{key}", FIELDS)
        calls.zadd(SPACE + "used", {key: time.time()}, xx=True)
        found: list[Any] = (await calls.execute())[0]
        return found

    async def _ask(self, call: Callable[[], Awaitable[T]]) -> T | None:
        from redis.exceptions import RedisError

        if time.monotonic() < self._rests:
            return None
        try:
            return await call()
        except (RedisError, OSError) as error:
            telemetry.shared_failures.inc()
            log.warning("the shared Redis on %s can't be asked (%s): each edge goes by itself", self._host, type(error).__name__)
            self._rests = time.monotonic() + PATIENCE
            return None


def _claim(name: str) -> str:
    return f"{SPACE}making:{name}"


def _connected(url: str) -> Redis:
    """A client that has not connected yet. Raises `ConfigError`, which never shows the URL: it may hold a password."""
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError
    except ImportError as error:
        raise ConfigError(f"edge.redis needs a package that is not installed: {error.name}", "pip install 'ragstone[redis]'") from error
    once = Retry(NoBackoff(), 1, (ConnectionError,))  # a connection that Redis closed while it was idle
    waits = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE, "timeout": PATIENCE}
    try:
        return Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, retry=once, **waits))
    except (ValueError, TypeError):
        raise ConfigError("edge.redis is not a URL that can be used", "RAGSTONE_EDGE_REDIS=rediss://:password@host:6380/0") from None
