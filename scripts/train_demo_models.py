"""Trains the three demo models on the text of `arena_server.demo.corpus` and writes what the package ships.

Run by hand, on a CPU, a model at a time or all three. On one core of a server of 2023 the largest takes about 14
minutes, the others 3 and 1:

    nice python scripts/train_demo_models.py [--model NAME] [--steps N] [--threads 1] [--output DIRECTORY]

It prints steps, loss and the time left, then how many held-out questions of each kind the model answers right, and
writes the folders that `arena-server make-demo-models` copies, by default to `arena_server/demo/weights`.

The same text, number of threads, kind of processor and versions of PyTorch, transformers and tokenizers give the same
bytes; another processor or number of threads adds up in another order, and gives other weights of about the same
skill. The shipped ones are of torch 2.13.0 (CPU), transformers 5.19.0 and tokenizers 0.23.3, with one thread.
Needs torch, transformers, tokenizers and safetensors, which come with `arena-server[cpu]`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from arena_server.demo import corpus
from arena_server.demo.layout import BOS, END, PAD, SPECIAL_TOKENS, Shape, config_of, render, save_folder
from arena_server.demo.questions import questions

WEIGHTS = Path(__file__).parent.parent / "arena_server/demo/weights"
ROW = 192  # tokens of a row of training text; every fourth batch has rows of twice that
BATCH = 2048  # tokens of a batch
TOKENIZER_TEXTS = 6000
ASIDE = 0.1  # weight in the loss of what is not said by the model itself
LONG = 40  # tokens: of a longer answer each weighs but `LONG_SHARE`, or stories would drown all the rest
LONG_SHARE = 0.4
WARM_UP = 40  # steps
TEXT_EVERY = 17  # conversations: one that begins with a plain text
MOMENTUM = 0.95
DECAY = 0.05
ADAM_SHARE = 0.2  # of the rate of the matrices: for embeddings and norms
REPORT_S = 10.0
ANSWER_TOKENS = 200


@dataclass(frozen=True)
class Leg:
    """A part of the training, in which the rate falls to nothing; then the weights are rounded as they are shipped."""

    steps: int
    peak_rate: float


@dataclass(frozen=True)
class Recipe:
    """One model: its sizes and how it learns."""

    shape: Shape
    seed: int
    legs: tuple[Leg, ...]


_LLAMA = Shape("tiny-llama", "LlamaForCausalLM", "llama", 1024, 192, 4, 3, 256)
_MISTRAL = Shape("tiny-mistral", "MistralForCausalLM", "mistral", 768, 128, 3, 2, 192)
_QWEN = Shape("tiny-qwen", "Qwen2ForCausalLM", "qwen2", 640, 128, 2, 2, 192)
RECIPES = {
    "tiny-llama": Recipe(_LLAMA, 1, (Leg(1100, 0.03), Leg(380, 0.02))),
    "tiny-mistral": Recipe(_MISTRAL, 2, (Leg(650, 0.03),)),
    "tiny-qwen": Recipe(_QWEN, 3, (Leg(280, 0.03),)),
}


def shortened(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with so many steps a leg."""
    return replace(recipe, legs=tuple(replace(leg, steps=steps) for leg in recipe.legs))


def make_tokenizer(recipe: Recipe) -> Any:
    """A byte-level BPE of the corpus: any text goes in and comes back out."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in SPECIAL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.shape.vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(split.alphabet()),
        show_progress=False,
    )
    said = chain.from_iterable(islice(corpus.conversations(f"tokenizer {recipe.seed}"), TOKENIZER_TEXTS))
    tokenizer.train_from_iterator((message["content"] for message in said), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def documents(tokenizer: Any, seed: str) -> Iterator[tuple[list[int], list[float]]]:
    """Without end: the tokens of a conversation or a text, and the weight of each in the loss."""
    conversations, texts = corpus.conversations(seed), corpus.texts(seed)
    bos = tokenizer.token_to_id(BOS)
    for number, messages in enumerate(conversations):
        ids, weights = [bos], [0.0]
        if number % TEXT_EVERY == 0:
            ids += tokenizer.encode(next(texts) + END, add_special_tokens=False).ids
            weights += [LONG_SHARE] * (len(ids) - 1)
        for message in messages:
            role, said = render([message])
            for text, weight in ((role, ASIDE), (said, 1.0 if message["role"] == "assistant" else ASIDE)):
                tokens = tokenizer.encode(text, add_special_tokens=False).ids
                ids += tokens
                weights += [weight if len(tokens) <= LONG else weight * LONG_SHARE] * len(tokens)
        yield ids, weights


def batches(tokenizer: Any, seed: str) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Without end: token ids, weights, and the number of the document of each token, `[rows, length]` each."""
    drawn = documents(tokenizer, seed)
    number = 0
    while True:
        number += 1
        joined = number % 4 == 0  # as one long conversation
        length = ROW * 2 if joined else ROW
        rows = []
        for _ in range(BATCH // length):
            ids: list[int] = []
            weights: list[float] = []
            owners: list[int] = []
            while len(ids) <= length:
                more, weight = next(drawn)
                if joined and ids:
                    more, weight = more[1:], weight[1:]
                ids += more
                weights += weight
                owners += [0 if joined else (owners[-1] + 1 if owners else 0)] * len(more)
            rows.append((ids[: length + 1], weights[: length + 1], owners[: length + 1]))
        ids_, weights_, owners_ = (list(column) for column in zip(*rows, strict=True))
        yield torch.tensor(ids_), torch.tensor(weights_), torch.tensor(owners_)


def loss_of(model: Any, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mean loss in nats per token of weight one; no document sees another."""
    ids, weights, owners = batch
    inputs, targets, owners = ids[:, :-1], ids[:, 1:], owners[:, :-1]
    length = inputs.shape[1]
    seen = (owners[:, :, None] == owners[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    logits = model(inputs, attention_mask=seen[:, None], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    weight = weights[:, 1:].flatten()
    return (losses * weight).sum() / weight.sum()


class Muon:
    """Momentum whose steps are made orthogonal: for matrices, in far fewer steps than Adam.

    After K. Jordan's "Muon" (2024), with its five steps of a Newton-Schulz iteration, here in float32: PyTorch's own
    works in bfloat16, which is slow on most CPUs.
    """

    def __init__(self, matrices: list[torch.Tensor]) -> None:
        self._matrices = matrices
        self._momentum = [torch.zeros_like(matrix) for matrix in matrices]

    def step(self, rate: float) -> None:
        """Change the matrices by their gradients."""
        with torch.no_grad():
            for matrix, momentum in zip(self._matrices, self._momentum, strict=True):
                assert matrix.grad is not None
                momentum.lerp_(matrix.grad, 1 - MOMENTUM)
                change = orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - rate * DECAY).sub_(change, alpha=rate * scale)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About the matrix with its singular values all set to one."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def new_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The model that knows nothing yet."""
    auto: Any = AutoModelForCausalLM  # has no types
    torch.manual_seed(recipe.seed)
    ids = {key: tokenizer.token_to_id(token) for key, token in recipe.shape.special_ids().items()}
    config = AutoConfig.for_model(**config_of(recipe.shape) | ids)
    config.initializer_range = 0.04
    return auto.from_config(config, dtype=torch.float32, attn_implementation="sdpa")


def train(model: Any, tokenizer: Any, leg: Leg, seed: str) -> None:
    """Go one leg on, on the text of this seed."""
    model.train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    adam = torch.optim.AdamW(others, lr=leg.peak_rate * ADAM_SHARE, betas=(0.9, 0.97), weight_decay=0.0)
    muon = Muon(matrices)
    began = last = time.monotonic()
    mean = math.nan
    for step, batch in enumerate(islice(batches(tokenizer, seed), leg.steps), 1):
        rate = leg.peak_rate * min(step / WARM_UP, 1.0, 1.4 * (1 - (step - 1) / leg.steps))
        adam.param_groups[0]["lr"] = rate * ADAM_SHARE
        loss = loss_of(model, batch)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        adam.step()
        muon.step(rate)
        mean = loss.item() if math.isnan(mean) else 0.97 * mean + 0.03 * loss.item()
        if (now := time.monotonic()) - last > REPORT_S or step == leg.steps:
            last = now
            left_s = (now - began) / step * (leg.steps - step)
            print(f"  step {step:5}/{leg.steps}  loss {mean:.4f}  {left_s:4.0f} s left", flush=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.float16))
    model.eval()


def answer(model: Any, tokenizer: Any, prompt: str) -> str:
    """What the model says to this, greedily."""
    text = BOS + "".join(chain(*render([{"role": "user", "content": prompt}]))) + "<|assistant|>"
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=ANSWER_TOKENS,
            eos_token_id=tokenizer.token_to_id(END),
            pad_token_id=tokenizer.token_to_id(PAD),
        )
    return str(tokenizer.decode(out[0, ids.shape[1] :].tolist()))


def evaluate(model: Any, tokenizer: Any) -> None:
    """Print how many held-out questions of each kind it answers right."""
    results = defaultdict(list)
    for question in questions(seed=0, each=8):
        results[question.kind].append(question.is_right(answer(model, tokenizer, question.prompt)))
    for kind, right in results.items():
        print(f"  {kind:<18}{sum(right):3} of {len(right):3}")
    every = [right for kind in results.values() for right in kind]
    print(f"  {'all':<18}{sum(every):3} of {len(every):3}", flush=True)


def make(recipe: Recipe, folder: Path) -> tuple[Any, Any]:
    """Train a model and write its folder; returns it as it is shipped, with its tokenizer."""
    tokenizer = make_tokenizer(recipe)
    model = new_model(recipe, tokenizer)
    print(f"{recipe.shape.name}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    for number, leg in enumerate(recipe.legs, 1):
        print(f" leg {number} of {len(recipe.legs)}: {leg.steps} steps of {BATCH} tokens", flush=True)
        train(model, tokenizer, leg, f"training {recipe.seed}" + (f", leg {number}" if number > 1 else ""))
    tensors = {name: p.detach().to(torch.float16).contiguous() for name, p in model.named_parameters()}
    save_folder(folder, recipe.shape, tokenizer, tensors)
    return model, tokenizer


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo models.")
    parser.add_argument("--model", choices=list(RECIPES), help="only this one (all three)")
    parser.add_argument("--steps", type=int, help="of each leg, for a try (the recipe's)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help=f"directory of the folders ({WEIGHTS})")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    for name in [args.model] if args.model else RECIPES:
        recipe = RECIPES[name]
        if args.steps:
            recipe = shortened(recipe, args.steps)
        evaluate(*make(recipe, args.output / name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
