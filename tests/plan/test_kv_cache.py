"""The KV cache's size, against values worked out by hand from each model's published configuration."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena_server.config_model import ModelConfig
from arena_server.devices import DeviceInfo
from arena_server.measurements import Measured
from arena_server.plan.architecture import read_architecture
from arena_server.plan.card import Card
from arena_server.plan.kv_cache import KvCache
from arena_server.plan.layers import FULL, Layer, NotUnderstood, Reach
from arena_server.plan.needs import Needs, needs
from arena_server.plan.weights import Weights
from tests.plan.folders import published

L4 = Card(DeviceInfo(0, "NVIDIA L4", 23034 << 20), (8, 9))


def cache_of(config: dict[str, Any], **args: Any) -> KvCache:
    found = needs_of(config, **args).cache
    assert found is not None
    return found


def needs_of(config: dict[str, Any], **args: Any) -> Needs:
    model = ModelConfig.model_validate({"model": "org/x", "engine_args": args})
    return needs(model, read_architecture(config), Weights(1), L4, Measured())


@pytest.mark.parametrize(
    ("name", "token_bytes"),
    [
        # Keys and values x layers x KV heads x head size x 2 bytes.
        ("llama-3.1-8b", 131_072),  # 2 x 32 x 8 x 128 x 2
        ("llama-3.1-70b", 327_680),  # 2 x 80 x 8 x 128 x 2
        ("mistral-7b-v0.3", 131_072),  # 2 x 32 x 8 x 128 x 2
        ("qwen2.5-7b", 57_344),  # 2 x 28 x 4 x 128 x 2
        ("qwen2.5-7b-awq", 57_344),  # the weights have 4 bits, the cache has not
        ("mistral-7b-v0.1", 131_072),  # as long as no token is out of the window
        ("gemma-2-9b", 344_064),  # 2 x 42 x 8 x 256 x 2: the head size is not 3584 / 16
        ("gemma-3-27b", 507_904),  # 2 x 62 x 16 x 128 x 2
        # MLA: layers x (compressed + rotary part) x 2 bytes, once for keys and values.
        ("deepseek-v2-lite", 31_104),  # 27 x (512 + 64) x 2
    ],
)
def test_bytes_per_token(name: str, token_bytes: int) -> None:
    assert cache_of(published(name)["config"]).token_bytes == token_bytes


def test_split_over_devices_each_has_at_least_one_head_and_a_compressed_entry_is_whole() -> None:
    qwen, lite = published("qwen2.5-7b")["config"], published("deepseek-v2-lite")["config"]
    assert cache_of(qwen, tensor_parallel_size=2).token_bytes == 57_344 // 2
    assert cache_of(qwen, tensor_parallel_size=8).token_bytes == 57_344 // 4  # it has 4 heads
    assert cache_of(lite, tensor_parallel_size=4).token_bytes == 31_104
    assert cache_of(qwen, pipeline_parallel_size=2).token_bytes == 57_344 // 2


def test_the_format_of_the_cache() -> None:
    llama = published("llama-3.1-8b")["config"]
    assert cache_of(llama, kv_cache_dtype="fp8").token_bytes == 131_072 // 2
    assert cache_of(llama, kv_cache_dtype="fp8_e4m3").token_bytes == 131_072 // 2
    assert cache_of(llama, dtype="float32").token_bytes == 131_072 * 2
    assert needs_of(llama, kv_cache_dtype="some_new_one").cache is None


def test_a_request_takes_whole_blocks() -> None:
    llama = cache_of(published("llama-3.1-8b")["config"])
    assert llama.request_bytes(1) == 16 * 131_072
    assert llama.request_bytes(17) == 32 * 131_072
    assert llama.requests_in(10 * 16 * 131_072 + 5, 32) == 5.0
    assert llama.tokens_in(9 * 16 * 131_072, 32) == 144


def test_a_window_bounds_what_a_request_keeps() -> None:
    # The window less one and two steps of 2,048 tokens: 8,191; 512 blocks, and one as it may begin within a block.
    mistral = cache_of(published("mistral-7b-v0.1")["config"])
    assert mistral.request_bytes(32_768) == 513 * 16 * 131_072
    assert mistral.request_bytes(1_000_000) == 513 * 16 * 131_072
    assert mistral.request_bytes(1024) == 65 * 16 * 131_072
    whole = cache_of(published("mistral-7b-v0.1")["config"], disable_sliding_window=True)
    assert whole.request_bytes(32_768) == 2048 * 16 * 131_072


def test_models_that_mix_windows_and_full_attention() -> None:
    # Gemma 2: every other one of 42 layers. A block is for 21 layers, of 2 x 8 x 256 x 2 = 8,192 bytes a token.
    gemma2 = cache_of(published("gemma-2-9b")["config"])
    assert gemma2.layers == Counter({FULL: 21, Layer(Reach.WINDOW, 4096): 21})
    assert gemma2.request_bytes(8192) == (512 + 513) * 16 * 8192 * 21
    # Gemma 3: each sixth of 62 is full, 10 of them; so 52 others are 6 groups. 1,023 + 4,096 tokens are 320 blocks + 1.
    gemma3 = cache_of(published("gemma-3-27b")["config"])
    assert gemma3.layers == Counter({FULL: 10, Layer(Reach.WINDOW, 1024): 52})
    assert gemma3.request_bytes(131_072) == (8192 + 6 * 321) * 16 * 8192 * 10


def test_a_window_that_is_switched_off_is_none() -> None:
    config = published("qwen2.5-7b")["config"]
    assert cache_of(config).layers == {FULL: 28}
    assert cache_of({**config, "use_sliding_window": True}).layers == {Layer(Reach.WINDOW, 131_072): 28}


@pytest.mark.parametrize(
    ("more", "layers"),
    [
        ({"layer_types": ["full_attention", "sliding_attention"] * 16, "sliding_window": 128}, {FULL: 16}),
        ({"sliding_window": 128, "sliding_window_pattern": 4, "model_type": "cohere2"}, {FULL: 8}),
        ({"sliding_window": 128, "sliding_window_pattern": "LLLG", "model_type": "exaone4"}, {FULL: 8}),
        ({"model_type": "llama4_text", "attention_chunk_size": 8192}, {FULL: 8}),
        ({"full_attention_interval": 4, "linear_num_value_heads": 8, "model_type": "qwen3_next"}, {FULL: 8}),
        ({"layer_types": ["linear_attention"] * 31 + ["full_attention"]}, {FULL: 1}),
    ],
)
def test_patterns_of_layers(more: dict[str, Any], layers: dict[Layer, int]) -> None:
    config = {**published("llama-3.1-8b")["config"], **more}
    found = read_architecture(config)
    assert {kind: n for kind, n in found.layers.items() if kind == FULL} == layers
    has_states = "linear_num_value_heads" in more or "linear_attention" in more.get("layer_types", [])
    assert bool(found.notes) == has_states  # what is not counted is said


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": "nemotron_h_next", "mamba_d_state": 128}, "mamba_d_state"),
        ({"model_type": "new_one", "sliding_window": 512}, "window"),
        ({"model_type": "new_one", "kv_lora_rank": 512, "qk_rope_head_dim": 64}, "MLA"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"is_encoder_decoder": True}, "more than attention"),
    ],
)
def test_what_is_not_known_is_refused_and_not_guessed(more: dict[str, Any], why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        read_architecture({**published("llama-3.1-8b")["config"], **more})


def test_an_encoder_keeps_no_cache() -> None:
    bert = {"model_type": "bert", "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12}
    cache = cache_of({**bert, "max_position_embeddings": 512})
    assert (cache.token_bytes, cache.request_bytes(512), cache.tokens_in(1 << 30, 512)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        (None, 4096),
        ({"rope_type": "llama3", "factor": 8.0}, 4096),  # it is in the length already
        ({"type": "yarn", "factor": 4.0}, 4096),
        ({"type": "linear", "factor": 4.0}, 16_384),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
    ],
)
def test_the_models_own_context(rope: dict[str, Any] | None, length: int) -> None:
    config = {**published("llama-3.1-8b")["config"], "rope_scaling": rope, "max_position_embeddings": 4096}
    assert read_architecture(config).max_len == length


@pytest.mark.parametrize(
    ("written", "length"), [(8192, 8192), ("8k", 8000), ("8K", 8192), ("auto", -1), (-1, -1), (None, None), ("x", None)]
)
def test_lengths_as_vllm_reads_them(written: object, length: int | None) -> None:
    assert needs_of(published("llama-3.1-8b")["config"], max_model_len=written).length == length


WINDOW = Layer(Reach.WINDOW, 256)


@pytest.mark.parametrize(
    ("layers", "entry_bytes", "length", "tokens", "concurrency"),
    [
        # What vLLM 0.32 printed on a CPU (its blocks have 128 tokens there, and its steps do not overlap) for models
        # in float32 with `kv_cache_memory_bytes` of 64 MiB and 512 tokens a batch: the demo's Llama and Qwen, and the
        # architectures of Gemma 3, Gemma 2 and Mistral v0.1 with few and small layers.
        ({FULL: 4}, 512, 2048, 32_768, 16.00),
        ({FULL: 2}, 512, 2048, 65_536, 32.00),
        ({FULL: 2, WINDOW: 12}, 512, 4096, 28_339, 6.92),
        ({FULL: 4, WINDOW: 4}, 512, 4096, 26_886, 6.56),
        ({WINDOW: 8}, 512, 4096, 74_898, 18.29),
    ],
)
def test_it_is_what_vllm_printed(
    layers: dict[Layer, int], entry_bytes: int, length: int, tokens: int, concurrency: float
) -> None:
    cache = KvCache(layers, entry_bytes, in_flight=512, block_tokens=128)
    assert cache.tokens_in(64 << 20, length) == tokens
    assert round(cache.requests_in(64 << 20, length), 2) == concurrency


KINDS = st.sampled_from([FULL, Layer(Reach.WINDOW, 512), Layer(Reach.CHUNK, 1024)])


@given(
    layers=st.dictionaries(KINDS, st.integers(1, 60), min_size=1),
    entry=st.integers(64, 8192),
    length=st.integers(1, 100_000),
    more=st.integers(0, 50_000),
    cache=st.integers(0, 1 << 36),
)
def test_longer_requests_never_take_less_and_more_room_never_holds_less(
    layers: dict[Layer, int], entry: int, length: int, more: int, cache: int
) -> None:
    kv = KvCache(layers, entry, in_flight=4096)
    assert kv.request_bytes(length) <= kv.request_bytes(length + more)
    assert kv.requests_in(cache, length) >= kv.requests_in(cache, length + more)
    assert kv.requests_in(cache, length) <= kv.requests_in(cache + more, length)
    # As vLLM refuses to start: one request of the full length must fit.
    assert (kv.requests_in(cache, length) >= 1) == (kv.request_bytes(length) <= cache)
    if FULL in layers:
        assert kv.request_bytes(length) >= length * entry * layers[FULL]
