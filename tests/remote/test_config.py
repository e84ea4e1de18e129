"""What a configuration may say of a remote model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from arena_server.blueprint import draw_blueprint
from arena_server.config import Config, parse_config
from arena_server.config_devices import check_devices
from arena_server.config_types import Origin
from arena_server.errors import ConfigError
from arena_server.measurements import MeasurementStore
from tests.support.fake_probe import FakeProbe

FILE = Path("/etc/arena/config.yaml")
FAR = {"model": "org/there", "backend_url": "https://far.example/v1"}
NEAR = {"model": "org/near", "gpu_memory_utilization": 0.9}


def parsed(**models: dict[str, Any]) -> Config:
    return parse_config(yaml.safe_dump({"models": models}).encode(), Origin(FILE, frozenset({"max_model_len"})))


def faults(**model: Any) -> list[str]:
    with pytest.raises(ConfigError) as wrong:
        parsed(far=model)
    return [line.removeprefix(f"{FILE}: models.far.") for line in wrong.value.lines]


def test_all_its_keys_are_read() -> None:
    keys = {"api_key_env": "FAR_KEY", "connect_timeout_s": 1, "timeout_s": 2, "retries": 0, "fallback": ["near"]}
    far = parsed(far={**FAR, **keys, "aliases": ["a"], "input_cost": 1}, near=NEAR).models["far"]
    assert far.remote
    assert (far.api_key_env, far.connect_timeout_s, far.timeout_s, far.retries) == ("FAR_KEY", 1, 2, 0)
    assert not parsed(near=NEAR).models["near"].remote


@pytest.mark.parametrize("model", ["/models/llama", "./llama", "~/llama", "org/llama:8b"])
def test_its_name_there_is_no_path_here(model: str) -> None:
    assert parsed(far={**FAR, "model": model}).models["far"].model == model


def test_keys_of_an_engine_are_refused_each_by_its_name() -> None:
    keys = {
        "engine_args": {"max_model_len": 1},
        "gpu_memory_utilization": 0.5,
        "devices": [0],
        "sleep_level": 0,
        "env": {"A": "b"},
        "pinned": True,
        "idle_ttl_s": 60,
    }
    what = "is for an engine on this host, and `backend_url` says that another server runs this model"
    assert sorted(faults(**FAR, **keys)) == sorted(f"{key}: {what}" for key in keys)


def test_keys_of_a_remote_model_are_refused_without_a_url() -> None:
    keys = {"api_key_env": "FAR_KEY", "connect_timeout_s": 1, "timeout_s": 2, "retries": 0}
    what = "is for a model that another server runs, which takes a `backend_url`"
    assert sorted(faults(**NEAR, **keys)) == sorted(f"{key}: {what}" for key in keys)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("far.example/v1", 'must be a URL such as http://127.0.0.1:4318, not "far.example/v1"'),
        ("unix:///run/x", 'must be a URL such as http://127.0.0.1:4318, not "unix:///run/x"'),
        (
            "https://user:word@far.example/v1",
            "must not have a user or a password in it (a key goes into the variable of `api_key_env`)",
        ),
        ("https://far.example/v1?a=b", "must end with its path, which the routes are added to: no `?`, no `#`"),
        ("https://far.example/v1#x", "must end with its path, which the routes are added to: no `?`, no `#`"),
    ],
)
def test_urls_that_will_not_do(url: str, what: str) -> None:
    (fault,) = faults(model="org/there", backend_url=url)
    assert fault == f"backend_url: {what}"
    assert "word" not in fault.removesuffix(what)


@pytest.mark.parametrize("key", ["sk-proj-abc", "", "1A", "A B"])
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_shown(key: str) -> None:
    what = "api_key_env: must be the name of an environment variable, and not the key that is in it"
    assert faults(**FAR, api_key_env=key) == [what]


def test_it_needs_no_device_and_takes_nothing_of_any() -> None:
    config = parsed(far=FAR, near=NEAR, also_far=FAR)
    probe = FakeProbe()
    assert check_devices(config, probe.devices) == {"far": (), "near": (0,), "also_far": ()}
    specs = {s.name: s for s in draw_blueprint(config, probe, MeasurementStore(None), "0").specs}
    assert (specs["far"].footprint, specs["far"].sleep_level, specs["far"].host_bytes) == ({}, 0, 0)
    assert specs["near"].footprint


def test_without_any_device_remote_models_alone_will_do() -> None:
    assert check_devices(parsed(far=FAR), []) == {"far": ()}
    with pytest.raises(ConfigError, match="there is no device to run them on"):
        check_devices(parsed(far=FAR, near=NEAR), [])


def test_it_is_none_of_those_that_may_be_awake() -> None:
    pinned = {"pinned": True, "gpu_memory_utilization": 0.3}
    models = {"near": {**NEAR, **pinned}, "far": FAR, "also_far": {**FAR, "preload": True}}
    raw = {"pool": {"max_awake_models": 1}, "models": models}
    config = parse_config(yaml.safe_dump(raw).encode(), Origin(FILE, None))
    assert check_devices(config, FakeProbe().devices)["near"] == (0,)


def test_another_server_is_another_engine_and_other_prices_are_not() -> None:
    probe, store = FakeProbe(), MeasurementStore(None)

    def drawn(**far: Any) -> Any:
        return draw_blueprint(parsed(far={**FAR, **far}), probe, store, "0")

    before = drawn()
    assert before.same_engine("far", drawn(input_cost=1, aliases=["x"]))
    for change in ({"backend_url": "https://near.example/v1"}, {"retries": 0}, {"api_key_env": "A"}, {"model": "b"}):
        assert not before.same_engine("far", drawn(**change))
    assert before.keys["far"] != drawn(backend_url="https://near.example/v1").keys["far"]
