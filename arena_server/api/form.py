"""Where a field's values lie in multipart form data (RFC 7578); files and other fields are passed over."""

from __future__ import annotations

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from arena_server.errors import BadRequest

# Starlette (vLLM's, too) takes no more fields and no more files. The parser is Python: a million took 15 s, in which
# the event loop stood still.
MOST_PARTS = 2000


def is_form(content_type: str) -> bool:
    """Whether a body of this content type is form data."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def field_spans(body: bytes, content_type: str, name: str) -> list[tuple[int, int]]:
    """Where the values of the fields called `name` begin and end in `body`, in their order; of servers that take one
    value, Starlette's (vLLM's, too) takes the last. Raises BadRequest.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadRequest("The multipart/form-data content type has no boundary.")
    if body.count(b"--" + boundary) > MOST_PARTS + 1:
        raise BadRequest(f"The form data has more than {MOST_PARTS} parts.")
    reader = _FieldReader(name.encode())
    try:
        # In one piece, so that what the parser says of places is of places in `body`.
        MultipartParser(boundary, reader.callbacks()).write(body)
    except FormParserError as e:
        raise BadRequest(f"We could not parse the form data of your request: {e}") from None
    return reader.spans


class _FieldReader:
    """What the parser tells, as far as it is about one field."""

    def __init__(self, wanted: bytes) -> None:
        self.spans: list[tuple[int, int]] = []
        self._wanted = wanted
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._inside = False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._part_begin,
            "on_header_begin": self._header_begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
        }

    def _part_begin(self) -> None:
        self._inside, self._disposition = False, b""

    def _header_begin(self) -> None:
        self._header.clear()
        self._value.clear()

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)  # the last of several, as Starlette has it

    def _headers_finished(self) -> None:
        self._inside = parse_options_header(self._disposition)[1].get(b"name") == self._wanted
        if self._inside:
            self.spans.append((0, 0))  # of an empty value no data is told

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._inside:
            first, last = self.spans[-1]
            self.spans[-1] = (first if last else start, end)
