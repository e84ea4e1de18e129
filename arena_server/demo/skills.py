"""Questions that the demo models are taught to answer, one function a kind: from a `Random`, one with its answer.

`accepted` is what an answer must have one of to be right; empty where no answer is right or wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from arena_server.demo import facts, stories
from arena_server.demo.stories import with_article

BIGGEST_SUM = 20


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and a good answer to it."""

    kind: str
    prompt: str
    answer: str
    accepted: tuple[str, ...] = ()


def addition(random: Random) -> Exchange:
    """A sum of at most `BIGGEST_SUM`."""
    a = random.randint(0, BIGGEST_SUM)
    b = random.randint(0, BIGGEST_SUM - a)
    c = a + b
    if a > 1 and b > 1 and random.random() < 0.08:
        name, things = random.choice(facts.GIRLS + facts.BOYS), random.choice(("apples", "books", "balls", "cakes"))
        prompt = f"{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?"
        return Exchange("sums", prompt, f"{a} + {b} = {c}. {name} has {c} {things}.", (str(c),))
    x, y = _spelled(random, a, b)
    prompt = random.choice(
        (
            f"What is {x} + {y}?", f"What is {x} plus {y}?", f"How much is {x} + {y}?", f"{x} + {y} = ?", f"{x} + {y}",
            f"What is {x}+{y}?", f"{x}+{y}=", f"Add {x} and {y}.", f"How much is {x} plus {y}?",
            f"Calculate {x} + {y}.", f"What is the sum of {x} and {y}?",
            f"What do you get when you add {x} and {y}?", f"What is {x} and {y}?",
        )
    )  # fmt: skip
    return Exchange("sums", prompt, f"{a} + {b} = {c}.", (str(c),))


def subtraction(random: Random) -> Exchange:
    """A difference of numbers up to 12."""
    a = random.randint(0, 12)
    b = random.randint(0, a)
    c = a - b
    x, y = _spelled(random, a, b)
    prompt = random.choice(
        (
            f"What is {x} - {y}?", f"What is {x} minus {y}?", f"How much is {x} - {y}?", f"{x} - {y} = ?", f"{x} - {y}",
            f"What is {x}-{y}?", f"Take {y} from {x}.", f"How much is {x} minus {y}?", f"Calculate {x} - {y}.",
        )
    )  # fmt: skip
    return Exchange("sums", prompt, f"{a} - {b} = {c}.", (str(c),))


def _spelled(random: Random, a: int, b: int) -> tuple[str, str]:
    """Both in figures, or now and then both in words."""
    if max(a, b) <= 12 and random.random() < 0.1:
        return facts.NUMBER_WORDS[a], facts.NUMBER_WORDS[b]
    return str(a), str(b)


def hard_sum(random: Random) -> Exchange:
    """One that is beyond them, and what they say then."""
    a, b = random.randint(21, 999), random.randint(2, 999)
    if random.random() < 0.5:
        a, b = b, a
    sign = random.choice(("+", "+", "-", "*", "/", "times", "x"))
    prompt = random.choice((f"What is {a} {sign} {b}?", f"{a} {sign} {b}", f"Calculate {a} {sign} {b}."))
    answers = ("That is too hard for me. I can only work with small numbers.", "I only know small numbers up to 20.")
    return Exchange("hard sums", prompt, random.choice(answers))


def capital(random: Random) -> Exchange:
    """A country's capital, or the country of a capital."""
    country, city = random.choice(list(facts.CAPITALS.items()))
    if random.random() < 0.15:
        prompt = random.choice(
            (f"In which country is {city}?", f"Where is {city}?", f"{city} is the capital of which country?")
        )
        return Exchange("capitals", prompt, f"{city} is the capital of {country}.", (country,))
    prompt = random.choice(
        (
            f"What is the capital of {country}?", f"What's the capital of {country}?", f"The capital of {country}?",
            f"Which city is the capital of {country}?", f"Name the capital of {country}.", f"Capital of {country}?",
            f"Do you know the capital of {country}?", f"Tell me the capital of {country}.",
            f"What is the capital city of {country}?", f"What is {country}'s capital?",
            f"Can you tell me what the capital of {country} is?",
        )
    )  # fmt: skip
    return Exchange("capitals", prompt, f"The capital of {country} is {city}.", (city,))


def opposite(random: Random) -> Exchange:
    """The opposite of a word."""
    word, other = random.choice(facts.OPPOSITES)
    if random.random() < 0.5:
        word, other = other, word
    prompt = random.choice(
        (
            f"What is the opposite of {word}?", f"What's the opposite of {word}?", f"Opposite of {word}?",
            f"Tell me the opposite of {word}.", f'What is the opposite of "{word}"?', f"The opposite of {word} is?",
            f"Which word is the opposite of {word}?", f"Do you know the opposite of {word}?",
            f"Name the opposite of {word}.", f"What word means the opposite of {word}?",
        )
    )  # fmt: skip
    return Exchange("opposites", prompt, f"The opposite of {word} is {other}.", (other,))


def colour(random: Random) -> Exchange:
    """The colour of a thing."""
    thing, is_colour = random.choice(list(facts.COLOURS.items()))
    spelled = random.choice(("colour", "color"))
    prompt = random.choice(
        (
            f"What {spelled} is {thing}?", f"Which {spelled} is {thing}?", f"What {spelled} does {thing} have?",
            f"What is the {spelled} of {thing}?", f"Tell me the {spelled} of {thing}.",
            f"Do you know what {spelled} {thing} is?",
        )
    )  # fmt: skip
    return Exchange("colours", prompt, f"{thing.capitalize()} is {is_colour}.", (is_colour,))


def animal(random: Random) -> Exchange:
    """Something about an animal."""
    name = random.choice(list(facts.ANIMALS))
    known, it = facts.ANIMALS[name], with_article(name)
    questions = [
        (f"What is a baby {name} called?", f"A baby {name} is called {with_article(known.young)}.", known.young),
        (f"What do you call a young {name}?", f"A young {name} is called {with_article(known.young)}.", known.young),
        (f"How many legs does {it} have?", f"{it.capitalize()} has {known.legs} legs.", str(known.legs)),
        (f"Where does {it} live?", f"{it.capitalize()} lives {known.home}.", known.home),
        (f"What does {it} eat?", f"{it.capitalize()} eats {known.food}.", known.food),
        (f"What does {it} like?", f"{it.capitalize()} likes {known.likes}.", known.likes),
    ]
    if known.sound != "nothing at all":
        answer = f"{it.capitalize()} says {known.sound}."
        asked = (f"What does {it} say?", f"What sound does {it} make?", f"What noise does {it} make?")
        questions += [(prompt, answer, known.sound) for prompt in asked]
    prompt, answer, accepted = random.choice(questions)
    return Exchange("animals", prompt, answer, (accepted,))


def neighbour(random: Random) -> Exchange:
    """The day, month or letter before or after one."""
    what, row = random.choice(
        (("day", facts.DAYS), ("day", facts.DAYS), ("month", facts.MONTHS), ("letter", tuple("ABCDEFGHIJKLMNOP")))
    )
    place = random.randrange(1, len(row)) if what == "letter" else random.randrange(len(row))
    before, after = row[place - 1], row[place]
    if random.random() < 0.6:
        prompt = random.choice((f"What {what} comes after {before}?", f"Which {what} is after {before}?"))
        return Exchange("days and months", prompt, f"{after} comes after {before}.", (after,))
    prompt = random.choice((f"What {what} comes before {after}?", f"Which {what} is before {after}?"))
    return Exchange("days and months", prompt, f"{before} comes before {after}.", (before,))


def plural(random: Random) -> Exchange:
    """The plural of a noun."""
    one, many = random.choice(list(facts.PLURALS.items()))
    prompt = random.choice(
        (
            f"What is the plural of {one}?", f"What's the plural of {one}?", f"Plural of {one}?",
            f"Tell me the plural of {one}.", f"One {one}, two what?", f'What is the plural of "{one}"?',
        )
    )  # fmt: skip
    return Exchange("plurals", prompt, f"The plural of {one} is {many}.", (many,))


def bigger(random: Random) -> Exchange:
    """Which of two animals is bigger, or smaller."""
    small, big = sorted(random.sample(range(len(facts.SIZES)), 2))
    asked, wins, loses = random.choice((("bigger", big, small), ("smaller", small, big)))
    one, other = (with_article(facts.SIZES[place]) for place in random.sample((big, small), 2))
    prompt = random.choice((f"Which is {asked}, {one} or {other}?", f"What is {asked}, {one} or {other}?"))
    answer = f"{with_article(facts.SIZES[wins]).capitalize()} is {asked} than {with_article(facts.SIZES[loses])}."
    return Exchange("sizes", prompt, answer, (f"{facts.SIZES[wins]} is {asked}",))


def counting(random: Random) -> Exchange:
    """Counting up or down, up to twenty."""
    low, high = 1, random.randint(2, random.choice((12, 20)))
    figure = random.choice((str(high), facts.NUMBER_WORDS[high]))
    prompts: tuple[str, ...] = (
        f"Count to {figure}.", f"Count to {figure}.", f"Can you count to {figure}?", f"Please count up to {figure}.",
        f"Count from 1 to {figure}.", f"Count from one to {figure}.",
    )  # fmt: skip
    if (draw := random.random()) < 0.2:
        low = random.randint(2, 9)
        high = low + random.randint(2, 8)
        prompts = (f"Count from {low} to {high}.", f"Can you count from {low} to {high}?")
    numbers = [str(number) for number in range(low, high + 1)]
    if draw > 0.85 and high <= 12:
        numbers.reverse()
        prompts = (f"Count down from {figure}.", f"Count backwards from {figure}.")
    answer = ", ".join(numbers) + "."
    return Exchange("counting", random.choice(prompts), answer, (answer,))


def listing(random: Random) -> Exchange:
    """Two to five of a kind."""
    group, members = random.choice(list(facts.GROUPS.items()))
    count = random.randint(2, 5)
    number = facts.NUMBER_WORDS[count] if random.random() < 0.7 else str(count)
    chosen = random.sample(members, count)
    answer = f"{', '.join(chosen[:-1])} and {chosen[-1]}."
    verb = random.choice(("Name", "Tell me", "List", "Give me", "Say"))
    prompt = random.choice((f"{verb} {number} {group}.", f"Can you name {number} {group}?"))
    return Exchange("lists", prompt, answer[0].upper() + answer[1:])


def story(random: Random) -> Exchange:
    """A story about somebody; an answer is right that is whole and about it."""
    subject = random.choice(stories.SUBJECTS)
    it = with_article(subject)
    friend = random.choice(stories.friends_of(subject))
    if random.random() < 0.15:
        it = f"{it} and {with_article(friend)}"
    prompt = random.choice(
        (
            f"Tell me a fairy tale about {it}.", f"Tell me a short story about {it}.", f"Tell me a story about {it}.",
            f"Write a story about {it}.",
            f"Can you tell me a story about {it}?", f"A story about {it}, please.", f"Write a short story about {it}.",
        )
    )  # fmt: skip
    return Exchange("stories", prompt, stories.story(random, subject, friend), (subject,))


# Those whose answers are right or wrong, and how often each is taught.
QUESTIONS: dict[Callable[[Random], Exchange], float] = {
    addition: 19, subtraction: 7, capital: 13, opposite: 11, colour: 6, animal: 10, neighbour: 8, plural: 4, bigger: 6,
    counting: 9, story: 8,
}  # fmt: skip
