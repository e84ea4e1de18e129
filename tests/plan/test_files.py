"""Which of a model's files vLLM reads."""

from __future__ import annotations

import pytest

from arena_server.config_model import ModelConfig
from arena_server.plan.files import CONSOLIDATED_INDEX, INDEX, beside_files, index_file, indexed_files, weight_files
from arena_server.plan.origin import repositories

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
LLAMA = ["config.json", INDEX, *SHARDS, "original/consolidated.00.pth", "tokenizer.json", "LICENSE", ".gitattributes"]
MISTRAL = ["config.json", INDEX, *SHARDS, "consolidated.safetensors", "params.json", "tokenizer.model.v3"]


@pytest.mark.parametrize(
    ("names", "load_format", "files"),
    [
        (LLAMA, "auto", SHARDS),
        (MISTRAL, "auto", ["consolidated.safetensors"]),
        (MISTRAL, "hf", SHARDS),
        (MISTRAL, "safetensors", SHARDS),
        (["model.safetensors", "pytorch_model.bin"], "auto", ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], "auto", ["pytorch_model.bin"]),
        (["model.pt", "pytorch_model.bin"], "pt", ["model.pt"]),
        (["model.safetensors"], "dummy", []),
        (["config.json"], "auto", []),
        (["onnx/model.safetensors"], "auto", []),
    ],
)
def test_one_format_of_weights(names: list[str], load_format: str, files: list[str]) -> None:
    index = index_file(names, load_format)
    indexed = SHARDS if index == INDEX else ()
    assert weight_files(names, load_format, indexed) == files


def test_the_index_that_tells() -> None:
    assert index_file(LLAMA, "auto") == INDEX
    assert index_file(MISTRAL, "auto") is None
    assert index_file([*MISTRAL, CONSOLIDATED_INDEX], "auto") == CONSOLIDATED_INDEX
    assert index_file(["pytorch_model.bin", INDEX], "auto") is None
    assert indexed_files({"weight_map": {"a": "x", "b": "x"}}) == {"x"}
    assert indexed_files({"weight_map": ["x"]}) == indexed_files({}) == set()


def test_what_is_needed_beside() -> None:
    names = [*LLAMA, "chat_template.jinja", "modeling_x.py", "1_Pooling/config.json", "onnx/config.json", "photo.png"]
    expected = ["1_Pooling/config.json", "chat_template.jinja", "config.json", INDEX, "modeling_x.py", "tokenizer.json"]
    assert beside_files(names) == sorted(expected)


def test_a_model_may_need_several_repositories() -> None:
    args = {
        "revision": "v1",
        "tokenizer": "org/tokens",
        "speculative_config": {"model": "org/draft", "num_speculative_tokens": 3},
        "download_dir": "/data",
    }
    model = ModelConfig.model_validate({"model": "org/x", "engine_args": args, "env": {"HF_HOME": "/hf"}})
    own, tokens, draft = repositories(model)
    assert (own.id, own.revision, str(own.cache_dir), str(own.weights_dir)) == ("org/x", "v1", "/hf/hub", "/data")
    assert (tokens.id, tokens.revision, tokens.weights, str(tokens.cache_dir)) == ("org/tokens", None, False, "/hf/hub")
    assert (draft.id, draft.weights, str(draft.weights_dir)) == ("org/draft", True, "/data")
    local = ModelConfig.model_validate({"model": "/models/x", "engine_args": {"tokenizer": "/models/y"}})
    assert repositories(local) == []
