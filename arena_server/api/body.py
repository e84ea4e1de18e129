"""The request body: read within its limit, and asked for nothing but its `model` and whether it wants a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic_core import SchemaValidator, ValidationError, core_schema
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from arena_server.errors import BadRequest, BodyTooLarge

MODEL_MISSING = "You must provide a model parameter."

# Of the rest no Python objects are made: those of one large body took ten seconds, in which the event loop stood still.
_ASK_FIELDS = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            "model": core_schema.typed_dict_field(
                core_schema.nullable_schema(core_schema.str_schema(strict=True)), required=False
            ),
            # Whatever is no boolean is the engine's to refuse.
            "stream": core_schema.typed_dict_field(
                core_schema.with_default_schema(
                    core_schema.bool_schema(strict=True), default=False, on_error="default"
                ),
                required=False,
            ),
        },
        extra_behavior="ignore",
    )
)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises BodyTooLarge over `limit` bytes, as soon as that is known, and ClientDisconnect."""
    too_large = BodyTooLarge(f"The request body is over {limit} bytes (server.max_body_bytes).")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


@dataclass(frozen=True, slots=True)
class Ask:
    """What the daemon has to know of a request; the rest is between the client and the engine."""

    model: str
    stream: bool


def ask_of(body: bytes, content_type: str) -> Ask:
    """What a request asks for, in JSON or (audio routes) multipart form data. Raises BadRequest."""
    if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        name, stream = _form_field(body, content_type, "model"), False
    else:
        fields = _json_fields(body)
        name, stream = fields.get("model"), fields.get("stream", False)
    if not name:
        raise BadRequest(MODEL_MISSING, param="model")
    return Ask(name, stream)


def _json_fields(body: bytes) -> Mapping[str, Any]:
    try:
        fields: Mapping[str, Any] = _ASK_FIELDS.validate_json(body)
    except ValidationError as e:
        (fault,) = e.errors(include_url=False, include_input=False)
        if fault["type"] == "json_invalid":
            why = fault["ctx"]["error"]
            raise BadRequest(f"We could not parse the JSON body of your request: {why}") from None
        if not fault["loc"]:
            raise BadRequest("The JSON body of your request must be an object.") from None
        raise BadRequest("`model` must be a string.", param="model") from None
    return fields


def _form_field(body: bytes, content_type: str, wanted: str) -> str | None:
    """The value of one field of a form; the others, files among them, are passed over."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadRequest("The multipart/form-data content type has no boundary.")
    header, disposition = bytearray(), bytearray()
    value: bytearray | None = None
    inside = False

    def header_field(data: bytes, start: int, end: int) -> None:
        header.extend(data[start:end])

    def header_value(data: bytes, start: int, end: int) -> None:
        if header.lower() == b"content-disposition":
            disposition.extend(data[start:end])

    def headers_finished() -> None:
        nonlocal inside, value
        inside = parse_options_header(bytes(disposition))[1].get(b"name") == wanted.encode()
        if inside:
            value = bytearray()

    def part_data(data: bytes, start: int, end: int) -> None:
        if inside and value is not None:
            value.extend(data[start:end])

    callbacks: Any = {
        "on_part_begin": disposition.clear,
        "on_header_begin": header.clear,
        "on_header_field": header_field,
        "on_header_value": header_value,
        "on_headers_finished": headers_finished,
        "on_part_data": part_data,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as e:
        raise BadRequest(f"We could not parse the form data of your request: {e}") from None
    return None if value is None else value.decode(errors="replace")
