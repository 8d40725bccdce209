"""The program of a replica that runs a Hugging Face folder on a GPU, by vLLM's own server, behind a loopback port.

Like `replica`, it reads one line of JSON (the fields of `Vllm`) and writes its address when the model is loaded, and it ends when the
process that started it does. Source of the flags: vLLM's pages on `vllm serve` and on its environment. It was never run where a GPU is.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar
from urllib.error import URLError
from urllib.request import urlopen

from ragstone import causal, children, replica
from ragstone.causal import Folder

REVISION = 1
"""Part of a generator's version: raised when something else changes what is generated."""
PAUSE = 0.5
"""Seconds between two looks whether the server is up."""
NONE = "vLLM runs on a GPU, and there is none"


class Vllm(Folder):
    """A folder that vLLM runs; its slots are sequences of a batch, and threads are its own to choose."""

    program: ClassVar[str] = __file__

    @property
    def version(self) -> str:
        """SHA-256 of the folder and the settings; which vLLM a node has is not known here."""
        told = f"{self.digest} vllm, {REVISION} {self.context} {self.slots}"
        return hashlib.sha256(told.encode()).hexdigest()

    def command(self, port: int) -> list[str]:
        """vLLM's server; the key goes by its environment, which no process list shows."""
        flags = {
            "model": self.weights,
            "served-model-name": self.name,
            "host": "127.0.0.1",
            "port": port,
            "max-model-len": self.context // self.slots,
            "max-num-seqs": self.slots,
            "load-format": "safetensors",
        }
        told = [f"--{name}={value}" for name, value in flags.items()]
        return [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", *told]


def serve(vllm: Vllm) -> tuple[subprocess.Popen[bytes], int]:
    """vLLM's server, which ends with this process, once it is up, and its port. Raises `SystemExit` with what is missing."""
    missing = _missing()
    if missing:
        sys.exit(missing)
    if vllm.digest != causal.digest(Path(vllm.weights)):
        sys.exit(f"{vllm.weights} has other files than when its version was read")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    environment = {**os.environ, "VLLM_API_KEY": vllm.key, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        vllm.command(port), stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment, preexec_fn=children.bound()
    )
    while not _up(port):
        if process.poll() is not None:
            sys.exit(f"vLLM can't serve {vllm.weights}: it ended with status {process.returncode}")
        time.sleep(PAUSE)
    return process, port


def _missing() -> str:
    if find_spec("vllm") is None:
        return "vLLM is not installed on this node: pip install vllm"
    import torch

    return "" if torch.cuda.is_available() else NONE


def _up(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def main() -> None:
    """Serve what the line on standard input says, until the parent is gone or vLLM ends."""
    vllm = Vllm(**json.loads(sys.stdin.buffer.readline()))
    replica.follow_parent()
    process, port = serve(vllm)
    print(json.dumps({"address": f"http://127.0.0.1:{port}"}), flush=True)
    sys.exit(process.wait())


if __name__ == "__main__":
    main()
