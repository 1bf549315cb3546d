"""Tokens: what a key's holder gives to a browser or puts into a link. Signed, short-lived, kept nowhere."""

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pydantic import SecretStr

PREFIX: Final = "pdft_"
MOST_CHARACTERS: Final = 4_000  # in a link; some proxies take no more than 8 kB for all of a request's head
_PURPOSE: Final = b"pdf-ingest tokens 1"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token opens: part of what its key opens, until `expires_at`, in seconds since 1970."""

    key_id: str
    expires_at: int
    scopes: tuple[str, ...]
    collections: tuple[str, ...] | None = None
    document_ids: tuple[UUID, ...] | None = None


class Signer:
    """Signs with HMAC-SHA-256, by a key that is made of SECRET_KEY for this alone."""

    def __init__(self, secret_key: SecretStr) -> None:
        self._key = hmac.digest(secret_key.get_secret_value().encode(), _PURPOSE, "sha256")

    def token(self, claims: Claims) -> str:
        named = claims.document_ids
        said: dict[str, Any] = {"k": claims.key_id, "e": claims.expires_at, "s": claims.scopes}
        said |= {} if claims.collections is None else {"c": claims.collections}
        said |= {} if named is None else {"d": [one.hex for one in named]}
        payload = _encoded(json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode())
        return f"{PREFIX}{payload}.{_encoded(self._signature(payload))}"

    def claims(self, token: str) -> Claims | None:
        """None when it is not one that was signed here. Whether it has run out is not looked at."""
        payload, _, signature = token.removeprefix(PREFIX).partition(".")
        expected = _encoded(self._signature(payload))
        if not hmac.compare_digest(signature.encode("latin-1", "replace"), expected.encode()):
            return None
        said = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return Claims(
            said["k"],
            said["e"],
            tuple(said["s"]),
            tuple(said["c"]) if "c" in said else None,
            tuple(map(UUID, said["d"])) if "d" in said else None,
        )

    def _signature(self, payload: str) -> bytes:
        return hmac.digest(self._key, payload.encode("latin-1", "replace"), "sha256")


def _encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")
