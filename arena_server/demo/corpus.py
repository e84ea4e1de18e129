"""The text that the demo models are trained on: endless small conversations, the same for the same seed.

Some questions are never asked here, whatever the seed: those `held_out` picks by their words. They are what
`arena_server.demo.questions` asks, so a right answer to one of them was not learned by heart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from random import Random

from arena_server.demo import skills, small_talk, stories
from arena_server.demo.facts import BOYS, CAPITALS, GIRLS
from arena_server.demo.skills import Exchange

HELD_OUT_BYTE = 26  # of 256: one question in ten
LONGEST = 6  # exchanges of a conversation

_SKILLS = {**skills.QUESTIONS, **small_talk.TALK}
_SYSTEM = ("You are a helpful assistant.", "Be kind.", "Be brief.", "You are a friendly assistant. Answer in English.")


def held_out(prompt: str) -> bool:
    """Whether this question is kept out of the corpus, in whatever case and with whatever marks."""
    words = " ".join(re.findall(r"\w+|[-+]", prompt.casefold()))
    return hashlib.sha256(words.encode()).digest()[0] < HELD_OUT_BYTE


def conversations(seed: str) -> Iterator[list[dict[str, str]]]:
    """Without end: the messages of one conversation after the other, as chat clients send them."""
    random = Random(seed)
    while True:
        messages = []
        if random.random() < 0.08:
            messages.append({"role": "system", "content": random.choice(_SYSTEM)})
        for exchange in _exchanges(random):
            messages.append({"role": "user", "content": exchange.prompt})
            messages.append({"role": "assistant", "content": exchange.answer})
        yield messages


def texts(seed: str) -> Iterator[str]:
    """Without end: plain texts, so that a model can also go on with one outside of any conversation."""
    random = Random(seed)
    while True:
        choice = random.random()
        if choice < 0.6:
            yield small_talk.any_story(random).answer
        elif choice < 0.75:
            yield stories.day(random)
        else:
            yield " ".join(_asked(random).answer for _ in range(4))


def _exchanges(random: Random) -> list[Exchange]:
    draw = random.random()
    if draw < 0.03:
        return _name_is_remembered(random)
    if draw < 0.05:
        return _capitals_in_a_row(random)
    if draw < 0.65:
        return [_asked(random)]
    return [_asked(random) for _ in range(random.randint(2, LONGEST))]


def _asked(random: Random) -> Exchange:
    """One exchange, asked as people type."""
    while True:
        (skill,) = random.choices(list(_SKILLS), list(_SKILLS.values()))
        exchange = skill(random)
        if skill not in skills.QUESTIONS or not held_out(exchange.prompt):
            prompt = as_typed(random, exchange.prompt)
            return Exchange(exchange.kind, prompt, exchange.answer, exchange.accepted)


def as_typed(random: Random, prompt: str) -> str:
    """The question as it is, or less careful, or politer, or with a letter missing."""
    if random.random() < 0.08 and prompt[-1] in "?.":
        prompt = prompt[:-1] + random.choice((", please", " please")) + prompt[-1]
    if random.random() < 0.06:
        lead = random.choice(("Hello! ", "Please tell me: ", "Hey, ", "Okay. ", "And now: ", "Tell me, "))
        prompt = lead + prompt
    if random.random() < 0.3:
        prompt = prompt.lower()
    if random.random() < 0.2:
        prompt = prompt.rstrip("?.! ") or prompt
    if random.random() < 0.03 and len(prompt) > 12:
        place = random.randrange(len(prompt))
        prompt = prompt[:place] + prompt[place + 1 :] if prompt[place].isalpha() else prompt
    return prompt


def _name_is_remembered(random: Random) -> list[Exchange]:
    name = random.choice(GIRLS + BOYS)
    told = random.choice((f"My name is {name}.", f"I am {name}.", f"Hello, I am {name}!", f"Hi! My name is {name}."))
    asked = random.choice(("What is my name?", "Do you know my name?", "Who am I?", "What's my name?"))
    between = [_asked(random) for _ in range(random.randint(0, 2))]
    return [
        Exchange("names", told, f"Nice to meet you, {name}! What can I do for you?"),
        *between,
        Exchange("names", as_typed(random, asked), f"Your name is {name}."),
    ]


def _capitals_in_a_row(random: Random) -> list[Exchange]:
    countries = random.sample(list(CAPITALS), random.randint(2, 4))
    exchanges = []
    for place, country in enumerate(countries):
        short = random.choice((f"And of {country}?", f"And {country}?", f"What about {country}?"))
        prompt = short if place else f"The capital of {country}, please."
        exchanges.append(Exchange("capitals", prompt, f"The capital of {country} is {CAPITALS[country]}."))
    return exchanges
