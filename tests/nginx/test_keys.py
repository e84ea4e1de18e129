"""API keys through the proxy: they reach the daemon, and what it says of them reaches the client."""

from __future__ import annotations

from pathlib import Path

from arena_server.access.key import sha256_of
from tests.nginx.site import Certificates, nginx
from tests.support.daemon_app import running_daemon

KEY, ADMIN = "sk-arena-through-the-proxy", "sk-arena-admin-through-the-proxy"
KEYS = {
    "app": {"sha256": sha256_of(KEY), "scopes": ("inference",), "limits": {"requests_per_minute": 1}},
    "ops": {"sha256": sha256_of(ADMIN), "scopes": ("admin",)},
}
CHAT = {"model": "alpha", "messages": [{"role": "user", "content": "hi"}]}


async def test_a_key_passes_the_proxy_and_so_do_the_answers_to_it(tmp_path: Path, certificates: Certificates) -> None:
    async with running_daemon(access={"keys": KEYS}) as daemon:
        with nginx(tmp_path, daemon.port, certificates) as proxy:
            refused = await proxy.post("/v1/chat/completions", CHAT)
            assert refused.status == 401
            assert refused.error()["code"] == "invalid_api_key"
            assert refused.header("www-authenticate") is not None
            answer = await proxy.post("/v1/chat/completions", CHAT, [("Authorization", f"Bearer {KEY}")])
            assert answer.status == 200
            assert answer.header("x-ratelimit-limit-requests") == "1"
            over = await proxy.post("/v1/chat/completions", CHAT, [("x-api-key", KEY)])
            assert over.status == 429
            assert over.error()["code"] == "rate_limit_exceeded"
            assert int(over.header("retry-after") or "0") > 0
            for path in ("/admin/keys", "/admin/pool", "/metrics"):  # the operator's, whoever asks from outside
                answer = await proxy.post(path, {"name": "a"}, [("Authorization", f"Bearer {ADMIN}")])
                assert (answer.status, answer.error()["code"]) == (403, "forbidden")
        await daemon.come_to_rest()
