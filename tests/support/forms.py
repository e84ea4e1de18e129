"""Multipart form data, as a client writes it."""

from __future__ import annotations

from collections.abc import Iterable

FORM = "multipart/form-data; boundary=bound"


def form(fields: Iterable[tuple[str, bytes]]) -> bytes:
    """The body of a form with these fields; one called `file` comes as a file."""
    body = b""
    for name, data in fields:
        more = '; filename="a.wav"\r\nContent-Type: audio/wav' if name == "file" else ""
        body += f'--bound\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + data + b"\r\n"
    return body + b"--bound--\r\n"
