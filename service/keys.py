"""API keys: how they are made, and the digest by which the database knows them. It never sees the key."""

import hashlib
import secrets
from typing import Final

PREFIX: Final = "pgt_"
"""What every key begins with, so that a key that leaked into a text can be recognised."""

SCOPES: Final = ("accounts:read", "accounts:write", "transactions:write", "transactions:force", "admin")

SCOPES_BY_DEFAULT: Final = SCOPES[:3]
"""Those of a key for which none is named: what overrides the rules is named."""


def make() -> str:
    """Return a new key of 256 random bits; whoever has it has its scopes."""
    return PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> bytes:
    """Return the SHA-256 digest of a key. A slow hash would add nothing: the key cannot be guessed."""
    return hashlib.sha256(key.encode()).digest()
