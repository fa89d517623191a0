"""Base64url without padding (RFC 4648 section 5), as JWTs (RFC 7515 section 2), tickets and subprotocols use it."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode


def encode_base64url(data: bytes) -> str:
    """Encode bytes."""
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")


def decode_base64url(text: str) -> bytes:
    """Decode a text in its canonical form, so that each value has exactly one encoding.

    Raises:
        ValueError: The text is not base64url, has padding, or has unused bits that are not zero.
    """
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64url(data) != text:
        raise ValueError("not base64url without padding")
    return data
