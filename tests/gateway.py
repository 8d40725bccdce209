"""A real S3 server on loopback: versitygw over a folder, built once by Go into the machine's cache. A test without it is skipped."""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import golang, proxy

MODULE, VERSION = "github.com/versity/versitygw/cmd/versitygw", "v1.7.0"
KEY, SECRET, REGION = "AKIA-test", "a-secret-that-no-message-may-show", "us-east-1"


@dataclass(frozen=True)
class Gateway:
    """A server that runs: its address, that of a proxy which keeps conditional writes apart, and the folder that holds its buckets."""

    endpoint: str
    apart: str
    root: Path

    def url(self, bucket: str = "") -> str:
        """The URL of an empty store, in a bucket of its own or one that is given."""
        bucket = bucket or f"b{uuid.uuid4().hex}"
        (self.root / bucket).mkdir(exist_ok=True)
        return f"s3://{bucket}/a/store?endpoint={self.apart}&region={REGION}"


@contextmanager
def running(root: Path) -> Iterator[Gateway]:
    """A server that answers while the block runs, with its keys in the environment."""
    program, port = build(), _free()
    root.mkdir()
    secrets = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    command = [str(program), "--port", f"127.0.0.1:{port}", "--region", REGION, "--quiet", "posix", str(root)]
    with (root.parent / "versitygw.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | secrets, stdout=log, stderr=log)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        endpoint = f"http://127.0.0.1:{port}"
        try:
            with proxy.before(endpoint) as between:
                yield Gateway(endpoint, between.endpoint, root)
        finally:
            process.terminate()
            process.wait()


def build() -> Path:
    """The program. Skips the test, with the reason, when it is not there and can't be built."""
    return golang.program("versitygw", VERSION, "NO REAL S3 SERVER", ["install", f"{MODULE}@{VERSION}"])


def _free() -> int:
    """A port that was free a moment ago: the server takes no 0."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
