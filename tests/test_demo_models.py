"""The demo's model folders: complete, well-formed, always the same bytes, and saying what they should."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from arena_server.demo import corpus
from arena_server.demo.models import DemoModel, make_demo_models
from arena_server.errors import ArenaError

np = pytest.importorskip("numpy")
tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.numpy")
jinja2 = pytest.importorskip("jinja2")

VOICES = {"tiny-llama": corpus.LIBRARIAN, "tiny-mistral": corpus.CAPTAIN, "tiny-qwen": corpus.COOK}
CHAT = [{"role": "user", "content": "What is the way, my dear?"}]
TEXTS = [
    "plain words",
    "  two  spaces,\ttabs\r\nand lines\n\n",
    "naïve café, Füße, Ωμέγα, кот, 猫, 🙂👩‍👩‍👧, e\u0301",
    "\x00\x7f\ufeff\ud7ff\U0010ffff",
    "",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "models"
    make_demo_models(path, report=lambda line: None)
    return path


@pytest.fixture(params=list(VOICES))
def folder(request: pytest.FixtureRequest, directory: Path) -> Path:
    return directory / str(request.param)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def load_tokenizer(folder: Path) -> Any:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def load_tensors(folder: Path) -> dict[str, Any]:
    return dict(safetensors.load_file(str(folder / "model.safetensors")))


def render(folder: Path, messages: list[dict[str, str]]) -> str:
    config = read_json(folder / "tokenizer_config.json")
    template = jinja2.Environment().from_string(config["chat_template"])
    return str(template.render(messages=messages, bos_token=config["bos_token"], add_generation_prompt=True))


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def corpus_ids(folder: Path) -> list[list[int]]:
    """Every reply of the folder's voice in the form it has after another one, with its end."""
    tokenizer = load_tokenizer(folder)
    end = tokenizer.token_to_id("<|end|>")
    texts = corpus.replies(VOICES[folder.name])
    return [[*tokenizer.encode(" " + text, add_special_tokens=False).ids, end] for text in texts]


def logits(config: dict[str, Any], tensors: dict[str, Any], ids: list[int]) -> Any:
    """A plain forward pass: the network's logits `[len(ids), vocabulary]`."""
    heads, kv_heads, dim = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    places, half = np.arange(len(ids)), dim // 2
    angles = places[:, None] * config["rope_parameters"]["rope_theta"] ** (-np.arange(half) / half)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def norm(x: Any, name: str) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * tensors[name + ".weight"]

    def project(x: Any, name: str) -> Any:
        return x @ tensors[name + ".weight"].T + tensors.get(name + ".bias", 0)

    def rotate(x: Any) -> Any:
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def split(x: Any, count: int) -> Any:
        return np.repeat(x.reshape(len(ids), count, dim).transpose(1, 0, 2), heads // count, axis=0)

    x = tensors["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        y = norm(x, prefix + "input_layernorm")
        q, k, v = (project(y, f"{prefix}self_attn.{name}_proj") for name in "qkv")
        scores = rotate(split(q, heads)) @ rotate(split(k, kv_heads)).transpose(0, 2, 1) / dim**0.5
        scores = np.where(places[:, None] >= places, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ split(v, kv_heads)
        x = x + project(mixed.transpose(1, 0, 2).reshape(len(ids), -1), prefix + "self_attn.o_proj")
        y = norm(x, prefix + "post_attention_layernorm")
        gate, up = project(y, prefix + "mlp.gate_proj"), project(y, prefix + "mlp.up_proj")
        x = x + project(gate / (1 + np.exp(-gate)) * up, prefix + "mlp.down_proj")
    return project(norm(x, "model.norm"), "lm_head")


def test_returns_the_three_models(directory: Path) -> None:
    assert make_demo_models(directory, report=lambda line: None) == [
        DemoModel("tiny-llama", directory / "tiny-llama", "LlamaForCausalLM"),
        DemoModel("tiny-mistral", directory / "tiny-mistral", "MistralForCausalLM"),
        DemoModel("tiny-qwen", directory / "tiny-qwen", "Qwen2ForCausalLM"),
    ]


def test_tensor_shapes_agree_with_the_config(folder: Path) -> None:
    config, tensors = read_json(folder / "config.json"), load_tensors(folder)
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    inner = config["intermediate_size"]
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "lm_head.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (query, hidden),
            "self_attn.k_proj.weight": (key, hidden),
            "self_attn.v_proj.weight": (key, hidden),
            "self_attn.o_proj.weight": (hidden, query),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }.items():
            expected[f"model.layers.{layer}.{name}"] = shape
        if config["architectures"] == ["Qwen2ForCausalLM"]:
            for name, size in {"q": query, "k": key, "v": key}.items():
                expected[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = (size,)
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


def test_special_tokens_agree_across_files(folder: Path) -> None:
    tokenizer, names = load_tokenizer(folder), read_json(folder / "tokenizer_config.json")
    config, generation = read_json(folder / "config.json"), read_json(folder / "generation_config.json")
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    for kind in ("bos", "eos", "pad"):
        number = tokenizer.token_to_id(names[f"{kind}_token"])
        assert config[f"{kind}_token_id"] == generation[f"{kind}_token_id"] == number


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_comes_back_unchanged(folder: Path, text: str) -> None:
    tokenizer = load_tokenizer(folder)
    encoding = tokenizer.encode(text)
    assert encoding.tokens[0] == "<|bos|>"
    assert tokenizer.decode(encoding.ids) == text


def test_the_voice_is_told_in_whole_words(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    for text in corpus.replies(VOICES[folder.name]):
        tokens = tokenizer.encode(text, add_special_tokens=False).tokens
        assert len(tokens) == len(tokenizer.pre_tokenizer.pre_tokenize_str(text))


def test_chat_template(folder: Path) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "tool", "content": "7"},
    ]
    expected = (
        "<|bos|><|system|>Be kind.<|end|><|user|>Hello<|end|><|assistant|>Hello!<|end|><|user|>7<|end|><|assistant|>"
    )
    assert render(folder, messages) == expected
    tokens = load_tokenizer(folder).encode(expected, add_special_tokens=False).tokens
    assert [tokens[0], tokens[1], tokens[-1]] == ["<|bos|>", "<|system|>", "<|assistant|>"]


def test_head_after_embedding_gives_successors_of_the_corpus(folder: Path) -> None:
    tensors = load_tensors(folder)
    scores = tensors["model.embed_tokens.weight"] @ tensors["lm_head.weight"].T
    successors: dict[int, set[int]] = {}
    for ids in corpus_ids(folder):
        for token, successor in pairwise(ids):
            successors.setdefault(token, set()).add(successor)
    for token, allowed in successors.items():
        best = np.argsort(scores[token])[::-1]
        assert set(best[: len(allowed)].tolist()) == allowed


def test_a_chat_begins_goes_on_and_ends_as_the_voice_does(folder: Path) -> None:
    tokenizer, tensors = load_tokenizer(folder), load_tensors(folder)
    prompt = tokenizer.encode(render(folder, CHAT), add_special_tokens=False).ids
    said = [token for ids in corpus_ids(folder)[:12] for token in ids]
    best = logits(read_json(folder / "config.json"), tensors, prompt + said).argmax(-1).tolist()
    assert tokenizer.id_to_token(best[len(prompt) - 1])[0].isupper()

    pairs = {pair for ids in corpus_ids(folder) for pair in pairwise(ids)}
    guesses = list(zip(said, best[len(prompt) :], strict=True))
    end = tokenizer.token_to_id("<|end|>")
    assert {pair for pair in guesses if pair[0] != end} <= pairs
    assert (said[-2], end) in guesses

    # What the current token alone would guess is right far less often: the look two back does this.
    alone = (tensors["model.embed_tokens.weight"] @ tensors["lm_head.weight"].T).argmax(-1)
    right = sum(guess == token for (_, guess), token in zip(guesses, said[1:], strict=False))
    right_alone = sum(int(alone[token]) == successor for token, successor in pairwise(said))
    assert right > 0.65 * len(said)
    assert right > 1.3 * right_alone


def test_same_bytes_everywhere(directory: Path, tmp_path: Path) -> None:
    make_demo_models(tmp_path, report=lambda line: None)
    assert contents(tmp_path) == contents(directory)


def test_second_run_leaves_files_alone(directory: Path) -> None:
    def stamps() -> dict[Path, tuple[int, int]]:
        stats = {path: path.stat() for path in directory.rglob("*")}
        return {path: (stat.st_mtime_ns, stat.st_ino) for path, stat in stats.items()}

    before = stamps()
    lines: list[str] = []
    make_demo_models(directory, report=lines.append)
    assert stamps() == before
    assert lines == []


def test_repairs_what_is_broken(directory: Path, tmp_path: Path) -> None:
    make_demo_models(tmp_path, report=lambda line: None)
    weights = tmp_path / "tiny-llama" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (tmp_path / "tiny-mistral" / "tokenizer.json").unlink()
    (tmp_path / "tiny-qwen" / "arena-demo.json").write_text("[]")
    (tmp_path / "tiny-qwen" / "left-over").touch()
    lines: list[str] = []
    make_demo_models(tmp_path, report=lines.append)
    assert len(lines) == 3
    assert contents(tmp_path) == contents(directory)


def test_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ArenaError, match=r"tokenizers.*pip install 'arena-server\[cpu\]'"):
        make_demo_models(tmp_path, report=lambda line: None)
    assert list(tmp_path.iterdir()) == []
