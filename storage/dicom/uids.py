"""Unique identifiers as a function of what they name: the same words give the same UID, in any run on any machine.

DICOM PS3.5 B.2 lets a UUID stand behind the root 2.25. The UUID is the first 128 bits of a SHA-256 (or keyed HMAC-SHA-256)
with the version and variant bits of a name-based UUID set.
"""

from __future__ import annotations

import hashlib
import hmac
import uuid

_SEPARATOR = "\x1f"


def derived_uid(*parts: object, key: bytes | None = None) -> str:
    """The UID named by `parts`.

    Parameters
    ----------
    parts : words and numbers; their text is joined, so order matters.
    key : secret for a UID that outsiders cannot guess back from its parts (pseudonyms); None for a plain SHA-256.

    Returns
    -------
    A UID of at most 44 characters under the root 2.25.
    """
    text = _SEPARATOR.join(str(p) for p in parts).encode()
    raw = hashlib.sha256(text).digest() if key is None else hmac.new(key, text, hashlib.sha256).digest()
    return f"2.25.{uuid.UUID(bytes=raw[:16], version=5).int}"
