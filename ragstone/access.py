"""Who is asking: API keys as Ed25519-signed tokens (JWT, EdDSA), so that an edge verifies them without asking anyone.

The private signing key stays in a folder of its owner; the store holds public keys, what was issued, and what was revoked:

    access/keys/<kid>.json       a public key (JWK)
    access/issued/<id>.json      a key's tenant, groups and limits; never the token
    access/revoked/<id>.json     put once; one listing names all revoked keys

No message and no record here ever holds a token.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_private_key
from jwt.types import Options

from ragstone.errors import ConfigError, Conflict, NotFound, Unauthorized
from ragstone.store import Store

SIGNING = "signing.pem"
LONGEST = 4096
"""A token with more characters is refused unread; one with 30 groups has about 1,200."""
REMEMBERED = 10_000
"""Verified tokens kept in memory. A verification costs 100 µs, so a full memory is dropped rather than aged."""
SIGNATURE_ONLY: Options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False, "verify_iss": False}
"""The times are checked here, against the caller's clock."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class Principal:
    """Who a request is from. `key` is the token's id; `expires` is in Unix seconds, 0 is never."""

    key: str
    tenant: str
    groups: tuple[str, ...]
    """Sorted, at least one."""
    rpm: int
    """Requests a minute."""
    tpm: int
    """Tokens a minute."""
    expires: float
    admin: bool = False
    """Whether it may look at and change what is served: `/admin`. What it may read is still its groups' to say."""


@dataclass(frozen=True)
class Issued:
    """A key that was created: whose it is, when, signed by which key, and whether it was revoked since."""

    principal: Principal
    kid: str
    created: float
    revoked: bool


class Verifier:
    """Tells who a token stands for, from public keys and revoked ids in memory.

    With a store, `refresh` rereads both; an edge, which has no store, is told them by `trust`.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._published: dict[str, str] = {}
        self._revoked: frozenset[str] = frozenset()
        self._verified: dict[bytes, Principal] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reread the store: one listing of the keys, one of the revocations."""
        if self._store:
            self.trust(published(self._store), revoked(self._store))

    def trust(self, keys: Mapping[str, str], revoked: Iterable[str]) -> None:
        """Accept exactly these signing keys (`{kid: x}`, as `published` returns them) and refuse these key ids."""
        gone = frozenset(revoked)
        if keys != self._published:
            self._keys = {kid: Ed25519PublicKey.from_public_bytes(_decode(x)) for kid, x in keys.items()}
            self._published = dict(keys)
            self._verified.clear()
        self._revoked = gone

    def verify(self, token: str, now: float | None = None) -> Principal:
        """The token's principal. Raises `Unauthorized`, with a message that never holds the token."""
        now = time.time() if now is None else now
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        principal = self._verified.get(digest) or self._read(token, now)
        if principal.expires and now >= principal.expires:
            raise Unauthorized(f"the API key {principal.key} expired at {_utc(principal.expires)}", "ragstone keys create")
        if principal.key in self._revoked:
            raise Unauthorized(f"the API key {principal.key} was revoked", "ragstone keys create")
        if len(self._verified) >= REMEMBERED:
            self._verified.clear()
        self._verified[digest] = principal
        return principal

    def _read(self, token: str, now: float) -> Principal:
        """The signed claims as a principal. Only EdDSA is ever tried: a token can't choose how it is verified."""
        if len(token) > LONGEST:
            raise Unauthorized(f"the API key has {len(token)} characters, more than any that is issued", "ragstone keys create")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") != "EdDSA" or "crit" in header:
                raise Unauthorized("the API key is not signed with Ed25519", "ragstone keys create")
            if header.get("kid") not in self._keys:
                raise Unauthorized("the API key is signed by a key that this service does not know", "ragstone keys create")
            claims = jwt.decode(token, self._keys[header["kid"]], algorithms=["EdDSA"], options=SIGNATURE_ONLY)
            not_before = claims.get("nbf", 0)
            principal = _principal(claims)
            early = _number(not_before) > now
        except jwt.InvalidSignatureError:
            raise Unauthorized("the API key's signature is wrong", "ragstone keys create") from None
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError):
            raise Unauthorized("the API key is malformed", "ragstone keys create") from None
        if early:
            raise Unauthorized(f"the API key {principal.key} is not valid before {_utc(float(not_before))}")
        return principal


def create(
    folder: Path, store: Store, *, tenant: str, groups: Sequence[str], rpm: int, tpm: int, expires: float, admin: bool = False
) -> tuple[str, Principal]:
    """A new key: its token, shown this once and stored nowhere, and its principal.

    The signing key is made in `folder` on first use, readable by its owner alone, and its public half is published in the store.
    Raises `ConfigError` on a tenant, group or limit that can't be, or when others may read the signing key.
    """
    principal = Principal("k-" + secrets.token_hex(8), tenant, tuple(sorted(set(groups))), rpm, tpm, float(math.ceil(expires)), admin)
    _check(principal)
    signing = _signing_key(folder)
    kid = _publish(store, signing)
    now = int(time.time())
    claims = _claims(principal) | {"iat": now}
    token = jwt.encode(claims, signing, algorithm="EdDSA", headers={"kid": kid})
    if len(token) > LONGEST:
        raise ConfigError(f"a key with {len(groups)} groups is too long: {len(token)} characters, {LONGEST} at most")
    store.create(f"access/issued/{principal.key}.json", json.dumps(claims | {"kid": kid}, sort_keys=True, ensure_ascii=False).encode())
    return token, principal


def revoke(store: Store, key_id: str) -> None:
    """Refuse the key from now on; doing it again changes nothing. Raises `NotFound` when no such key was created."""
    if not re.fullmatch(r"k-[0-9a-f]{16}", key_id) or store.stat(f"access/issued/{key_id}.json") is None:
        raise NotFound(f"no key {key_id[:40]!r} was created in {store.url}", "ragstone keys list")
    with contextlib.suppress(Conflict):
        store.create(f"access/revoked/{key_id}.json", json.dumps({"key": key_id, "at": time.time()}).encode())


def revoked(store: Store) -> frozenset[str]:
    """The ids of all revoked keys."""
    return frozenset(_names(store, "access/revoked/"))


def published(store: Store) -> dict[str, str]:
    """The public signing keys: `{kid: x}`, where x is the raw key in base64url, as in a JWK."""
    return {kid: json.loads(store.get(f"access/keys/{kid}.json"))["x"] for kid in _names(store, "access/keys/")}


def listed(store: Store) -> list[Issued]:
    """Every key that was created, oldest first. Holds no secret."""
    gone = revoked(store)
    records = [json.loads(store.get(f"access/issued/{name}.json")) for name in _names(store, "access/issued/")]
    issued = [Issued(_principal(record), record["kid"], record["iat"], record["jti"] in gone) for record in records]
    return sorted(issued, key=lambda one: (one.created, one.principal.key))


def expiry(text: str, now: float | None = None) -> float:
    """When a key made `now` ends, in Unix seconds: `30d`, `12h`, `2w`, an ISO date or time (UTC unless it says), or `never` (0).

    >>> expiry("2h", now=1000.0), expiry("2030-01-01", now=0.0), expiry("never")
    (8200.0, 1893456000.0, 0.0)
    """
    now = time.time() if now is None else now
    text = text.strip()
    if text.lower() == "never":
        return 0.0
    if span := re.fullmatch(r"(\d{1,6})([smhdw])", text.lower()):
        ends = now + int(span[1]) * UNITS[span[2]]
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ConfigError(f"expires {text!r} is neither a span (30d, 12h), an ISO date nor 'never'", "--expires 30d") from None
        ends = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if ends <= now:
        raise ConfigError(f"expires {text!r} is not in the future", "--expires 30d")
    return ends


def _claims(principal: Principal) -> dict[str, object]:
    claims: dict[str, object] = {"jti": principal.key, "tenant": principal.tenant, "groups": list(principal.groups)}
    claims |= {"rpm": principal.rpm, "tpm": principal.tpm}
    claims |= {"admin": True} if principal.admin else {}
    return claims | ({"exp": int(principal.expires)} if principal.expires else {})


def _principal(claims: Mapping[str, object]) -> Principal:
    """Raises `ValueError` or `KeyError` on claims that Ragstone does not issue."""
    groups = claims["groups"]
    if not isinstance(groups, list) or not groups or not all(map(_name, (claims["jti"], claims["tenant"], *groups))):
        raise ValueError("tenant, groups and jti must be names")
    return Principal(
        str(claims["jti"]),
        str(claims["tenant"]),
        tuple(sorted(set(groups))),
        _limit(claims["rpm"]),
        _limit(claims["tpm"]),
        _number(claims["exp"]) if "exp" in claims else 0.0,
        claims.get("admin") is True,
    )


def _check(principal: Principal) -> None:
    for name in (principal.tenant, *principal.groups):
        if not _name(name):
            raise ConfigError(f"{name[:80]!r} can't be a tenant or group: 1 to 64 printable characters without a comma can")
    if not principal.groups:
        raise ConfigError("a key needs at least one group", "--groups public")
    for limit, value in (("rpm", principal.rpm), ("tpm", principal.tpm)):
        if value < 1:
            raise ConfigError(f"{limit} = {value} would refuse every request; 1 is the least", f"--{limit} 600")


def _name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable() and "," not in value and value == value.strip()


def _limit(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError("a limit is a whole number from 1")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ValueError("a time is a number of seconds")
    return float(value)


def _signing_key(folder: Path) -> Ed25519PrivateKey:
    """The private key in `folder`, made when there is none. Raises `ConfigError` when others may read it."""
    path = folder / SIGNING
    if not path.exists():
        _make_signing_key(path)
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise ConfigError(f"{path} may be read by others (mode {mode:04o}): whoever reads it can make keys", f"chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an Ed25519 private key in PEM", f"rm {path}  # a new one is made; keys already issued stay valid")
    return key


def _make_signing_key(path: Path) -> None:
    """Whole and private from its first instant; when two processes race, one key wins and both use it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


def _publish(store: Store, signing: Ed25519PrivateKey) -> str:
    """The key's id, once its public half is in the store."""
    raw = signing.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    kid = hashlib.sha256(raw).hexdigest()[:16]
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    jwk = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x}
    with contextlib.suppress(Conflict):
        store.create(f"access/keys/{kid}.json", json.dumps(jwk, sort_keys=True).encode())
    return kid


def _names(store: Store, prefix: str) -> list[str]:
    return [found.key.removeprefix(prefix).removesuffix(".json") for found in store.list(prefix)]


def _decode(x: str) -> bytes:
    return base64.urlsafe_b64decode(x + "=" * (-len(x) % 4))


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
