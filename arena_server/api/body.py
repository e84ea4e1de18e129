"""The request body, asked for no more of its fields than the daemon needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from arena_server.api.form import field_spans, is_form
from arena_server.errors import BadRequest

# Large bodies are long texts, or files in base64. Seven million objects in one took 2 s and 800 MB to read, in which
# the event loop stood still; with no more than these, half a second. (Numbers: a batch of prompts as tokens.)
SMALL_BYTES = 1 << 20
MOST_MARKS = {b":": 1 << 20, b"[": 1 << 20, b",": 8 << 20}

USAGE_OPTIONS = ("include_usage", "continuous_usage_stats")
MODEL_MISSING = "You must provide a model parameter."


def _field(schema: CoreSchema, default: object = None) -> core_schema.TypedDictField:
    """A field that is `default` where it is not of the schema: then it is the engine's to refuse."""
    tolerant = core_schema.with_default_schema(schema, default=default, on_error="default")
    return core_schema.typed_dict_field(tolerant, required=False)


def _optional_bool() -> core_schema.TypedDictField:
    return core_schema.typed_dict_field(core_schema.nullable_schema(core_schema.bool_schema()), required=False)


# What other servers know beside (`include_obfuscation`, OpenAI's) is no more than that; of what is more, None.
_SMALL = core_schema.with_default_schema(
    core_schema.union_schema(
        [core_schema.bool_schema(strict=True), core_schema.int_schema(strict=True), core_schema.str_schema()]
    ),
    default=None,
    on_error="default",
)
# False where vLLM refuses it.
_STREAM_OPTIONS = core_schema.nullable_schema(
    core_schema.with_default_schema(
        core_schema.typed_dict_schema(
            {name: _optional_bool() for name in USAGE_OPTIONS},
            extra_behavior="allow",
            extras_schema=_SMALL,
        ),
        default=False,
        on_error="default",
    )
)
# Lax, as vLLM reads them: it streams for `"stream": 1`, too. Of the rest no Python objects are made: those of one large
# body took ten seconds, in which the event loop stood still.
_ASK_FIELDS = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            "model": core_schema.typed_dict_field(
                core_schema.nullable_schema(core_schema.str_schema(strict=True)), required=False
            ),
            "stream": _field(core_schema.bool_schema(), default=False),
            "stream_options": core_schema.typed_dict_field(_STREAM_OPTIONS, required=False),
            "temperature": _field(core_schema.float_schema()),
            "seed": _field(core_schema.int_schema()),
            "n": _field(core_schema.int_schema()),
        },
        extra_behavior="ignore",
    )
)


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a client asks about usage in a stream, and what else it asks of it, in `others`.

    `valid`: whether vLLM takes it; else it is vLLM's to refuse.
    """

    include_usage: bool = False
    continuous_usage_stats: bool = False
    valid: bool = True
    others: Mapping[str, bool | int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ask:
    """What the daemon has to know of a request; the rest is between the client and the engine.

    `stream_options`, `temperature`, `seed` and `n` are None where the body has none (or null, or, of the last three,
    nothing that vLLM takes).
    """

    model: str
    stream: bool
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    seed: int | None = None
    n: int | None = None


def ask_of(body: bytes, content_type: str) -> Ask:
    """What a request asks for, in JSON or (audio routes) multipart form data. Raises BadRequest."""
    form = is_form(content_type)
    fields: Mapping[str, Any] = {"model": _form_model(body, content_type)} if form else _json_fields(body)
    if not (name := fields.get("model")):
        raise BadRequest(MODEL_MISSING, param="model")
    options = _stream_options(fields.get("stream_options"))
    numbers = {each: fields.get(each) for each in ("temperature", "seed", "n")}
    return Ask(name, fields.get("stream", False), options, **numbers)


def _stream_options(found: Mapping[str, Any] | bool | None) -> StreamOptions | None:
    if found is None:
        return None
    if not isinstance(found, Mapping):
        return StreamOptions(valid=False)
    others = {name: value for name, value in found.items() if name not in USAGE_OPTIONS and value is not None}
    return StreamOptions(bool(found.get(USAGE_OPTIONS[0])), bool(found.get(USAGE_OPTIONS[1])), others=others)


def _json_fields(body: bytes) -> Mapping[str, Any]:
    if len(body) > SMALL_BYTES and any(body.count(mark) > most for mark, most in MOST_MARKS.items()):
        raise BadRequest("The JSON body of your request has too many values.")
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


def _form_model(body: bytes, content_type: str) -> str | None:
    spans = field_spans(body, content_type, "model")
    if not spans:
        return None
    start, end = spans[-1]
    return body[start:end].decode(errors="replace")
