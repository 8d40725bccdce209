"""Who answers a conversation, where several share them out: the same one every time.

`tests/vectors/shares.json` is the contract of origin and edges, in whatever language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any


def opening(body: Mapping[str, Any]) -> str:
    """What a chat request's conversation began with: the first thing that its user said; of parts, their texts.

    >>> opening({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "why?"}]}]})
    'why?'
    """
    messages = body.get("messages")
    said = [one for one in messages if isinstance(one, dict) and one.get("role") == "user"] if isinstance(messages, list) else []
    content = said[0].get("content") if said else ""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def pick(shares: Mapping[str, int], opening: str) -> str:
    """The name that answers the conversation which opens so: by its share, and the same one every time.

    >>> pick({"small/1": 0, "large/1": 100}, "why?")
    'large/1'
    """
    place = int.from_bytes(hashlib.sha256(opening.encode()).digest()[:8]) % max(1, sum(shares.values()))
    for name, share in sorted(shares.items()):
        place -= share
        if place < 0:
            return name
    return next(iter(sorted(shares)))


def release(in_force: str, canary: Mapping[str, int], model: object, opening: str) -> str:
    """The release that answers: the one that `model` names where it has a share, else by the canaries' shares in per cent.

    A salt keeps it apart from the choice of a generator within the release: who is in a share of the one would be in one of the other.

    >>> release("r-a", {}, "production", "why?"), release("r-a", {"r-b": 10}, "r-b", "why?")
    ('r-a', 'r-b')
    """
    if not canary or model == in_force:
        return in_force
    if isinstance(model, str) and model in canary:
        return model
    return pick({in_force: 100 - sum(canary.values()), **canary}, f"release {opening}")
