"""Writes the demo's model folders: real ones in Hugging Face's layout, made here in seconds.

Needs numpy, tokenizers and safetensors, which come with vLLM. They are imported inside functions, so
that importing this module costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena_server.demo import corpus
from arena_server.errors import ArenaError

if TYPE_CHECKING:
    from arena_server.demo.network import Shape, Voice

RECIPE_VERSION = 1  # raise it when the same voices would give other files
MARKER = "arena-demo.json"  # written last: names the recipe and the size of every other file

HIDDEN = 640
INTERMEDIATE = 64
HEAD_DIM = 64
KV_HEADS = 2
CONTEXT = 2048
ROPE_THETA = 10000.0
UNKNOWN_WORDS = 32  # bytes outside a voice's words are told apart this far, letters whatever their case
END_WEIGHT = 0.02  # a voice's replies are short; this makes the model join two or three of them

PAD, BOS, SYSTEM, USER, ASSISTANT, END = SPECIAL_TOKENS = (
    "<|pad|>",
    "<|bos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)

# Roles it does not know (developer, tool) are read as the user's.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% set role = message['role'] if message['role'] in ['system', 'assistant'] else 'user' %}"
    "{{ '<|' + role + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class DemoModel:
    """One model folder: the name to serve it under, where it lies, and its architecture's name."""

    name: str
    path: Path
    architecture: str


@dataclass(frozen=True)
class _Recipe:
    name: str
    architecture: str
    model_type: str
    heads: int
    qkv_bias: bool
    seed: int
    voice: str

    def fingerprint(self) -> str:
        """Tells this recipe from a changed one."""
        text = json.dumps([RECIPE_VERSION, asdict(self)])
        return hashlib.sha256(text.encode()).hexdigest()


_RECIPES = (
    _Recipe("tiny-llama", "LlamaForCausalLM", "llama", 4, False, 1, corpus.LIBRARIAN),
    _Recipe("tiny-mistral", "MistralForCausalLM", "mistral", 8, False, 2, corpus.CAPTAIN),
    # Qwen2 has no head_dim of its own: it is the hidden size over the number of heads.
    _Recipe("tiny-qwen", "Qwen2ForCausalLM", "qwen2", HIDDEN // HEAD_DIM, True, 3, corpus.COOK),
)


def make_demo_models(directory: Path, *, report: Callable[[str], None]) -> list[DemoModel]:
    """Makes sure that the three model folders lie in `directory`, and returns them in a fixed order.

    Complete folders are left as they are; missing and incomplete ones are written, with a line to
    `report` for each. The files are the same bytes on every run. Raises `ArenaError` where the libraries
    to write them are missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    models = []
    for recipe in _RECIPES:
        model = DemoModel(recipe.name, directory / recipe.name, recipe.architecture)
        if not _is_complete(model.path, recipe):
            report(f"writing {model.name} to {model.path}")
            _write_folder(model.path, recipe)
        models.append(model)
    return models


def _is_complete(folder: Path, recipe: _Recipe) -> bool:
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in marker["sizes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(marker["recipe"] == recipe.fingerprint() and marker["sizes"] == sizes)


def _write_folder(folder: Path, recipe: _Recipe) -> None:
    """Writes next to `folder` first and renames at the end, so that nobody ever sees half of it."""
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_files(draft, recipe)
        draft.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_files(folder: Path, recipe: _Recipe) -> None:
    try:
        from safetensors.numpy import save

        from arena_server.demo import network

        tokenizer = _tokenizer(corpus.replies(recipe.voice))
    except ImportError as error:
        raise ArenaError(f"the demo models need {error.name}: pip install 'arena-server[cpu]' (or [gpu])") from error

    vocabulary = tokenizer.get_vocab_size()
    shape = network.Shape(HIDDEN, recipe.heads, KV_HEADS, HEAD_DIM, INTERMEDIATE, vocabulary, ROPE_THETA)
    voice = _voice(tokenizer, corpus.replies(recipe.voice))
    tensors = network.build(shape, voice, qkv_bias=recipe.qkv_bias, seed=recipe.seed)
    ids = {"bos_token_id": BOS, "eos_token_id": END, "pad_token_id": PAD}
    ids = {key: tokenizer.token_to_id(token) for key, token in ids.items()}

    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    _write_json(folder / "config.json", _config(recipe, shape) | ids)
    _write_json(folder / "generation_config.json", ids)
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    _write_json(folder / MARKER, {"recipe": recipe.fingerprint(), "sizes": sizes})


def _tokenizer(texts: Sequence[str]) -> Any:
    """A `tokenizers.Tokenizer` to which every word of `texts` is one token.

    It is byte-level: words it does not know become one token a byte, so any text goes in and comes back
    out unchanged.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Each text also with a space in front, as it comes after another one.
    words = [word for text in texts for t in (text, " " + text) for word, _ in split.pre_tokenize_str(t)]
    tokens = [*SPECIAL_TOKENS, *sorted(split.alphabet()), *words]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[], ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return tokenizer


def _voice(tokenizer: Any, texts: Sequence[str]) -> Voice:
    """What the network needs to imitate `texts`, for the token ids of `tokenizer`."""
    from arena_server.demo.network import Voice

    end = tokenizer.token_to_id(END)
    start = tokenizer.token_to_id(ASSISTANT)
    sequences = [
        [first, *tokenizer.encode(space + text, add_special_tokens=False).ids, end]
        for text in texts
        for first, space in ((start, ""), (end, " "))
    ]
    used = {token for sequence in sequences for token in sequence}
    numbers: dict[str, int] = {}
    word_of = []
    for token in range(tokenizer.get_vocab_size()):
        text = tokenizer.id_to_token(token)
        if text in SPECIAL_TOKENS:
            word = END if token == end else ASSISTANT
        elif token in used:
            word = text.removeprefix("\u0120")  # the byte-level alphabet's space
        else:
            word = f"unknown {ord(text) % UNKNOWN_WORDS}"
        word_of.append(numbers.setdefault(word, len(numbers)))
    stand_ins = {number: numbers[","] for word, number in numbers.items() if word.startswith("unknown ")}
    return Voice(word_of, sequences, stand_ins, end, END_WEIGHT)


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _config(recipe: _Recipe, shape: Shape) -> dict[str, Any]:
    return {
        "architectures": [recipe.architecture],
        "model_type": recipe.model_type,
        # Without a version from 5 on, transformers takes the tokenizer for an old, faulty one of Mistral's.
        "transformers_version": "5.0.0",
        "dtype": "float32",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "sliding_window": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "tie_word_embeddings": False,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
