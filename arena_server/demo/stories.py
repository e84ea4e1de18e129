"""The longer things the demo models are taught to say: stories, days, poems, jokes, recipes and a little code."""

from __future__ import annotations

from random import Random

from arena_server.demo.facts import ANIMALS, BOYS, GIRLS

SUBJECTS = (
    *ANIMALS, "boy", "girl", "king", "queen", "dragon", "robot", "fox", "bird", "fish", "pirate", "wizard", "princess",
    "prince", "knight", "witch", "farmer", "sailor", "snowman", "ghost", "tiger", "monkey", "penguin", "turtle", "star",
)  # fmt: skip
_GIRLS_ONLY = ("girl", "queen", "princess", "witch")
_BOYS_ONLY = ("boy", "king", "prince", "wizard")

_PLOTS = (
    (
        "{Opening} there was {a subject} named {name}. {Name} lived {place}. "
        "One {time}, {he} could not find {his} {thing} anywhere. "
        "{Name} looked {where}, and then {he} looked {elsewhere}, but it was not there. "
        'Then {he} met {a friend}. "I will help you," said the {friend}. '
        "They looked together, and they found the {thing} under {a hiding place}. "
        '{Name} laughed and said, "Thank you, my friend!" {Ending}'
    ),
    (
        "{Opening} {a subject} named {name} lived {place}. {Name} was {mood}, because {he} had no friends. "
        "One {time}, {he} heard a small voice {where}. It was {a friend}. "
        '"Will you play with me?" asked the {friend}. "Yes, I will!" said {name}. '
        "They played until the moon came up. {Ending}"
    ),
    (
        "{Opening} there was {a subject} named {name}. {Name} had one big dream. {He} wanted to see the {goal}. "
        "So one {time}, {he} packed {his} {thing} and began to walk. "
        "The road was long, and the rain was cold, but {name} did not stop. "
        "On the third day {he} met {a friend}, who showed {him} the way. "
        "At last {name} saw the {goal}. It was more beautiful than {he} had thought. {Ending}"
    ),
    (
        "{Opening} {a subject} named {name} found an old {thing} {where}. "
        '"What is this?" asked {name}. The {thing} began to shine. "Make a wish," it said. '
        '{Name} thought for a long time. Then {he} said, "I wish for a good friend." '
        "The next {time}, {a friend} came to the door. They had tea and cake. {Ending}"
    ),
    (
        "{Opening} it rained and rained {place}. {A subject} named {name} sat at the window and was {mood}. "
        "Then there was a knock at the door. It was {a friend}, and it was very wet. "
        '"May I come in?" asked the {friend}. {Name} made a fire and some warm soup. '
        "They told each other stories all night. In the morning the sun was back. {Ending}"
    ),
    (
        "{Opening} there was {a subject} named {name} who was afraid of the dark. "
        "One {time}, {his} friend, {a friend}, got lost {elsewhere}. "
        "It was night, but {name} took {his} {thing} and went out. "
        '{He} called and called. At last a voice said, "I am here!" '
        "{Name} brought the {friend} home, and {he} was never afraid again. {Ending}"
    ),
)

_SLOTS = {
    "place": ("in a small house by the sea", "near a quiet forest", "on a green hill", "in an old town", "by a river"),
    "time": ("morning", "evening", "day", "summer day", "winter morning"),
    "thing": ("hat", "lamp", "key", "red ball", "book", "map"),
    "where": ("in the garden", "behind the house", "under the bed", "by the road"),
    "elsewhere": ("in the forest", "at the river", "on the hill"),
    "hiding place": ("big stone", "pile of leaves", "old tree"),
    "mood": ("sad", "a little sad", "lonely", "bored"),
    "goal": ("sea", "big city", "mountains", "northern lights"),
}
_OPENINGS = ("Once upon a time", "Long ago", "Many years ago", "Once")
_ENDINGS = (
    "From that day on they were best friends. The end.",
    "And they lived happily ever after.",
    "That night {name} slept very well. The end.",
    "{Name} never forgot that day. The end.",
    "And if you go there today, you can still hear them laugh.",
)

POEMS = {
    "the sea": "The sea is wide, the sea is deep,\nIt sings the little fish to sleep.\n"
    "It comes and goes, it never ends,\nThe waves and I are good old friends.",
    "the moon": "The moon looks down on field and town,\nShe wears a soft and silver gown.\n"
    "She lights the road, she lights the tree,\nAnd through the glass she smiles at me.",
    "the rain": "The rain is falling on the street,\nIt wets my hat, it wets my feet.\n"
    "But when it stops, the sky is new,\nAnd all the world is green and blue.",
    "a cat": "A cat sat dreaming on the mat,\nOf fish and milk and things like that.\n"
    "The clock went slow, the sun went round,\nThe cat slept on without a sound.",
    "spring": "The snow is gone, the birds are here,\nThe warmest morning of the year.\n"
    "The garden wakes, the flowers sing,\nGood morning, sun, good morning, spring.",
    "the night": "The night is quiet, dark and long,\nThe owl sings out an old, old song.\n"
    "The stars are lamps that light the way,\nSleep well until another day.",
}

JOKES = (
    "Why did the chicken cross the road? To get to the other side!",
    "What is orange and sounds like a parrot? A carrot!",
    "Why did the teddy bear say no to cake? Because it was already stuffed!",
    "What do you call a bear with no teeth? A gummy bear!",
    "Why is six afraid of seven? Because seven ate nine!",
    "What has four wheels and flies? A garbage truck!",
    "Why was the clock sent out of class? It was ticking too much!",
    "What do you call a sleeping bull? A bulldozer!",
)

RECIPES = {
    "make tea": ("Boil some water.", "Put a tea bag in a cup.", "Pour in the hot water.", "Wait for four minutes.",
                 "Take out the tea bag and enjoy it."),
    "make a sandwich": ("Take two slices of bread.", "Put butter on the bread.", "Add cheese and tomato.",
                        "Put the slices together.", "Cut it in two and eat it."),
    "boil an egg": ("Fill a pan with water.", "Bring the water to the boil.", "Put in the egg.",
                    "Wait for seven minutes.", "Cool the egg in cold water."),
    "make pancakes": ("Mix flour, milk and two eggs.", "Heat some butter in a pan.", "Pour in a little of the mix.",
                      "Turn it when it is golden.", "Eat it with sugar and lemon."),
    "plant a tree": ("Dig a deep hole.", "Put the young tree in it.", "Fill the hole with earth.",
                     "Give it a lot of water.", "Be patient and watch it grow."),
    "wash my hands": ("Wet your hands.", "Take some soap.", "Rub your hands for twenty seconds.",
                      "Wash off the soap.", "Dry your hands with a towel."),
}  # fmt: skip

CODE = {
    "prints hello": 'print("Hello, world!")',
    "counts to ten": "for number in range(1, 11):\n    print(number)",
    "adds two numbers": "def add(a, b):\n    return a + b",
    "says if a number is even": "def is_even(number):\n    return number % 2 == 0",
}


def with_article(noun: str) -> str:
    """The noun after "a" or "an"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def friends_of(subject: str) -> list[str]:
    """Whom this one may meet in a story."""
    return [animal for animal in ANIMALS if animal != subject]


def story(random: Random, subject: str, friend: str) -> str:
    """Five to nine sentences about one animal or person, and a friend of theirs."""
    girl = subject in _GIRLS_ONLY or (subject not in _BOYS_ONLY and random.random() < 0.5)
    name = random.choice(GIRLS if girl else BOYS)
    slots = {slot: random.choice(choices) for slot, choices in _SLOTS.items()}
    slots |= {"he": "she", "his": "her", "him": "her"} if girl else {"he": "he", "his": "his", "him": "him"}
    slots |= {"He": slots["he"].capitalize(), "name": name, "Name": name, "friend": friend}
    slots |= {"Opening": random.choice(_OPENINGS), "Ending": random.choice(_ENDINGS)}
    slots |= {"a subject": with_article(subject), "A subject": with_article(subject).capitalize()}
    slots |= {"a friend": with_article(friend), "a hiding place": with_article(slots["hiding place"])}
    return _fill(_fill(random.choice(_PLOTS), slots), slots)  # twice: an ending has slots of its own


def _fill(text: str, slots: dict[str, str]) -> str:
    for slot, words in slots.items():
        text = text.replace("{" + slot + "}", words)
    return text


def day(random: Random) -> str:
    """A day as somebody who lives in a computer would tell it."""
    parts = (
        ("My day was good.", "It was a quiet day.", "It was a busy day.", "I had a lovely day."),
        (
            "In the morning I read some old books.",
            "In the morning I counted to a hundred.",
            "In the morning I told a story to a friend.",
        ),
        (
            "Then I added some numbers and looked at the map of the world.",
            "Then somebody asked me about cats, and I was happy.",
            "At noon I thought about the sea for a while.",
        ),
        ("In the evening I wrote a little poem.", "In the evening I listened to the rain."),
        ("And how was your day?", "Now I am glad to talk with you.", "What did you do today?"),
    )
    return " ".join(random.choice(part) for part in parts)


def portrait(random: Random, animal: str) -> str:
    """All that is known of an animal, in four or five sentences."""
    sound, young, legs, home, food, likes = ANIMALS[animal]
    it = with_article(animal)
    sentences = [
        f"{it.capitalize()} lives {home}.",
        f"It eats {food}.",
        f"It says {sound}." if sound != "nothing at all" else f"It has {legs} legs.",
        f"It likes {likes}.",
    ]
    random.shuffle(sentences)
    return " ".join([f"{it.capitalize()} is an animal.", *sentences, f"A baby {animal} is called a {young}."])


def recipe(task: str) -> str:
    """A numbered list."""
    steps = "\n".join(f"{number}. {step}" for number, step in enumerate(RECIPES[task], 1))
    return f"Here is how to do it:\n\n{steps}"


def code(task: str) -> str:
    """A line of text and a Python block."""
    return f"Here is some Python that {task}:\n\n```python\n{CODE[task]}\n```"
