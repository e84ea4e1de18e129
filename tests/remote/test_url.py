"""Where routes of a remote server are, and the way there."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from arena_server.engine.remote_url import BackendUrl, proxy_for

CHAT, RERANK, MODELS = "/v1/chat/completions", "/rerank?a=1", "/v1/models"


@pytest.mark.parametrize(
    ("backend_url", "chat", "rerank"),
    [
        ("http://h:1/v1", "http://h:1/v1/chat/completions", "http://h:1/rerank?a=1"),
        ("http://h:1/v1/", "http://h:1/v1/chat/completions", "http://h:1/rerank?a=1"),
        ("http://h:1", "http://h:1/v1/chat/completions", "http://h:1/rerank?a=1"),
        ("http://h:1/", "http://h:1/v1/chat/completions", "http://h:1/rerank?a=1"),
        ("https://h/api/v1", "https://h/api/v1/chat/completions", "https://h/api/rerank?a=1"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai/chat/completions", "https://h/v1beta/openai/rerank?a=1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/chat/completions", "http://[::1]:8000/rerank?a=1"),
    ],
)
def test_routes_are_added_as_openais_clients_add_them(backend_url: str, chat: str, rerank: str) -> None:
    url = BackendUrl.of(backend_url)
    assert (url.at(CHAT), url.at(RERANK)) == (chat, rerank)
    assert url.at(MODELS) == chat.replace("chat/completions", "models")


@pytest.mark.parametrize(
    ("backend_url", "exposed"),
    [
        ("http://models.example/v1", True),
        ("https://models.example/v1", False),
        ("http://127.0.0.1:8001", False),
        ("http://[::1]:8001/v1", False),
        ("http://localhost:11434/v1", False),
        ("http://10.0.0.7:8000/v1", True),
    ],
)
def test_what_can_be_read_on_its_way_is_known(backend_url: str, exposed: bool) -> None:
    assert BackendUrl.of(backend_url).exposed is exposed


HTTP, HTTPS, LOCAL = "http://models.example/v1", "https://models.example/v1", "http://127.0.0.1:8001/v1"


@pytest.mark.parametrize(
    ("backend_url", "environment", "proxy"),
    [
        (HTTPS, {}, None),
        (HTTPS, {"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        (HTTPS, {"https_proxy": "http://p:3128", "HTTPS_PROXY": "http://q:3128"}, "http://p:3128"),
        (HTTPS, {"HTTP_PROXY": "http://p:3128"}, None),
        (HTTP, {"HTTP_PROXY": "http://p:3128"}, "http://p:3128"),
        (HTTP, {"ALL_PROXY": "http://p:3128"}, "http://p:3128"),
        (HTTP, {"HTTP_PROXY": "http://p:3128", "NO_PROXY": "example"}, None),
        (HTTP, {"HTTP_PROXY": "http://p:3128", "NO_PROXY": "x, .models.example"}, None),
        (HTTP, {"HTTP_PROXY": "http://p:3128", "NO_PROXY": "*"}, None),
        (HTTP, {"HTTP_PROXY": "http://p:3128", "NO_PROXY": "ample"}, "http://p:3128"),
        (HTTP, {"HTTP_PROXY": "http://p:3128", "NO_PROXY": ""}, "http://p:3128"),
        (LOCAL, {"HTTP_PROXY": "http://p:3128", "ALL_PROXY": "http://p:3128"}, None),
    ],
)
def test_a_proxy_is_taken_from_the_environment_as_curl_does(
    backend_url: str, environment: Mapping[str, str], proxy: str | None
) -> None:
    assert proxy_for(BackendUrl.of(backend_url), environment) == proxy


def test_a_proxy_that_is_none_for_http_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match=r"^only HTTP proxies are supported$"):
        proxy_for(BackendUrl.of(HTTPS), {"ALL_PROXY": "socks5://user:word@p:1080"})
