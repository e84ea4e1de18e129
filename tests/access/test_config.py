"""The configuration of keys, limits and proxies: what is refused, in what words, and that all of it is explained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from arena_server.config import parse_config
from arena_server.config_access import AccessConfig, KeyConfig, LimitsConfig
from arena_server.config_types import Origin
from arena_server.errors import ConfigError

HASH = "a" * 64
ORIGIN = Origin(Path("arena.yaml"), None)
MODELS = "models: {a: {model: x/y}}\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("access: {anonymous: [admin]}", "access.anonymous.0: cannot be `admin` (for that there has to be a key)"),
        ("access: {anonymous: [foo]}", "access.anonymous.0: must be 'inference', 'arena', 'metrics' or 'admin'"),
        ("access: {keys: {a: {}}}", "access.keys.a: needs either `key_env` or `sha256`"),
        (f"access: {{keys: {{a: {{sha256: {HASH}, key_env: A}}}}}}", "access.keys.a: needs either `key_env` or"),
        ("access: {keys: {a: {sha256: abc}}}", "access.keys.a.sha256: must be 64 hexadecimal digits"),
        ("access: {keys: {a: {key_env: ''}}}", "access.keys.a.key_env: must be the name of an environment variable"),
        (f"access: {{keys: {{a: {{sha256: {HASH}, scopes: []}}}}}}", "access.keys.a.scopes: must have at least 1"),
        (f"access: {{keys: {{a: {{sha256: {HASH}, models: []}}}}}}", "access.keys.a.models: must have at least 1"),
        (f"access: {{keys: {{a: {{sha256: {HASH}, scopes: [king]}}}}}}", "access.keys.a.scopes.0: must be 'inf"),
        (
            f"access: {{keys: {{a: {{sha256: {HASH}}}, b: {{sha256: {HASH}}}}}}}",
            "access.keys.b.sha256: is that of `a`, too (give each its own key)",
        ),
        ("access: {key_limits: {tokens_per_day: 0}}", "access.key_limits.tokens_per_day: must be at least 1, not 0"),
        ("access: {key_limits: {requests: 1}}", "access.key_limits.requests: unknown key (known keys: requests_per"),
        ("access: {failed_tries_per_minute: 0}", "access.failed_tries_per_minute: must be at least 1, not 0"),
        ('server: {trusted_proxies: ["*"]}', "server.trusted_proxies.0: must be an address or a network such as"),
        ("server: {trusted_proxies: [10.0.0.1/8]}", "server.trusted_proxies.0: must be an address or a network"),
        ("server: {trusted_proxies: [proxy.example]}", "server.trusted_proxies.0: must be an address or a network"),
        ("server: {trusted_proxies: [0.0.0.0/0]}", "server.trusted_proxies.0: trusts everybody"),
        ('server: {trusted_proxies: ["::/0"]}', "server.trusted_proxies.0: trusts everybody"),
    ],
)
def test_a_fault_is_one_line_that_names_the_key(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(f"{text}\n{MODELS}".encode(), ORIGIN)
    (line,) = raised.value.lines
    assert line.startswith(f"arena.yaml: {fault}")


def test_all_of_it_is_taken() -> None:
    text = f"""
access:
  keys:
    ops: {{key_env: OPS_KEY, scopes: [admin]}}
    web: {{sha256: {HASH}, scopes: [inference, arena], models: [a], limits: {{tokens_per_day: 5}}}}
  anonymous: [metrics]
  key_limits: {{requests_per_minute: 60, tokens_per_minute: 10000, concurrent_requests: 4}}
  address_limits: {{requests_per_minute: 600}}
  failed_tries_per_minute: 5
server: {{trusted_proxies: [10.0.0.0/8, "fd00::/8", 192.0.2.1]}}
{MODELS}"""
    access = parse_config(text.encode(), ORIGIN).access
    assert access.keys["web"].limits == LimitsConfig(tokens_per_day=5)
    assert access.keys["ops"].key_env == "OPS_KEY"
    assert access.key_limits.concurrent_requests == 4


def test_check_config_tells_of_a_key_that_is_not_here_and_serve_fails(tmp_path: Path) -> None:
    file = tmp_path / "arena.yaml"
    file.write_text(
        "access: {keys: {ops: {key_env: ARENA_TEST_NO_SUCH_KEY}}}\nserver: {port: 0}\n"
        f"state_dir: {tmp_path}\nmodels: {{a: {{model: x/y, gpu_memory_utilization: 0.1}}}}\n"
    )
    fault = "access.keys.ops.key_env: the environment variable ARENA_TEST_NO_SUCH_KEY is not set"
    done = {
        command: subprocess.run(
            [sys.executable, "-m", "arena_server", *command.split(), str(file)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for command in ("check-config", "serve --config")
    }
    checked, served = done["check-config"], done["serve --config"]
    assert checked.returncode == 0
    assert f"{file}: {fault} (here, where it is checked)" in checked.stderr
    assert served.returncode == 2
    assert f"arena-server: {file}: {fault}" in served.stderr.splitlines()


def test_every_key_is_explained() -> None:
    text = (Path(__file__).parent.parent.parent / "docs/configuration.md").read_text()
    keys = [key for section in (AccessConfig, KeyConfig, LimitsConfig) for key in section.model_fields]
    assert [key for key in keys if f"| `{key}` |" not in text] == []


@pytest.mark.parametrize("key", ["sk-arena-secret-text", "my secret text is this", "12345678901234567890123"])
@pytest.mark.parametrize("where", ["key_env", "sha256"])
def test_a_key_that_stands_where_its_name_or_hash_should_is_not_shown(where: str, key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(f"access: {{keys: {{ops: {{{where}: {key}}}}}}}\n{MODELS}".encode(), ORIGIN)
    assert f"access.keys.ops.{where}: must be " in str(raised.value)
    assert "not the key" in str(raised.value)
    assert key not in str(raised.value)
