"""The program of one local replica: llama.cpp behind an OpenAI-compatible port of its own, until the process that started it is gone.

It reads one line of JSON (the fields of `Replica`) from its standard input, so that the key shows in no process list, and writes its
address as one line of JSON when the model is loaded. Then it serves until its standard input ends: however the parent dies, it follows.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

REVISION = 2
"""Part of a generator's version: raised when `serve` sets something else that changes what is generated."""


@dataclass(frozen=True)
class Told:
    """What a replica's program reads from its standard input, whichever it is."""

    key: str = field(default="", repr=False, kw_only=True)
    """What it asks for."""

    def keyed(self, key: str) -> Self:
        """The same, that asks for this key."""
        return replace(self, key=key)

    def line(self) -> bytes:
        """The line that the program reads."""
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(frozen=True)
class Replica(Told):
    """What a replica runs. `context` is in tokens and shared by the slots; 0 threads are as many as there are cores."""

    weights: str
    name: str
    context: int
    slots: int
    threads: int
    sleep: float = 0.0
    """Seconds without a request after which it lets go of its model, until the next one; 0 is never."""

    program: ClassVar[str] = __file__

    @property
    def version(self) -> str:
        """SHA-256 of all that changes what is generated; threads don't, and the chat template is in the weights."""
        from importlib import metadata

        with open(self.weights, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        engine = f"xllamacpp {metadata.version('xllamacpp')}, {REVISION}"
        parts = {"weights": digest, "engine": engine, "context": self.context, "slots": self.slots}
        return hashlib.sha256(json.dumps(parts, separators=(",", ":"), sort_keys=True).encode()).hexdigest()

    def at(self, weights: Path) -> Replica:
        """The same, of weights that lie elsewhere."""
        return replace(self, weights=str(weights))


def serve(replica: Replica) -> Any:
    """A running server on a loopback port that the OS chose; its address is `listening_address`. It ends with the process."""
    from xllamacpp import CommonParams, Server, llama_flash_attn_type

    params = CommonParams()
    params.model.path = replica.weights
    params.model_alias = {replica.name}
    params.api_keys = [replica.key]
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = replica.context
    params.n_parallel = replica.slots
    threads = replica.threads or os.cpu_count() or 1
    # Every token waits for the slowest thread. Beside other work on 2 cores, 2 threads made 0.3 to 18 tokens/s and 1 made 22 to 30; reading
    # the prompt, where a step is long, 2 threads that sleep instead of spinning were as fast as any. Hence one core is left out of
    # the former, and nothing spins.
    params.cpuparams.n_threads = max(1, threads - 1)
    params.cpuparams_batch.n_threads = threads
    params.cpuparams.poll = params.cpuparams_batch.poll = 0
    params.n_threads_http = replica.slots + 2  # a streaming answer holds one; health and metrics need room beside them
    params.fit_params = False  # it would trade the context that was asked for against free memory
    # The kernels round differently with the number of tokens at a time, so where a cached prefix ends shows in the answer: with the
    # prompt cache 6 of 10 answers at temperature 0 repeated. Without it 8 of 8 did, cold and again, and beside other answers 24 of 24,
    # with flash attention 23. What is lost is reading a system prompt again, by estimate a tenth of a prompt with evidence.
    params.cache_prompt = False
    params.flash_attn_type = llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_ram_mib = 0  # by default llama.cpp keeps up to 8 GiB of old prompts
    params.endpoint_metrics = True
    params.endpoint_slots = False  # it would show what is being asked
    params.sleep_idle_seconds = int(replica.sleep) or -1
    params.ui = False
    params.cors_origins = "http://127.0.0.1"
    params.verbosity = 1  # errors only: above it, requests are logged
    return Server(params)


def main() -> None:
    """Serve what the line on standard input says, until the parent is gone."""
    replica = Replica(**json.loads(sys.stdin.buffer.readline()))
    follow_parent()
    try:
        server = serve(replica)
    except RuntimeError as error:
        sys.exit(f"llama.cpp can't serve {replica.weights}: {error}")
    print(json.dumps({"address": server.listening_address}), flush=True)
    threading.Event().wait()


def follow_parent() -> None:
    """End this process when the one that started it is gone, or closes its standard input."""
    parent = os.getppid()
    for follow in (_until_input_ends, lambda: _until_orphaned(parent)):
        threading.Thread(target=follow, daemon=True).start()


def _until_input_ends() -> None:
    """Standard input ends when the parent closes it or dies, by whatever signal."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


def _until_orphaned(parent: int) -> None:
    """A process that the parent forked holds our standard input open beyond its death: look for that, too."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


if __name__ == "__main__":
    main()
