"""What engines answer at `/metrics`: a page that vLLM 0.32 made, and pages of few lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.fake_engine import FakeEngine
from tests.support.replies import Received, Reply, reply_to

# After two requests: 18 tokens read and 40 written. Some of its `http_` families were cut out, nothing else.
VLLM_PAGE = Path(__file__).with_name("vllm_page.txt").read_text()
VLLM_PROMPT_TOKENS, VLLM_COMPLETION_TOKENS = 18, 40
NAME_ON_PAGE = "a-model"


def real_page(name: str) -> str:
    """As if the engine of that name had made it."""
    return VLLM_PAGE.replace(NAME_ON_PAGE, name)


def token_page(prompt: float, completion: float) -> str:
    """The counters of tokens alone."""
    return (
        "# HELP vllm:prompt_tokens_total Number of prefill tokens processed.\n"
        "# TYPE vllm:prompt_tokens_total counter\n"
        f'vllm:prompt_tokens_total{{engine="0"}} {prompt}\n'
        "# TYPE vllm:generation_tokens_total counter\n"
        f'vllm:generation_tokens_total{{engine="0"}} {completion}\n'
    )


def answers(engine: FakeEngine, page: Callable[[], str | bytes | Reply]) -> None:
    """Let the engine answer so at `/metrics`, and as ever elsewhere."""

    def reply(request: Received) -> Reply:
        if request.path != "/metrics":
            return reply_to(request)
        answer = page()
        if isinstance(answer, Reply):
            return answer
        body = answer.encode() if isinstance(answer, str) else answer
        return Reply([body], headers=(("content-type", "text/plain; version=1.0.0; charset=utf-8"),), length=len(body))

    engine.reply = reply
