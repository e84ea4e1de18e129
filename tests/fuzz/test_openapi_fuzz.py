"""What /openapi.json allows, and what it does not, sent to every route: the answers are those that it says."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, strategies
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks

from tests.fuzz.daemon_thread import DaemonThread, daemon_thread
from tests.fuzz.health import check_well
from tests.support.daemon_app import MODELS, FakeDaemon, parts
from tests.support.replies import Received, Reply, reply_to, whole

KEY = "sk-arena-of-the-fuzzer"
BEARER = {"Authorization": f"Bearer {KEY}"}
# For each operation and each mode. Whoever changes how requests are read lets it be 200 once.
EXAMPLES = int(os.environ.get("ARENA_FUZZ_EXAMPLES", "6"))
SEED = int(os.environ.get("ARENA_FUZZ_SEED", "6"))
NAMES = [*MODELS, "gpt-4o", "nobody"]
# With fake engines no other is possible: who waits in vain, whose model was stopped meanwhile.
GOOD_5XX = {502, 503}
ENDLESS = {"GET /admin/events"}
LONGEST_ANSWER = 50  # tokens


def reply(request: Received) -> Reply:
    """As vLLM would: it takes what it can, and refuses the rest."""
    try:
        if not request.path.startswith("/v1/audio") and int(request.json().get("max_tokens") or 1) > LONGEST_ANSWER:
            raise ValueError
        return reply_to(request)
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError):
        error = {"message": "no", "type": "BadRequestError", "param": None, "code": 400}
        return whole({"error": error}, "400 Bad Request")


@pytest.fixture(scope="module")
def served() -> Iterator[DaemonThread]:
    keys = {"fuzzer": {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "scopes": ["admin"]}}
    pool = {"max_wait_s": 0.2, "patience_s": 0.0}
    with daemon_thread(access={"keys": keys}, pool=pool) as running:
        for engine in running.daemon.made:
            engine.reply = reply
        yield running


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def _operations() -> dict[str, APIOperation[Any, Any, Any, Any]]:
    with parts() as joined:
        schema = schemathesis.openapi.from_dict(joined.daemon.app.openapi())
    found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    return {operation.label: operation for operation in found}


OPERATIONS = _operations()
RUNS = [
    (label, mode)
    for label, operation in sorted(OPERATIONS.items())
    for mode in schemathesis.GenerationMode
    if label not in ENDLESS
    # Of nothing, nothing can be wrong.
    and (mode is schemathesis.GenerationMode.POSITIVE or operation.body or operation.path_parameters)
]


@strategies.composite
def cases(
    draw: strategies.DrawFn, operation: APIOperation[Any, Any, Any, Any], mode: schemathesis.GenerationMode
) -> Any:
    """Cases of schemathesis', with models that exist more often than by chance."""
    case = draw(operation.as_strategy(generation_mode=mode))
    if isinstance(case.body, dict) and draw(strategies.booleans()):
        if "model" in case.body:
            case.body["model"] = draw(strategies.sampled_from(NAMES))
        if "models" in case.body:
            models: list[Any] = draw(strategies.lists(strategies.sampled_from(NAMES), min_size=2, max_size=4))
            case.body["models"] = models
    if "name" in (case.path_parameters or {}) and draw(strategies.booleans()):
        case.path_parameters["name"] = draw(strategies.sampled_from(NAMES))
    return case


def check_form(response: schemathesis.Response) -> None:
    """Errors are in OpenAI's form, and those of the server are among the few that can be."""
    if response.status_code < 400:
        return
    assert response.status_code < 500 or response.status_code in GOOD_5XX, response.text
    error = json.loads(response.content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(("label", "mode"), RUNS)
def test_answers_are_as_they_are_said_to_be(
    label: str,
    mode: schemathesis.GenerationMode,
    served: DaemonThread,
    session: requests.Session,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=cases(OPERATIONS[label], mode))
    def ask(case: Any) -> None:
        case.headers = {name: v for name, v in (case.headers or {}).items() if name.lower() != "x-api-key"}
        response = case.call(base_url=served.daemon.url, session=session, headers=BEARER, timeout=20)
        case.validate_response(
            response,
            checks=[
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
        )
        check_form(response)

    with caplog.at_level(logging.ERROR):
        ask()
    assert not [r for r in caplog.records if "ASGI" in r.getMessage()]
    served.run(left_well(served.daemon))


async def left_well(daemon: FakeDaemon) -> None:
    """Nobody has anything of it any more, and it goes on."""
    for name in MODELS:
        await daemon.idle(name)
        daemon.pool.pin(name, False)
    assert not daemon.pool._core.leases
    await check_well(daemon, [("Authorization", f"Bearer {KEY}")])


def test_in_the_end_no_task_is_left(served: DaemonThread) -> None:
    async def tasks() -> int:
        return len(asyncio.all_tasks())

    served.run(left_well(served.daemon))
    assert served.run(tasks()) < 40
