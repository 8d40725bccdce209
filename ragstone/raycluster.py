"""A Ray cluster: one of this process's own on this machine, on loopback only, or one that it joins by address. It knows no work of it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from ragstone.errors import RagstoneError

HERE = "local"
"""Ray's word for a cluster of its own on this machine."""

LOOPBACK = socket.if_nameindex()[0][1]  # the first interface, on Linux and macOS
PACE = {"RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1"}
"""The environment of what is served: Ray's own interval of 10 s makes every decision about replicas so late."""
OWN = {
    **PACE,
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # for all its name: the node's address is 127.0.0.1, and every part listens there
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # as nice as we are: at Ray's 15 the workers starve beside anything else
    "RAY_memory_monitor_refresh_ms": "0",  # it kills our workers when it is others who fill the memory
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # importing PyTorch twice on a busy machine took longer than the 60 of old
}
"""The environment of a Ray that is started here."""


def address(url: str) -> str:
    """What Ray calls the cluster of a URL; empty when the URL names none.

    >>> address("ray?workers=2"), address("ray://host:10001"), address("ray+gcs://host:6379?workers=8"), address("ray://host")
    ('local', 'ray://host:10001', 'host:6379', '')
    """
    parts = urlsplit(url)
    addresses = {"": HERE, "ray": f"ray://{parts.netloc}" if parts.netloc else HERE, "ray+gcs": parts.netloc}
    found = addresses.get(parts.scheme, "")
    return found if found == HERE or parts.port else ""


def join(address: str, cpus: int, failure: type[RagstoneError]) -> None:
    """Ray runs in this process from here on; one of its own counts at least so many `cpus`. Raises `failure`."""
    os.environ.update(OWN if address == HERE else _auth())  # before Ray is imported
    try:
        import ray
    except ImportError as missing:
        raise failure(f"a Ray cluster needs {missing.name}, which is not installed", "pip install 'ragstone[ray]'") from missing
    if ray.is_initialized():
        return
    own = {"num_cpus": max(os.cpu_count() or 1, cpus), "include_dashboard": False} if address == HERE else {}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level="error", **own)
    except Exception as error:  # Ray raises a bare one when a node takes too long to start
        raise failure(f"no Ray cluster at {address}: {reason(error)}", "ray status there; its ~/.ray/auth_token here too") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in its place
    if address == HERE and not is_alone():
        ray.shutdown()
        raise failure("Ray was imported before it was started here: it would listen on every interface", "give the command again")


def is_alone() -> bool:
    """Whether the address of this process's node is the loopback, so that no other node can belong to the cluster."""
    import ray

    return ip_address(ray.util.get_node_ip_address()).is_loopback


def _auth() -> Mapping[str, str]:
    """Ray's clients show the token that Ray's own tools find only when they are told to; without it they wait in vain for half a minute."""
    told = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")) or (Path.home() / ".ray/auth_token").is_file()
    return {"RAY_AUTH_MODE": "token"} if told and "RAY_AUTH_MODE" not in os.environ else {}


def reason(error: BaseException) -> str:
    """What went wrong at the bottom of it, without Ray's traces."""
    for failure in getattr(error, "worker_failures", {}).values():
        return reason(failure)
    if inner := getattr(error, "cause", None) or error.__cause__:
        return reason(inner)
    return next(iter(str(error).splitlines()), "") or type(error).__name__
