from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from arena_server.config import Config, load_config, parse_config
from arena_server.config_model import ModelConfig
from arena_server.config_types import Origin
from arena_server.errors import ConfigError

FILE = Path("/etc/arena/arena.yaml")
KNOWN = frozenset(
    {
        "max_model_len",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "data_parallel_size",
        "prefill_context_parallel_size",
    }
)

EXAMPLE = """
server: {host: 127.0.0.1, port: 8000}
pool: {max_awake_models: 2}
state_dir: /var/lib/vllm-arena
models:
  llama-3.1-8b:
    {model: meta-llama/Llama-3.1-8B-Instruct, gpu_memory_utilization: 0.3, engine_args: {max_model_len: 4096}}
  mistral-7b:   {model: mistralai/Mistral-7B-Instruct-v0.3, gpu_memory_utilization: 0.3}
"""


def parse(text: str | bytes) -> Config:
    data = text.encode() if isinstance(text, str) else text
    return parse_config(data, Origin(FILE, KNOWN))


def model(text: str) -> ModelConfig:
    return parse(f"models: {{x: {{model: org/x, {text}}}}}").models["x"]


def faults(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return [line.removeprefix(f"{FILE}: ") for line in caught.value.lines]


def test_the_example_loads(tmp_path: Path) -> None:
    file = tmp_path / "arena.yaml"
    file.write_text(EXAMPLE)
    config = load_config(file)
    assert list(config.models) == ["llama-3.1-8b", "mistral-7b"]
    assert config.models["llama-3.1-8b"].model == "meta-llama/Llama-3.1-8B-Instruct"
    assert config.models["llama-3.1-8b"].engine_args == {"max_model_len": 4096}
    assert config.models["mistral-7b"].gpu_memory_utilization == 0.3
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8000)
    assert config.pool.max_awake_models == 2
    assert config.state_dir == Path("/var/lib/vllm-arena")
    assert config.file == file


LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day")


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    config = parse("models: {x: {model: org/x}}")
    assert config.model_dump() == {
        "server": {
            "host": "127.0.0.1",
            "port": 8000,
            "trusted_proxies": ("127.0.0.1", "::1"),
            "max_body_bytes": 67108864,
            "body_memory_bytes": None,
            "body_timeout_s": 60.0,
            "shutdown_grace_s": 30.0,
        },
        "pool": {
            "max_awake_models": None,
            "memory_reserve": 0.05,
            "max_queue": 1000,
            "max_wait_s": 600.0,
            "patience_s": None,
            "wait_notice_s": 3.0,
            "load_timeout_s": 1800.0,
            "load_stall_s": 300.0,
            "sleep_timeout_s": 300.0,
            "progress_stall_s": 180.0,
            "sleep_memory_bytes": None,
        },
        "arena": {
            "database": None,
            "store_texts": False,
            "paced": True,
            "min_chars_per_s": 40.0,
            "max_chars_per_s": 400.0,
            "weights": {},
            "awake_preference": 0.5,
            "battle_ttl_s": 3600.0,
            "battle_memory_bytes": 268435456,
        },
        "access": {
            "keys": {},
            "anonymous": (),
            "key_limits": dict.fromkeys(LIMITS),
            "address_limits": dict.fromkeys(LIMITS),
            "failed_tries_per_minute": 10,
        },
        "cache": {"enabled": False, "max_bytes": 268435456, "ttl_s": 3600.0},
        "tracing": {"endpoint": None, "sample_ratio": 1.0},
        "engine_start": "fork",
        "state_dir": Path("/state/arena-server"),
        "run_dir": None,
        "log_level": "info",
        "aliases": {},
        "models": {
            "x": {
                "model": "org/x",
                "display_name": None,
                "gpu_memory_utilization": 0.9,
                "engine_args": {},
                "aliases": (),
                "pinned": False,
                "preload": False,
                "idle_ttl_s": None,
                "devices": "auto",
                "sleep_level": "auto",
                "env": {},
                "fallback": (),
                "input_cost": 0,
                "output_cost": 0,
                "backend_url": None,
                "api_key_env": None,
                "connect_timeout_s": 5.0,
                "timeout_s": 600.0,
                "retries": 2,
            }
        },
    }


@pytest.mark.parametrize("xdg", ["", "relative"])
def test_the_state_directory_is_in_the_home_where_xdg_names_no_absolute_one(
    monkeypatch: pytest.MonkeyPatch, xdg: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", xdg)
    monkeypatch.setenv("HOME", "/home/me")
    assert parse("models: {x: {model: a}}").state_dir == Path("/home/me/.local/state/arena-server")


def test_an_empty_section_means_its_defaults() -> None:
    config = parse("server:\npool:\nrun_dir:\nmodels: {x: {model: a, engine_args: , env: , idle_ttl_s: }}")
    assert config == parse("models: {x: {model: a}}")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("org/model", "org/model"),
        ("models/local", "models/local"),
        ("s3://bucket/x", "s3://bucket/x"),
        ("/abs/x", "/abs/x"),
        ("./x", "/etc/arena/x"),
        ("../x", "/etc/arena/../x"),
        ("~/x", "/home/me/x"),
    ],
)
def test_model_paths_are_relative_to_the_file(monkeypatch: pytest.MonkeyPatch, written: str, meant: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse(f"models: {{x: {{model: {written}}}}}").models["x"].model == meant


def test_directories_are_relative_to_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = parse("{state_dir: state, run_dir: ~/run, models: {x: {model: a}}}")
    assert (config.state_dir, config.run_dir) == (Path("/etc/arena/state"), Path("/home/me/run"))


def test_environment_numbers_become_text_as_they_are() -> None:
    assert model("env: {A: 1, B: -2.5, C: '01', D: ''}").env == {"A": "1", "B": "-2.5", "C": "01", "D": ""}


def test_needed_devices_is_the_product_of_the_parallel_sizes() -> None:
    assert model("devices: auto").needed_devices == 1
    assert model("engine_args: {tp: 2, pipeline-parallel-size: 3}").needed_devices == 6
    assert model("engine_args: {dp: 2, prefill_context_parallel_size: 5}").needed_devices == 10
    assert model("engine_args: {tp: 2}, devices: [3, 1]").devices == (3, 1)


def test_it_cannot_be_changed() -> None:
    config = parse(EXAMPLE)
    with pytest.raises(ValidationError):
        config.server.port = 1


OK = "models: {x: {model: a}}"
NAME = "must be 1 to 200 letters, digits and `/ . : - _ @ +`"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("server: {}", ["models: is missing (the models to serve, by name)"]),
        ("models: {}", ["models: must have at least 1 entry"]),
        ("models: [a]", ["models: must be a mapping, not a list"]),
        ("models: {x: a}", ['models.x: must be a mapping, not "a"']),
        ("models: {x: }", ["models.x: must be a mapping, not null"]),
        (f"server: 5\n{OK}", ["server: must be a mapping, not 5"]),
        (f"sever: 5\n{OK}", ["sever: unknown key (did you mean `server`?)"]),
        (
            f"pool: {{zzz: 5}}\n{OK}",
            [
                "pool.zzz: unknown key (known keys: max_awake_models, memory_reserve, max_queue, max_wait_s, "
                "patience_s, wait_notice_s, load_timeout_s, load_stall_s, sleep_timeout_s, progress_stall_s, "
                "sleep_memory_bytes)"
            ],
        ),
        (f"server: {{port: 65536}}\n{OK}", ["server.port: must be at most 65535, not 65536"]),
        (f"server: {{port: -1}}\n{OK}", ["server.port: must be at least 0, not -1"]),
        (f"server: {{port: '80'}}\n{OK}", ['server.port: must be a whole number, not "80"']),
        (f"server: {{port: true}}\n{OK}", ["server.port: must be a whole number, not true"]),
        (f"server: {{host: ''}}\n{OK}", ["server.host: must not be empty"]),
        (f"server: {{host: 127}}\n{OK}", ["server.host: must be text, not 127 (put it in quotes)"]),
        (f"pool: {{memory_reserve: 1}}\n{OK}", ["pool.memory_reserve: must be under 1.0, not 1"]),
        (f"pool: {{max_wait_s: 0}}\n{OK}", ["pool.max_wait_s: must be over 0.0, not 0"]),
        (f"pool: {{max_wait_s: .inf}}\n{OK}", ["pool.max_wait_s: must be a finite number, not inf"]),
        (f"pool: {{max_wait_s: [1]}}\n{OK}", ["pool.max_wait_s: must be a number, not a list"]),
        (f"engine_start: thread\n{OK}", ["engine_start: must be 'fork' or 'spawn', not \"thread\""]),
        (f"state_dir: 5\n{OK}", ["state_dir: must be a path, not 5"]),
        (f"run_dir: ''\n{OK}", ['run_dir: must be a path, not ""']),
        (
            f"state_dir: ~no-such-user/x\n{OK}",
            ["state_dir: cannot be resolved: Could not determine home directory."],
        ),
        ("models: {a b: {model: a}}", [f"models.a b: {NAME}"]),
        ("models: {'': {model: a}}", [f'models."": {NAME}']),
        ('models: {"a\\nb": {model: a}}', [f'models."a\\nb": {NAME}']),
        (f"models: {{{'a' * 201}: {{model: a}}}}", [f"models.{'a' * 200}: {NAME}"]),
        ("models: {a/../b: {model: a}}", ["models.a/../b: must not have `.` or `..` between slashes"]),
        ("models: {x: {}}", ["models.x.model: is missing (Hugging Face id, or a path that starts with / ./ ../ or ~)"]),
        ("models: {x: {model: ''}}", ["models.x.model: must not be empty"]),
        ("models: {x: {model: -x}}", ['models.x.model: must be a Hugging Face id or a path, not "-x"']),
        (
            "models: {x: {model: a, max-model-len: 5}}",
            ["models.x.max-model-len: unknown key (a vLLM argument goes under `engine_args`)"],
        ),
        ("models: {x: {model: a, pined: true}}", ["models.x.pined: unknown key (did you mean `pinned`?)"]),
        (
            "models: {x: {model: a, engine_args: {max_modl_len: 5, host: 0.0.0.0}}}",
            [
                "models.x.engine_args.max_modl_len: the installed vLLM has no such argument "
                "(did you mean `max_model_len`?)",
                "models.x.engine_args.host: is set by arena-server (remove it)",
            ],
        ),
        ("models: {x: {model: a, engine_args: [tp]}}", ["models.x.engine_args: must be a mapping, not a list"]),
        (
            "models: {x: {model: a, aliases: x}, y: {model: a, aliases: [x, z, z, 'a b']}}",
            [
                'models.x.aliases: must be a list, not "x"',
                f"models.y.aliases.3: {NAME}",
                'models.y.aliases.0: "x" is already the name of a model (choose another)',
                'models.y.aliases.2: "z" is already an alias of "y" (choose another)',
            ],
        ),
        (
            "models: {x: {model: a, aliases: [z]}, y: {model: a, aliases: [z, y]}}",
            [
                'models.y.aliases.0: "z" is already an alias of "x" (choose another)',
                'models.y.aliases.1: "y" is already the name of a model (choose another)',
            ],
        ),
        (
            "models: {x: {model: a, aliases: [z]}, y: {model: a}}\n"
            "aliases: {x: y, z: {y: 1}, w: {x: 0, y: 0}, v: {x: 1, z: 1, xx: 1, w: 1}, u: nobody}",
            [
                "aliases.x: is already the name of a model (choose another)",
                'aliases.z: is already an alias of "x" (choose another)',
                "aliases.w: all its weights are 0, so no model would get its requests (raise one)",
                'aliases.v.z: is an alias of "x", and has to be the name of a model',
                "aliases.v.xx: is not a configured model",
                "aliases.v.w: is an alias, and has to be the name of a model",
                'aliases.u: "nobody" is not a configured model',
            ],
        ),
        (
            "models:\n  llama: {model: a, fallback: [llama, mistral, mistral, m, lama]}\n"
            "  mistral: {model: b, aliases: [m]}",
            [
                'models.llama.fallback.0: "llama" is the model itself (remove it)',
                'models.llama.fallback.2: "mistral" is given twice (keep one)',
                'models.llama.fallback.3: "m" is an alias of "mistral", and has to be the name of a model',
                'models.llama.fallback.4: "lama" is not a configured model (did you mean "llama"?)',
            ],
        ),
        (
            "models: {x: {model: a, input_cost: free, output_cost: 0.1234567}}\naliases: {y: {x: -1}, z: [x], w: {}}",
            [
                "aliases.y.x: must be at least 0.0, not -1",
                "aliases.z: must be a mapping, not a list",
                "aliases.w: must have at least 1 entry",
                'models.x.input_cost: must be a number, not "free"',
                "models.x.output_cost: must have at most 6 digits after the point, not 0.1234567",
            ],
        ),
        (
            "models: {x: {model: a, devices: [0, 1]}}",
            [
                "models.x.devices: lists 2, but the engine runs on 1 "
                "(the product of the parallel sizes in `engine_args`)"
            ],
        ),
        (
            "models: {x: {model: a, devices: [1, 1], engine_args: {tp: 2}}}",
            ["models.x.devices: names a device twice (keep one)"],
        ),
        *(
            (
                f"models: {{x: {{model: a, devices: {written}}}}}",
                [f"models.x.devices: must be `auto` or a list of device numbers such as [0, 1], not {said}"],
            )
            for written, said in [
                ("[]", "a list"),
                ("[-1]", "a list"),
                ("[yes]", "a list"),
                ("0", "0"),
                ("all", '"all"'),
            ]
        ),
        (
            "models: {x: {model: a, env: {A: yes, B: [], C-D: x, CUDA_VISIBLE_DEVICES: 1, VLLM_SERVER_DEV_MODE: 1}}}",
            [
                'models.x.env.A: must be text (put it in quotes, or write "1" or "0")',
                "models.x.env.B: must be text, not a list",
                "models.x.env.C-D: is not the name of an environment variable",
                "models.x.env.CUDA_VISIBLE_DEVICES: is set by arena-server (use the model's `devices` key)",
                "models.x.env.VLLM_SERVER_DEV_MODE: is set by arena-server (remove it)",
            ],
        ),
        (
            "server: {prot: 1}\npool: {max_queue: 0}\nmodels: {x: {pinned: 1}, y: {model: a, aliases: [x]}}",
            [
                "server.prot: unknown key (did you mean `port`?)",
                "pool.max_queue: must be at least 1, not 0",
                "models.x.model: is missing (Hugging Face id, or a path that starts with / ./ ../ or ~)",
                "models.x.pinned: must be true or false, not 1",
                'models.y.aliases.0: "x" is already the name of a model (choose another)',
            ],
        ),
    ],
)
def test_each_fault_is_one_line(text: str, lines: list[str]) -> None:
    assert faults(text) == lines


def test_without_a_known_vllm_any_argument_passes_but_owned_ones() -> None:
    text = b"models: {x: {model: a, engine_args: {new_thing: 1, uds: /x}}}"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, Origin(FILE, None))
    assert caught.value.lines == [f"{FILE}: models.x.engine_args.uds: is set by arena-server (remove it)"]
