"""What a registry's refusal means, in one sentence (OCI distribution spec, "Error Codes")."""

from __future__ import annotations

import json

from inlay.errors import NotFound, RateLimited, RegistryError, Unauthorized

_TEXT_LIMIT = 300


def explain(status: int, host: str, body: bytes, registry: str) -> tuple[type[RegistryError], str]:
    """The kind of error for an answer that is no success; and why, and what to do, to end a sentence."""
    said = _said(body)
    tail = f" ({said})" if said else ""
    if status in (401, 403):
        hint = f'log in with "docker login {registry or host}", and check that the name is right'
        return Unauthorized, f"{host} refuses access{tail}; {hint}"
    if status == 404:
        return NotFound, f"{host} does not have it{tail}; check the name"
    if status == 429:
        return RateLimited, f"{host} gets too many requests{tail}; log in, or try again later"
    return RegistryError, f"{host} answers with status {status}{tail}"


def _said(body: bytes) -> str:
    """The messages of the error document, shortened and on one line; empty where it is none."""
    try:
        errors = json.loads(body)["errors"]
        texts = [f"{error.get('code') or ''}: {error.get('message') or ''}".strip(": ") for error in errors]
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""
    text = " ".join("; ".join(dict.fromkeys(texts)).split())
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _TEXT_LIMIT else text[:_TEXT_LIMIT] + "…"
