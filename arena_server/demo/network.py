"""Weights of a tiny transformer that speaks a given voice, set by construction instead of by training.

The residual stream has named parts, so every weight has a reason that can be read off:

    word      one-hot, which word the current token is
    previous  one-hot, the class of the token before; written by layer 0, which looks one place back
    recent    mean class of the words said lately; written by layer 1
    one       always 1, a bias for architectures that have none
    spare     small random values that no row of the head reads

The head adds up three votes on the next token. `word` is for those that follow the current one in the
voice, by log count. `previous` is for those that come two places after the one before: where both agree,
the voice has most likely put the three in this order. `recent` is against what was just said, so that
the text does not go in circles, and so that another prompt gets another reply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

CLASSES = 128  # width of `previous` and of `recent`, and of the values of an attention layer
FOLLOWS_VOTE = 18.0  # so far over the other votes that pairs the voice does not have stay rare
SKIPS_VOTE = 5.0
RECENT_VOTE = -16.0
COMMON_COUNT = 15  # a word seen more often, such as "the", may come again at once


@dataclass(frozen=True)
class Shape:
    """Sizes of one network. `heads` of the query; `kv_heads` times `head_dim` is `CLASSES`."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    rope_theta: float
    layers: int = 2


@dataclass(frozen=True)
class Voice:
    """What the network says, over token ids.

    `word_of` gives the word of every token id, numbered from 0; tokens of one word are read alike.
    `sequences` are the token ids of the texts to imitate. `stand_ins` gives, for words that never come in
    them, the word whose followers they take. `end_id` is the token that ends a reply, and `end_weight`
    scales how often it comes.
    """

    word_of: Sequence[int]
    sequences: Sequence[Sequence[int]]
    stand_ins: Mapping[int, int]
    end_id: int
    end_weight: float


@dataclass(frozen=True)
class _Parts:
    """Where each part of the residual stream begins."""

    words: int
    hidden: int

    @property
    def previous(self) -> int:
        return self.words

    @property
    def recent(self) -> int:
        return self.words + CLASSES

    @property
    def one(self) -> int:
        return self.words + 2 * CLASSES

    @property
    def spare(self) -> slice:
        return slice(self.one + 1, self.hidden)


def build(shape: Shape, voice: Voice, *, qkv_bias: bool, seed: int) -> dict[str, Array]:
    """All tensors of the network by their Hugging Face names, float32, `[out, in]` for projections."""
    parts = _Parts(words=max(voice.word_of) + 1, hidden=shape.hidden)
    if parts.spare.start >= parts.spare.stop:
        raise ValueError(f"{parts.words} words need a hidden size over {parts.spare.start}")
    random = np.random.default_rng(seed)
    counts = Counter(voice.word_of[token] for sequence in voice.sequences for token in sequence)
    ranked = sorted(range(parts.words), key=lambda word: -counts[word])
    # By rank, so that the words that share a class are never both frequent.
    class_of = {word: rank % CLASSES for rank, word in enumerate(ranked)}
    rare = [word for word in range(parts.words) if counts[word] <= COMMON_COUNT]

    tensors = {
        "model.embed_tokens.weight": _embedding(parts, voice),
        "lm_head.weight": _head(parts, voice, class_of),
        "model.norm.weight": _norm(parts, norm_squared=3),
    }
    layers = [
        # The two places next to the one before get about exp(-12) of its weight.
        (_look(shape, parts, [parts.one], places_back=1, sharpness=9.5), parts.previous, 2),
        # Weight falls about as one over the distance.
        (_look(shape, parts, rare, places_back=0, sharpness=1.5), parts.recent, 3),
    ]
    for layer, (look, target, norm_squared) in enumerate(layers):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = _norm(parts, norm_squared)
        tensors[prefix + "post_attention_layernorm.weight"] = _norm(parts, norm_squared=3)
        attention = _copy_attention(shape, parts, look, class_of, target, random)
        tensors |= {f"{prefix}self_attn.{name}_proj.weight": array for name, array in attention.items()}
        if qkv_bias:
            for name in "qkv":
                tensors[f"{prefix}self_attn.{name}_proj.bias"] = np.zeros(len(attention[name]), np.float32)
        tensors |= {f"{prefix}mlp.{name}_proj.weight": a for name, a in _mlp(shape, parts, random).items()}
    return tensors


def _embedding(parts: _Parts, voice: Voice) -> Array:
    embedding = np.zeros((len(voice.word_of), parts.hidden), np.float32)
    embedding[np.arange(len(voice.word_of)), voice.word_of] = 1
    embedding[:, parts.one] = 1
    return embedding


def _head(parts: _Parts, voice: Voice, class_of: Mapping[int, int]) -> Array:
    head = np.zeros((len(voice.word_of), parts.hidden), np.float32)
    follows: Counter[tuple[int, int]] = Counter()
    skips: Counter[tuple[int, int]] = Counter()
    for sequence in voice.sequences:
        words = [voice.word_of[token] for token in sequence]
        follows.update(zip(words, sequence[1:], strict=False))
        skips.update(zip((class_of[word] for word in words), sequence[2:], strict=False))
    for (word, token), count in follows.items():
        weight = voice.end_weight if token == voice.end_id else 1
        head[token, word] = FOLLOWS_VOTE + np.log(count * weight)
    # Against what to expect by chance, for `word` has counted already how common the token is.
    by_class, by_token = np.zeros(CLASSES), np.zeros(len(head))
    for (cls, token), count in skips.items():
        by_class[cls] += count
        by_token[token] += count
    for (cls, token), count in skips.items():
        chance = by_class[cls] * by_token[token] / skips.total()
        head[token, parts.previous + cls] = SKIPS_VOTE + np.log(count / chance)
    for word, model in voice.stand_ins.items():
        head[:, word] = head[:, model]
    for token, word in enumerate(voice.word_of):
        head[token, parts.recent + class_of[word]] = RECENT_VOTE
    return head


def _norm(parts: _Parts, norm_squared: float) -> Array:
    """RMSNorm weights that leave a vector of this squared length as it was."""
    return np.full(parts.hidden, np.sqrt(norm_squared / parts.hidden), np.float32)


def _look(
    shape: Shape, parts: _Parts, seen: Sequence[int], *, places_back: int, sharpness: float
) -> tuple[Array, Array]:
    """Query and key rows, `[head_dim, hidden]` each, of a head that looks some places back.

    It sees the tokens that have one of the dimensions `seen`, the best at that distance, and all others
    hardly. Rotary position embedding turns pair f of a vector at place n by n * angle[f]. These keys are
    turned some places further, so the product is largest where the key lies that far behind the query.
    """
    half = shape.head_dim // 2
    angles = shape.rope_theta ** (-np.arange(half) / half)
    query, key = np.zeros((2, shape.head_dim, parts.hidden), np.float32)
    query[:half, parts.one] = sharpness
    key[:half, seen] = sharpness * np.cos(places_back * angles)[:, None]
    key[half:, seen] = sharpness * np.sin(places_back * angles)[:, None]
    return query, key


def _copy_attention(
    shape: Shape,
    parts: _Parts,
    look: tuple[Array, Array],
    class_of: Mapping[int, int],
    target: int,
    random: np.random.Generator,
) -> dict[str, Array]:
    """The projections `q`, `k`, `v`, `o` of an attention that adds the classes it looks at to `target`.

    Every key-value head copies its share of the classes, read by the first query head of its group. The
    other query heads look about at random and write to the spare part.
    """
    query, key = look
    dim, group = shape.head_dim, shape.heads // shape.kv_heads
    q = random.normal(0, 0.02, (shape.heads * dim, parts.hidden)).astype(np.float32)
    v = np.zeros((shape.kv_heads * dim, parts.hidden), np.float32)
    o = np.zeros((parts.hidden, shape.heads * dim), np.float32)
    o[parts.spare] = random.normal(0, 0.02, o[parts.spare].shape)
    for word, cls in class_of.items():
        v[cls, word] = 1
    for kv_head in range(shape.kv_heads):
        first = kv_head * group * dim
        q[first : first + dim] = query
        o[:, first : first + dim] = 0
        classes = target + kv_head * dim + np.arange(dim)
        o[classes, first + np.arange(dim)] = 1
    return {"q": q, "k": np.tile(key, (shape.kv_heads, 1)), "v": v, "o": o}


def _mlp(shape: Shape, parts: _Parts, random: np.random.Generator) -> dict[str, Array]:
    down = np.zeros((parts.hidden, shape.intermediate), np.float32)
    down[parts.spare] = random.normal(0, 0.02, down[parts.spare].shape)
    gate, up = random.normal(0, 0.02, (2, shape.intermediate, parts.hidden)).astype(np.float32)
    return {"gate": gate, "up": up, "down": down}
