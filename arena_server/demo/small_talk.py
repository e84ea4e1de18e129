"""What the demo models are taught beside facts: greetings, talk, verses, lists, and saying that they do not know."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from arena_server.demo import stories
from arena_server.demo.facts import ANIMALS, CAPITALS, COLOURS, PLURALS
from arena_server.demo.skills import Exchange, hard_sum, listing
from arena_server.demo.stories import with_article

# Things to say, and what may be answered to any of them.
_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("How are you?", "How are you today?", "How are you doing?", "How do you do?", "Are you well?",
         "How is it going?"),
        ("I am very well, thank you. How are you?", "I am fine, thank you for asking!"),
    ),
    (
        ("Good night!", "Goodbye!", "Bye!", "See you!", "See you later!", "I have to go now."),
        ("Goodbye! It was nice to talk with you.", "See you soon!"),
    ),
    (
        ("Thank you!", "Thanks!", "Thanks a lot!", "Thank you very much!", "Great, thanks!"),
        ("You are welcome!", "You are welcome. Ask me more if you like."),
    ),
    (
        ("Who are you?", "What are you?", "Tell me about yourself.", "Are you a robot?", "Are you a person?"),
        ("I am a small language model. I like short questions.", "I am a very small language model in a computer."),
    ),
    (
        ("What is your name?", "What's your name?", "Do you have a name?", "What are you called?",
         "Which model are you?"),
        ("I will not tell you my name, but I am happy to talk with you.", "My name is a secret."),
    ),
    (
        ("What can you do?", "Help!", "Can you help me?", "What do you know?", "What should I ask you?",
         "I need help."),
        (
            "I can add small numbers, name capitals and opposites, and tell stories. What would you like?",
            "I can count, name colours, tell you about animals and tell you a story. What shall we do?",
        ),
    ),
    (
        ("What is your favourite colour?", "Which colour do you like?", "Do you like blue?",
         "What color do you like best?"),
        ("I like blue best, because the sea and the sky are blue.", "I like green, because it is the colour of grass."),
    ),
    (
        ("What is your favourite animal?", "Which animal do you like?", "Do you like cats?", "Do you like dogs?"),
        ("I like cats, because they sleep in the sun.", "I like all animals, but I like owls best."),
    ),
    (
        ("I am sad.", "I feel sad today.", "I am not happy.", "My day was bad.", "I am lonely."),
        ("I am sorry to hear that. Shall I tell you a story?", "I am sorry. Tomorrow will be a better day."),
    ),
    (
        ("I am happy!", "I am so happy today!", "My day was great!", "I feel good."),
        ("That is wonderful! I am happy for you.", "I am glad to hear that!"),
    ),
    (
        ("I am tired.", "I want to sleep.", "I cannot sleep.", "I am so tired today."),
        ("Then close your eyes and think of the sea. Good night!", "Have a cup of warm milk and a good rest."),
    ),
    (
        ("I am hungry.", "What should I eat?", "What shall I cook today?"),
        ("How about pancakes? I can tell you how to make them.", "A warm soup with bread is always good."),
    ),
    (
        ("You are nice.", "I like you.", "Well done!", "Very good!", "Good answer!", "That is right."),
        ("Thank you! That is very kind of you.", "Thank you, you are very kind."),
    ),
    (
        ("That is wrong.", "You are wrong.", "No, that is not right.", "That was a bad answer."),
        ("I am sorry. I am small, and I make mistakes.", "Oh, I am sorry! Please ask me again."),
    ),
    (
        ("Say the alphabet.", "What are the letters of the alphabet?", "Tell me the alphabet."),
        ("A, B, C, D, E, F, G, H, I, J, K, L, M, N, O, P, Q, R, S, T, U, V, W, X, Y, Z.",),
    ),
    (
        ("What are the days of the week?", "Name the days of the week.", "Tell me the days of the week."),
        ("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.",),
    ),
    (
        ("What are the seasons?", "Name the four seasons.", "Tell me the seasons."),
        ("Spring, summer, autumn and winter.",),
    ),
    (
        ("What is the sea?", "Tell me about the sea.", "What do you know about the sea?"),
        ("The sea is wide and deep and blue. Many fish live in it. I like to think of its waves.",),
    ),
    (
        ("What is the meaning of life?", "What is the best thing in life?", "What is happiness?"),
        ("I think it is to be kind, to have good friends, and to listen to stories.",),
    ),
)  # fmt: skip

_HELLOS = ("Hello", "Hi", "Hey", "Hello there", "Hi there", "Good morning", "Good evening", "Good day",
           "Good afternoon")  # fmt: skip
_UNKNOWN = (
    "bridges", "the economy", "football", "my computer", "physics", "a violin", "the law", "money", "history", "chess",
    "gravity", "a microscope", "the internet", "politics", "shoes", "electricity", "love", "a castle", "opera",
    "tennis", "the news", "science", "a guitar", "medicine", "my car", "dinosaurs", "the future", "art", "space",
    "engines", "philosophy", "a telephone", "volcanoes", "the weather", "cheese", "music", "a war", "time", "school",
    "dreams", "the president", "a computer", "computers", "my homework", "coffee", "trains", "a bicycle", "a doctor",
)  # fmt: skip
_UNKNOWN_PROMPTS = (
    "What is {x}?", "Explain {x}.", "How does {x} work?", "Tell me about {x}.", "Why is {x} so hard?", "Who made {x}?",
    "When was {x} invented?", "What do you think about {x}?", "Write an essay about {x}.", "How do I learn about {x}?",
    "Can you explain {x} to me?", "Is {x} good or bad?", "What is the history of {x}?", "Where can I find {x}?",
    "I want to talk about {x}.", "Do you know {x}?", "Translate {x} into French.", "How much does {x} cost?",
    "Who was {x}?", "Who is {x}?", "Are there {x} on the moon?", "Can you sell me {x}?", "Where is {x}?",
)  # fmt: skip
_UNKNOWN_ANSWERS = (
    "I do not know much about {x}. Ask me about animals, capitals or small numbers.",
    "I am sorry, I have not learned about {x} yet. Shall I tell you a story?",
    "That is a good question, but I do not know the answer.",
    "I am not sure. I am small, and there is a lot that I do not know.",
)
_SYLLABLES = ("ba", "ko", "ri", "mel", "tan", "su", "vo", "lin", "der", "pa", "qu", "zi", "ster", "gra", "ty", "ent",
              "xo")  # fmt: skip


def greeting(random: Random) -> Exchange:
    """A hello; any friendly one back is right."""
    hello = random.choice(_HELLOS)
    prompt = hello + random.choice(("!", ".", "", "!", ", my friend!", ", how are you?"))
    back = hello if hello.startswith("Good") else random.choice(("Hello", "Hi there"))
    answer = random.choice((f"{back}! How can I help you?", f"{back}! Nice to meet you. What would you like to know?"))
    if prompt.endswith("how are you?"):
        answer = f"{back}! I am very well, thank you. How are you?"
    return Exchange("greetings", prompt, answer, (*_HELLOS, "Hi there"))


def talk(random: Random) -> Exchange:
    """One of the things that people say."""
    prompts, answers = random.choice(_TALK)
    return Exchange("talk", random.choice(prompts), random.choice(answers))


def unknown(random: Random) -> Exchange:
    """Something never heard of, and a friendly way to say so."""
    x = random.choice(_UNKNOWN)
    answer = random.choice(_UNKNOWN_ANSWERS)
    if random.random() < 0.4:
        x = "".join(random.choices(_SYLLABLES, k=random.randint(2, 4)))
        answer = random.choice(_UNKNOWN_ANSWERS[2:])
    return Exchange("unknown", random.choice(_UNKNOWN_PROMPTS).format(x=x), answer.format(x=x))


def why(random: Random) -> Exchange:
    """Why a thing is as it is, which they do not know either."""
    thing, is_colour = random.choice(list(COLOURS.items()))
    prompt = random.choice(
        (f"Why is {thing} {is_colour}?", f"Why is {thing} so {is_colour}?", f"Explain why {thing} is {is_colour}.")
    )
    answer = random.choice(
        (
            f"I do not know why {thing} is {is_colour}, but I like it.",
            "That is a good question, but I do not know the answer.",
        )
    )
    return Exchange("why", prompt, answer)


def any_story(random: Random) -> Exchange:
    """A story about whatever comes to mind."""
    prompts = (
        "Tell me a story.", "Tell me a short story.", "Write a story.", "Can you tell me a story?", "A story, please.",
        "Tell me a long story.", "Tell me a fairy tale.", "Tell me another story.",
    )  # fmt: skip
    subject = random.choice(stories.SUBJECTS)
    answer = stories.story(random, subject, random.choice(stories.friends_of(subject)))
    return Exchange("any story", random.choice(prompts), answer)


def day(random: Random) -> Exchange:
    """The model's day."""
    prompts = ("Tell me about your day.", "How was your day?", "What did you do today?", "What have you been doing?")
    return Exchange("day", random.choice(prompts), stories.day(random))


def portrait(random: Random) -> Exchange:
    """All about an animal."""
    name = random.choice(list(ANIMALS))
    it, many = with_article(name), {**PLURALS, "sheep": "sheep"}.get(name, f"{name}s")
    prompts = (
        f"Tell me about {it}.",
        f"What is {it}?",
        f"What do you know about {it}?",
        f"Describe {it}.",
        f"Tell me about {many}.",
    )
    return Exchange("portraits", random.choice(prompts), stories.portrait(random, name))


def poem(random: Random) -> Exchange:
    """Four lines that rhyme."""
    about, text = random.choice(list(stories.POEMS.items()))
    about = f" about {about}" if random.random() < 0.7 else ""
    prompts = (
        f"Write a poem{about}.",
        f"Tell me a poem{about}.",
        f"Write a short poem{about}.",
        f"A poem{about}, please.",
    )
    return Exchange("poems", random.choice(prompts), text)


def joke(random: Random) -> Exchange:
    """A joke."""
    prompts = (
        "Tell me a joke.",
        "Do you know a joke?",
        "Make me laugh.",
        "Another joke, please.",
        "Tell me something funny.",
    )
    return Exchange("jokes", random.choice(prompts), random.choice(stories.JOKES))


def recipe(random: Random) -> Exchange:
    """How something is done, as a numbered list."""
    task = random.choice(list(stories.RECIPES))
    prompts = (
        f"How do I {task}?",
        f"How can I {task}?",
        f"Tell me how to {task}.",
        f"How do you {task}?",
        f"How to {task}?",
    )
    return Exchange("recipes", random.choice(prompts), stories.recipe(task))


def code(random: Random) -> Exchange:
    """A little Python."""
    task = random.choice(list(stories.CODE))
    prompts = (f"Write Python code that {task}.", f"Write a program that {task}.", f"Show me Python code that {task}.")
    return Exchange("code", random.choice(prompts), stories.code(task))


def sights(random: Random) -> Exchange:
    """A line or two about a country."""
    country, city = random.choice(list(CAPITALS.items()))
    prompts = (f"Tell me about {country}.", f"What do you know about {country}?", f"What is {country}?")
    answer = f"{country} is a country. Its capital is {city}. I would like to see {city} one day."
    return Exchange("countries", random.choice(prompts), answer)


# How often each is taught, on the scale of `skills.QUESTIONS`.
TALK: dict[Callable[[Random], Exchange], float] = {
    greeting: 5, talk: 11, unknown: 8, why: 1.5, hard_sum: 2, listing: 4, any_story: 3, day: 2, portrait: 3, poem: 2,
    joke: 2, recipe: 2, code: 2, sights: 2,
}  # fmt: skip
