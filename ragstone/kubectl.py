"""`kubectl` on this machine: what the user's own configuration may do in a cluster. It knows no manifests."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ragstone.errors import ConfigError, Conflict, GeneratorError

MANAGER = "ragstone"
"""Who owns the fields that are applied."""
SECONDS = 60
"""How long one call may take, waiting apart."""
REFUSED = ("(Forbidden)", "(Unauthorized)", "must be logged in", "provide credentials")
UNREACHED = ("was refused", "no such host", "i/o timeout", "Unable to connect", "connection refused")
UNSET = ("current-context is not set", "no configuration has been provided", "context was not found", "error: context ")


@dataclass(frozen=True)
class Kubectl:
    """A namespace of a context; empty is what the user's configuration has."""

    context: str = ""
    namespace: str = ""

    def check(self) -> None:
        """Raises `ConfigError` without a kubectl, or without a context that is there."""
        _found()
        if not self.context:
            self.context_name()

    def context_name(self) -> str:
        """The context that is in use. Raises `ConfigError` when none is."""
        return self.context or self.run("config", "current-context").strip()

    def apply(self, manifests: str) -> str:
        """What became of each object, by server-side apply: the server keeps who owns which field. Raises `Conflict` on another's."""
        return self.run("apply", "--server-side", f"--field-manager={MANAGER}", "-f", "-", told=manifests)

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """An object, or None when there is none."""
        told = self.run("get", kind, name, "-o", "json", "--ignore-not-found")
        found: dict[str, Any] | None = json.loads(told) if told.strip() else None
        return found

    def patch(self, kind: str, name: str, change: dict[str, Any]) -> None:
        """Merge a change into an object."""
        self.run("patch", kind, name, "--type=merge", f"--field-manager={MANAGER}", "-p", json.dumps(change))

    def run(self, *arguments: str, told: str = "", seconds: float = SECONDS) -> str:
        """What kubectl prints. Raises `ConfigError`, `Conflict` or `GeneratorError` with kubectl's own words."""
        placed = [f"--context={self.context}"] if self.context else []
        placed += [f"--namespace={self.namespace}"] if self.namespace else []
        command = [_found(), *placed, *arguments]
        try:
            done = subprocess.run(command, input=told, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as error:
            raise GeneratorError(f"kubectl {arguments[0]} took more than {seconds:g} s", retryable=True) from error
        if done.returncode:
            raise _fault(arguments, done.stderr.strip() or done.stdout.strip())
        return done.stdout


def _found() -> str:
    path = shutil.which("kubectl")
    if path is None:
        raise ConfigError("kubectl is not on the PATH: what is rendered is applied by it", "install it, or print the manifests: --dry-run")
    return path


def _fault(arguments: Sequence[str], said: str) -> ConfigError | Conflict | GeneratorError:
    """The last line of what kubectl says holds the reason; what it tried before is noise."""
    what = f"kubectl {arguments[0]}: {said.splitlines()[-1] if said else 'no reason was given'}"
    if any(mark in said for mark in UNSET):
        return ConfigError(what, "kubectl config use-context NAME, or --to 'kserve://?context=NAME'")
    if any(mark in said for mark in REFUSED):
        return ConfigError(what, "kubectl auth can-i --list")
    if "conflict" in said.lower():
        return Conflict(what, "somebody else owns these fields: kubectl get -o yaml --show-managed-fields")
    return GeneratorError(what, "kubectl cluster-info", retryable=any(mark in said for mark in UNREACHED))
