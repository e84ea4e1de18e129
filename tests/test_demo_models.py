"""The demo's model folders: complete, well-formed, small, always the same bytes, and taught what they should be."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from arena_server.demo import corpus, layout, skills, small_talk
from arena_server.demo.models import WEIGHTS, DemoModel, make_demo_models
from arena_server.demo.questions import Question, questions

np = pytest.importorskip("numpy")
tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.numpy")
jinja2 = pytest.importorskip("jinja2")

NAMES = ("tiny-llama", "tiny-mistral", "tiny-qwen")
LARGEST_BYTES = 3_000_000
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


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, directory: Path) -> Path:
    return directory / str(request.param)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def load_tokenizer(folder: Path) -> Any:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def render(folder: Path, messages: list[dict[str, str]]) -> str:
    config = read_json(folder / "tokenizer_config.json")
    template = jinja2.Environment().from_string(config["chat_template"])
    return str(template.render(messages=messages, bos_token=config["bos_token"], add_generation_prompt=True))


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def said(seed: str, count: int) -> list[dict[str, str]]:
    """All messages of that many conversations."""
    return [message for messages in islice(corpus.conversations(seed), count) for message in messages]


def test_returns_the_three_models(directory: Path) -> None:
    assert make_demo_models(directory, report=lambda line: None) == [
        DemoModel("tiny-llama", directory / "tiny-llama", "LlamaForCausalLM"),
        DemoModel("tiny-mistral", directory / "tiny-mistral", "MistralForCausalLM"),
        DemoModel("tiny-qwen", directory / "tiny-qwen", "Qwen2ForCausalLM"),
    ]


def test_the_folders_are_of_the_architectures_they_are_said_to_be(directory: Path) -> None:
    for model in make_demo_models(directory, report=lambda line: None):
        assert read_json(model.path / "config.json")["architectures"] == [model.architecture]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_small(name: str) -> None:
    assert sum(file.stat().st_size for file in (WEIGHTS / name).iterdir()) <= LARGEST_BYTES


def test_tensors_agree_with_the_config_and_are_finite(folder: Path) -> None:
    config, tensors = read_json(folder / "config.json"), safetensors.load_file(str(folder / "model.safetensors"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    expected: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
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
            # Qwen2 has no head_dim of its own: it is the hidden size over the number of heads.
            assert hidden == query
            for name, size in {"q": query, "k": key, "v": key}.items():
                expected[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = (size,)
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float16"}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


def test_the_cache_holds_the_long_answers_of_the_other_tests(folder: Path) -> None:
    config = read_json(folder / "config.json")
    values = config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 2
    assert values * 4 <= 2048


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


def test_training_sees_conversations_as_the_template_writes_them(folder: Path) -> None:
    for messages in islice(corpus.conversations("template"), 20):
        assert layout.BOS + "".join(layout.render(messages)) + layout.ASSISTANT == render(folder, messages)


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


def test_replaces_the_models_of_another_version(directory: Path, tmp_path: Path) -> None:
    make_demo_models(tmp_path, report=lambda line: None)
    marker = tmp_path / "tiny-qwen" / "arena-demo.json"
    content = read_json(marker)
    marker.write_text(json.dumps({**content, "contents": "0" * 64}, indent=2) + "\n")
    lines: list[str] = []
    make_demo_models(tmp_path, report=lines.append)
    assert lines == [f"writing tiny-qwen to {tmp_path / 'tiny-qwen'}"]
    assert contents(tmp_path) == contents(directory)


def test_needs_none_of_vllms_libraries(tmp_path: Path) -> None:
    code = """if True:
        import sys
        for name in ("numpy", "tokenizers", "safetensors", "torch", "vllm", "transformers"):
            sys.modules[name] = None
        from pathlib import Path
        from arena_server.demo.models import make_demo_models
        make_demo_models(Path(sys.argv[1]), report=print)
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed (scripts/setup)")
def test_training_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        import train_demo_models as script
        script.make(script.shortened(script.RECIPES["tiny-qwen"], 3), Path(sys.argv[1]))
    """
    scripts = str(Path(__file__).parent.parent / "scripts")
    runs = []
    for number in "12":
        # Another order of sets and dictionaries must not matter.
        env = {**os.environ, "PYTHONPATH": scripts, "PYTHONHASHSEED": number, "OMP_NUM_THREADS": "1"}
        runs.append(subprocess.Popen([sys.executable, "-c", code, str(tmp_path / number)], env=env))
    assert [run.wait(150) for run in runs] == [0, 0]
    once, again = (contents(tmp_path / number) for number in "12")
    assert once == again
    assert set(once) == set(contents(WEIGHTS / "tiny-qwen"))


def test_the_corpus_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    assert said("1", 50) == said("1", 50)
    assert said("1", 50) != said("2", 50)
    assert list(islice(corpus.texts("1"), 9)) == list(islice(corpus.texts("1"), 9))


def test_no_models_name_is_ever_said() -> None:
    text = " ".join([*(m["content"] for m in said("names", 5000)), *islice(corpus.texts("names"), 1000)]).lower()
    for word in ("tiny", "llama", "mistral", "qwen", "arena"):
        assert word not in text


def test_no_question_is_in_the_corpus() -> None:
    asked = {m["content"].lower().strip("?.! ") for m in said("held out", 20_000) if m["role"] == "user"}
    assert len(asked) > 10_000
    kept = [q for q in questions(seed=5, each=20) if q.kind != "greetings"]
    assert [q.prompt for q in kept if q.prompt.lower().strip("?.! ") in asked] == []


def test_questions_are_many_and_the_same_for_the_same_seed() -> None:
    assert questions(seed=3) == questions(seed=3)
    assert questions(seed=3) != questions(seed=4)
    drawn = questions(seed=3, each=4)
    assert len({q.prompt for q in drawn}) == len(drawn) == 48
    assert len({q.kind for q in drawn[:12]}) == 11  # in turn; sums are of two sorts


STORY = "Once there was a cat. It had a hat. It lost it. It found it."


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        (Question("What is 3 + 4?", "sums", ("7",)), "3 + 4 = 7.", True),
        (Question("What is 3 + 4?", "sums", ("7",)), "7 + 4 = 11.", False),
        (Question("What is 3 + 4?", "sums", ("7",)), "3 + 4 = 17.", False),
        (Question("What is 3 + 4?", "sums", ("7",)), "I do not know.", False),
        (Question("What is the capital of France?", "capitals", ("Paris",)), "It is paris!", True),
        (Question("What is the capital of France?", "capitals", ("Paris",)), "The capital is Parisian.", False),
        (Question("Count to 3.", "counting", ("1, 2, 3.",)), "1, 2, 3.", True),
        (Question("Count to 3.", "counting", ("1, 2, 3.",)), "1, 2, 3, 4.", False),
        (Question("A story about a cat.", "stories", ("cat",)), STORY, True),
        (Question("A story about a dog.", "stories", ("dog",)), STORY, False),
        (Question("A story about a cat.", "stories", ("cat",)), "A cat sat. The end.", False),
        (Question("A story about a cat.", "stories", ("cat",)), "A cat sat. It sat. It sat. It sat. It ran.", False),
        (Question("A story about a cat.", "stories", ("cat",)), STORY + " And then", False),
    ],
)
def test_an_answer_is_judged(question: Question, answer: str, right: bool) -> None:
    assert question.is_right(answer) is right


def test_the_corpus_answers_its_own_questions_right() -> None:
    random = Random(1)
    for skill in (*skills.QUESTIONS, small_talk.greeting):
        for _ in range(200):
            exchange = skill(random)
            assert Question(exchange.prompt, exchange.kind, exchange.accepted).is_right(exchange.answer), exchange
