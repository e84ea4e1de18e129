"""The weights' size, from headers alone, against what the checkpoints' own indexes say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from arena_server.config_model import ModelConfig
from arena_server.plan.architecture import read_architecture
from arena_server.plan.errors import PlanError
from arena_server.plan.safetensors import Tensor, read_header
from arena_server.plan.sight import look_at
from arena_server.plan.stages import Split
from arena_server.plan.weights import FOUR_BIT_BYTES, FP8_BYTES, Weights, device_bytes, quantised_bytes
from tests.plan.folders import PUBLISHED, header, model_folder, published, published_folder
from tests.plan.shapes import checkpoint

SIZED = [name for name in PUBLISHED if published(name)["total_size"]]


def model(path: Path, **args: object) -> ModelConfig:
    return ModelConfig.model_validate({"model": str(path), "engine_args": args})


@pytest.mark.parametrize("name", SIZED)
def test_weights_are_what_the_published_index_says(name: str, tmp_path: Path) -> None:
    folder = published_folder(tmp_path / name, name)
    sight = look_at(name, model(folder))
    architecture = read_architecture(sight.config or {})
    found = device_bytes(sight.weights, architecture, 2, Split())
    assert found == pytest.approx(published(name)["total_size"], rel=0.02)
    if "index.json" in published(name)["total_size_source"]:
        assert found == published(name)["total_size"]  # to the byte


def test_weights_of_one_file_without_an_index(tmp_path: Path) -> None:
    config = published("qwen2.5-7b")["config"]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(header(checkpoint(config)))
    assert look_at("q", model(tmp_path)).weights.checkpoint_bytes == published("qwen2.5-7b")["total_size"]


def test_other_formats_count_by_their_files_and_are_not_counted_beside_safetensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(1000))
    assert look_at("m", model(tmp_path)).weights == Weights(1000)
    (tmp_path / "model.safetensors").write_bytes(header([Tensor("a", "BF16", (10, 10))]))
    assert look_at("m", model(tmp_path)).weights.checkpoint_bytes == 200


def test_a_consolidated_copy_is_not_counted_twice(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", published("mistral-7b-v0.3")["config"])
    (folder / "consolidated.safetensors").write_bytes(header([Tensor("output.weight", "BF16", (100, 100))]))
    assert look_at("m", model(folder)).weights.checkpoint_bytes == 20_000  # vLLM prefers Mistral's own format
    assert look_at("m", model(folder, load_format="hf")).weights.checkpoint_bytes == 14_496_047_104


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "not all that its index names"),
        (lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(b""), "not a safetensors file"),
        (lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(b"\xff" * 8), "not a safetensors file"),
        (lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(bytes([9]) + bytes(20)), "damaged"),
        (lambda f: (f / "model-00001-of-00002.safetensors").write_bytes(bytes([2]) + bytes(7) + b"[]"), "damaged"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(spoil: object, says: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "m", published("qwen2.5-7b")["config"])
    assert callable(spoil)
    spoil(folder)
    with pytest.raises(PlanError, match=says) as caught:
        look_at("m", model(folder))
    assert "\n" not in caught.value.message
    assert str(folder) in caught.value.message


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"m: .*/none: there is nothing"):
        look_at("m", model(tmp_path / "none"))


def test_headers_of_every_format(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(header([Tensor("a", "F8_E4M3", (3, 5)), Tensor("b", "I32", (2,)), Tensor("c", "F32", ())]))
    assert [t.size_bytes for t in read_header(file)] == [15, 8, 4]


def test_unquantised_weights_are_loaded_in_the_format_the_model_runs_in() -> None:
    config = {**published("qwen2.5-7b")["config"], "torch_dtype": "float32"}
    architecture = read_architecture(config)
    in_32 = [Tensor(t.name, "F32", t.shape) for t in checkpoint(config)]
    weights = Weights(sum(t.size_bytes for t in in_32), in_32)
    assert device_bytes(weights, architecture, 2, Split()) == weights.checkpoint_bytes // 2
    assert device_bytes(weights, architecture, 4, Split()) == weights.checkpoint_bytes


def test_quantised_weights_stay_as_they_are() -> None:
    config = published("qwen2.5-7b-awq")["config"]
    tensors = checkpoint(config)
    total = sum(t.size_bytes for t in tensors)
    assert device_bytes(Weights(total, tensors), read_architecture(config), 4, Split()) == total


def test_what_vllm_does_not_load_does_not_count() -> None:
    config = {**published("llama-3.1-8b")["config"], "tie_word_embeddings": True}
    tensors = checkpoint(config)
    more = [Tensor("lm_head.weight", "BF16", (128_256, 4096)), Tensor("model.layers.32.mtp.weight", "BF16", (10, 10))]
    found = device_bytes(Weights(0, [*tensors, *more]), read_architecture(config), 2, Split())
    assert found == sum(t.size_bytes for t in tensors)


def test_split_over_devices() -> None:
    config = published("llama-3.1-70b")["config"]
    tensors, architecture = checkpoint(config), read_architecture(config)
    weights = Weights(sum(t.size_bytes for t in tensors), tensors)
    whole = device_bytes(weights, architecture, 2, Split())
    half, sixteenth = (device_bytes(weights, architecture, 2, Split(tensor=n)) for n in (2, 16))
    norms = sum(t.size_bytes for t in tensors if len(t.shape) == 1)
    assert half == (whole - norms) // 2 + norms
    assert sixteenth > (whole - norms) // 16 + norms  # 8 heads of keys and values on 16 devices: each twice


@pytest.mark.parametrize(
    ("name", "pipeline", "most"),
    [
        # By hand: of 28 layers 14; 3 of 9, 9, 10. Of 42 layers 10, 11, 11, 10.
        ("qwen2.5-7b", 2, lambda layer, table: 14 * layer + table),
        ("qwen2.5-7b", 3, lambda layer, table: 9 * layer + table),
        ("gemma-2-9b", 4, lambda layer, table: 10 * layer + table),
        ("llama-3.1-70b", 16, lambda layer, table: 5 * layer + table),
    ],
)
def test_the_device_with_the_most_counts_of_a_pipeline(
    name: str, pipeline: int, most: Callable[[int, int], int]
) -> None:
    config = published(name)["config"]
    tensors, architecture = checkpoint(config), read_architecture(config)
    weights = Weights(sum(t.size_bytes for t in tensors), tensors)
    layer = sum(t.size_bytes for t in tensors if t.name.startswith("model.layers.0."))
    wanted = most(layer, config["vocab_size"] * config["hidden_size"] * 2)
    found = device_bytes(weights, architecture, 2, Split(pipeline=pipeline))
    assert found == pytest.approx(wanted, abs=100_000)  # a norm
    # Files without headers: about the same.
    rough = device_bytes(Weights(weights.checkpoint_bytes), architecture, 2, Split(pipeline=pipeline))
    assert rough == pytest.approx(found, rel=0.12)
    halved = quantised_bytes(weights, architecture, 2, Split(pipeline=pipeline), FP8_BYTES)
    assert halved is not None
    assert found / 2 < halved < found


def test_a_tied_embedding_is_on_the_first_device_and_on_the_last() -> None:
    config = {**published("qwen2.5-7b")["config"], "tie_word_embeddings": True, "num_hidden_layers": 5}
    architecture = read_architecture(config)
    tensors = checkpoint(config)
    weights = Weights(sum(t.size_bytes for t in tensors), tensors)
    layer = sum(t.size_bytes for t in tensors if t.name.startswith("model.layers.0."))
    table = config["vocab_size"] * config["hidden_size"] * 2
    found = device_bytes(weights, architecture, 2, Split(pipeline=3))
    assert found == pytest.approx(2 * layer + table, abs=100_000)  # 2, 2, 1
    tall = {**config, "num_hidden_layers": 3}
    last = checkpoint(tall)
    heavy = [*last, Tensor("model.layers.2.mlp.more.weight", "BF16", (1000, 1000))]
    of_last = device_bytes(Weights(0, heavy), read_architecture(tall), 2, Split(pipeline=3))
    assert of_last == pytest.approx(layer + 2_000_000 + table, abs=100_000)


def test_quantising_leaves_the_embedding_and_the_head() -> None:
    config = published("llama-3.1-8b")["config"]
    tensors, architecture = checkpoint(config), read_architecture(config)
    weights = Weights(sum(t.size_bytes for t in tensors), tensors)
    tables = 2 * 128_256 * 4096 * 2
    fp8 = quantised_bytes(weights, architecture, 2, Split(), FP8_BYTES)
    awq = quantised_bytes(weights, architecture, 2, Split(), FOUR_BIT_BYTES)
    assert fp8 == pytest.approx(tables + (weights.checkpoint_bytes - tables) / 2, rel=0.001)
    assert fp8 == device_bytes(weights, architecture, 2, Split(), online="fp8")
    assert awq is not None
    assert awq < fp8
    # Without tensors it is told from the configuration.
    rough = quantised_bytes(Weights(weights.checkpoint_bytes), architecture, 2, Split(), FP8_BYTES)
    assert rough == pytest.approx(fp8, rel=0.001)


def test_the_figure_for_four_bits_is_that_of_a_real_one() -> None:
    config = published("qwen2.5-7b")["config"]
    tensors = checkpoint(config)
    found = quantised_bytes(Weights(0, tensors), read_architecture(config), 2, Split(), FOUR_BIT_BYTES)
    assert found == pytest.approx(published("qwen2.5-7b-awq")["total_size"], rel=0.02)
    awq = published("qwen2.5-7b-awq")["config"]
    assert quantised_bytes(Weights(1), read_architecture(awq), 2, Split(), FP8_BYTES) is None
