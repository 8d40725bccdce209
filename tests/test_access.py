from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest

from ragstone import access, store
from ragstone.access import Principal, Verifier
from ragstone.errors import ConfigError, NotFound, Unauthorized
from ragstone.store import Store

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tokens.json").read_text(encoding="utf-8"))


@pytest.fixture
def at(tmp_path: Path) -> Store:
    return store.connect(str(tmp_path / "store"))


def new(tmp_path: Path, at: Store, **changed: Any) -> tuple[str, Principal]:
    asked: dict[str, Any] = {"tenant": "acme", "groups": ["service", "public"], "rpm": 60, "tpm": 1000, "expires": 0.0, **changed}
    return access.create(tmp_path / "keys", at, **asked)


@pytest.mark.parametrize("case", VECTORS["accepted"], ids=lambda case: case["name"])
def test_a_good_key_stands_for_its_principal(case: dict[str, Any]) -> None:
    verifier = Verifier()
    verifier.trust(VECTORS["keys"], VECTORS["revoked"])
    principal = verifier.verify(case["token"], case["now"])
    assert principal == Principal(**{**case["principal"], "groups": tuple(case["principal"]["groups"])})
    assert verifier.verify(case["token"], case["now"]) is principal


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["name"])
def test_a_bad_key_is_refused_without_being_repeated(case: dict[str, Any]) -> None:
    verifier = Verifier()
    verifier.trust(VECTORS["keys"], VECTORS["revoked"])
    with pytest.raises(Unauthorized) as caught:
        verifier.verify(case["token"], case["now"])
    parts = [part for part in (case["token"], *case["token"].split(".")) if len(part) > 8]
    assert not any(part in str(caught.value) for part in parts)


def test_a_created_key_verifies_from_the_store_alone(tmp_path: Path, at: Store) -> None:
    token, principal = new(tmp_path, at, expires=access.expiry("1h"))
    assert Verifier(at).verify(token) == principal
    assert principal.groups == ("public", "service")


def test_an_administrator_is_only_who_was_made_one(tmp_path: Path, at: Store) -> None:
    made = [new(tmp_path, at, admin=admin) for admin in (True, False)]
    assert [Verifier(at).verify(token).admin for token, _ in made] == [True, False]
    assert sorted(issued.principal.admin for issued in access.listed(at)) == [False, True]


def test_a_key_verified_before_still_expires(tmp_path: Path, at: Store) -> None:
    token, principal = new(tmp_path, at, expires=access.expiry("1h"))
    verifier = Verifier(at)
    verifier.verify(token)
    with pytest.raises(Unauthorized, match="expired"):
        verifier.verify(token, principal.expires)


def test_a_revoked_key_is_refused_after_a_refresh_although_it_was_verified_before(tmp_path: Path, at: Store) -> None:
    token, principal = new(tmp_path, at)
    other, _ = new(tmp_path, at)
    verifier = Verifier(at)
    verifier.verify(token)
    access.revoke(at, principal.key)
    access.revoke(at, principal.key)
    verifier.refresh()
    with pytest.raises(Unauthorized, match="revoked"):
        verifier.verify(token)
    verifier.verify(other)
    assert access.revoked(at) == {principal.key}


def test_a_signing_key_that_is_trusted_no_more_takes_its_keys_with_it(tmp_path: Path, at: Store) -> None:
    token, _ = new(tmp_path, at)
    verifier = Verifier(at)
    verifier.verify(token)
    verifier.trust({}, [])
    with pytest.raises(Unauthorized, match="does not know"):
        verifier.verify(token)


def test_a_new_signing_key_leaves_issued_keys_valid(tmp_path: Path, at: Store) -> None:
    token, first = new(tmp_path, at)
    (tmp_path / "keys" / access.SIGNING).unlink()
    other, second = new(tmp_path, at)
    verifier = Verifier(at)
    assert (verifier.verify(token), verifier.verify(other)) == (first, second)
    assert len(access.published(at)) == 2


@pytest.mark.parametrize("key_id", ["k-0123456789abcdef", "", "../../releases/r-1", "k-" + "0" * 4000])
def test_only_a_key_that_was_created_can_be_revoked(at: Store, key_id: str) -> None:
    with pytest.raises(NotFound, match="was created"):
        access.revoke(at, key_id)


def test_the_list_of_keys_holds_no_secret(tmp_path: Path, at: Store) -> None:
    token, principal = new(tmp_path, at)
    _, second = new(tmp_path, at, tenant="globex", expires=access.expiry("1d"))
    access.revoke(at, second.key)
    listed = access.listed(at)
    assert {one.principal for one in listed} == {principal, second}
    assert [one.revoked for one in listed if one.principal == second] == [True]
    everything = b"".join(at.get(stat.key) for stat in at.list(""))
    assert token.rsplit(".", 1)[1].encode() not in everything
    assert b"PRIVATE" not in everything


def test_the_signing_key_is_readable_by_its_owner_alone(tmp_path: Path, at: Store) -> None:
    new(tmp_path, at)
    path = tmp_path / "keys" / access.SIGNING
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="0644") as caught:
        new(tmp_path, at)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"])
def test_a_signing_key_that_is_none_is_named(tmp_path: Path, at: Store, content: bytes) -> None:
    path = tmp_path / "keys" / access.SIGNING
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=access.SIGNING):
        new(tmp_path, at)


def test_processes_that_race_to_make_the_signing_key_share_one(tmp_path: Path, at: Store) -> None:
    script = (
        "import sys; from pathlib import Path; from ragstone import access, store\n"
        "sys.stdin.read()\n"
        "a = access.create(Path(sys.argv[1]), store.connect(sys.argv[2]), tenant='t', groups=['g'], rpm=1, tpm=1, expires=0)\n"
        "print(a[0])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "keys"), at.url]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment()) for _ in range(3)]
    for process in running:
        assert process.stdin
        process.stdin.close()
        process.stdin = None
    tokens = [process.communicate(timeout=60)[0].strip() for process in running]
    assert len({jwt.get_unverified_header(token)["kid"] for token in tokens}) == 1
    verifier = Verifier(at)
    assert len({verifier.verify(token).key for token in tokens}) == 3
    assert [path.name for path in (tmp_path / "keys").iterdir()] == [access.SIGNING]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a,b"}, "'a,b'"),
        ({"groups": []}, "group"),
        ({"groups": ["ok", " padded"]}, "' padded'"),
        ({"rpm": 0}, "rpm = 0"),
        ({"tpm": -1}, "tpm = -1"),
        ({"groups": [f"{number:064d}" for number in range(60)]}, "60 groups"),
    ],
)
def test_a_key_that_no_verifier_would_take_is_not_made(tmp_path: Path, at: Store, changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        new(tmp_path, at, **changed)
    assert access.listed(at) == []


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("90s", 1090.0),
        ("15m", 1900.0),
        ("12h", 44_200.0),
        ("30d", 2_593_000.0),
        (" 2W ", 1_210_600.0),
        ("never", 0.0),
        ("2030-01-01", 1_893_456_000.0),
        ("2030-01-01T01:00:00+01:00", 1_893_456_000.0),
    ],
)
def test_an_expiry_is_a_span_a_date_or_never(text: str, ends: float) -> None:
    assert access.expiry(text, now=1000.0) == ends


@pytest.mark.parametrize("text", ["", "soon", "30", "-1d", "0d", "1y", "1970-01-01", "2030-13-01", "99999999999d"])
def test_an_expiry_that_is_none_or_past_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expires"):
        access.expiry(text, now=1000.0)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
