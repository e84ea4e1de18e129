"""The bodies of the arena's requests, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import from_json

from arena_server.errors import BadRequest
from arena_server.store.records import Vote

LETTERS = "abcd"
MOST_MESSAGES = 2000
MOST_PARTS = 100
# At most, and those in texts count, too: three million took 37 s and 5 GB to read, in which the event loop stood still.
MOST_VALUES = 100_000
LONGEST_NAME = 100  # of a field that is told back
# What the other branch of a union says of a value that is not for it.
OTHER_BRANCH = frozenset({"string_type", "list_type", "dict_type"})


class Body(BaseModel):
    """A JSON object; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ChatMessage(Body):
    """One message in OpenAI's form: its content is a text, or parts, which are between the client and the engines."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[dict[str, JsonValue]], Field(max_length=MOST_PARTS)]


# Bounded, as reading them takes the event loop's time.
Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)]
StopText = Annotated[str, Field(max_length=256)]


class ChatFields(Body):
    """OpenAI's sampling fields, and those that vLLM adds. What is left out is the model's own default."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int | None = Field(default=None, ge=0)
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0)

    def sampling(self) -> dict[str, Any]:
        """Those that were given, for the engines."""
        given = self.model_dump(include=set(ChatFields.model_fields), exclude_none=True)
        if (most := given.pop("max_completion_tokens", None)) is not None:
            given.setdefault("max_tokens", most)
        return given


class CompareBody(ChatFields):
    """POST /v1/arena/compare. `messages` are the same for all sides, or each side's own by letter."""

    messages: Messages | dict[str, Messages]
    models: list[str] = Field(min_length=2, max_length=4)
    stream: bool = True
    co_residency: Literal["require", "prefer"] = "prefer"

    @model_validator(mode="after")
    def _messages_for_all(self) -> Self:
        letters = list(LETTERS[: len(self.models)])
        if isinstance(self.messages, Mapping) and sorted(self.messages) != letters:
            raise ValueError(f"messages by side need one list for each of {', '.join(letters)}, and no others")
        return self

    def messages_of(self, letter: str) -> list[dict[str, Any]]:
        """One side's conversation."""
        return dumped(self.messages[letter] if isinstance(self.messages, dict) else self.messages)


class BattleBody(ChatFields):
    """POST /v1/arena/battles; without `models` the pair is drawn."""

    messages: Messages
    models: list[str] | None = Field(default=None, min_length=2, max_length=2)

    @model_validator(mode="after")
    def _ends_with_the_users(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("the last of messages must be the user's")
        return self


class TurnBody(Body):
    """POST /v1/arena/battles/{id}/turns."""

    content: str = Field(min_length=1)


class VoteBody(Body):
    """POST /v1/arena/battles/{id}/vote."""

    vote: Vote


B = TypeVar("B", bound=Body)


def parse(kind: type[B], body: bytes) -> B:
    """JSON text -> a body of this kind. Raises BadRequest, naming the first field at fault."""
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MOST_VALUES:
        raise BadRequest(f"The body has more than {MOST_VALUES} values.")
    try:
        if b"NaN" in body or b"Infinity" in body:
            from_json(body, allow_inf_nan=False)  # no JSON, though Python's readers take it; an engine's would not
        return kind.model_validate_json(body)
    except ValidationError as e:
        raise _bad_request(e) from None
    except ValueError as e:
        raise BadRequest(f"We could not parse the JSON body of your request: {e}") from None


def _bad_request(error: ValidationError) -> BadRequest:
    """The first fault; of a union, that of the branch that was meant."""
    faults = error.errors(include_url=False)
    fault = next((f for f in faults if f["type"] not in OTHER_BRANCH), faults[0])
    if fault["type"] == "json_invalid":
        return BadRequest(f"We could not parse the JSON body of your request: {fault['msg']}")
    # Pydantic puts the names of a union's branches between those of the fields.
    names = [str(part) for part in fault["loc"] if isinstance(part, int) or (part.isidentifier() and part != "str")]
    where = ".".join(names)[:LONGEST_NAME] or (str(fault["loc"][0])[:LONGEST_NAME] if fault["loc"] else "")
    if fault["type"] == "extra_forbidden":
        return BadRequest(f"`{where}` is not known here.", param=where)
    message = fault["msg"].removeprefix("Value error, ")
    return BadRequest(f"`{where}`: {message}" if where else message, param=where or None)


def dumped(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as plain JSON values."""
    return [message.model_dump() for message in messages]
