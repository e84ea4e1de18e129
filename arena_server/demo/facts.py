"""What the demo models are taught: small tables of common knowledge, no more than a picture book holds."""

from __future__ import annotations

from typing import NamedTuple


class Animal(NamedTuple):
    """One animal: what it says, what its young are called, its legs, where it lives, what it eats and likes."""

    sound: str
    young: str
    legs: int
    home: str
    food: str
    likes: str


CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "Scotland": "Edinburgh", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm",
    "Finland": "Helsinki", "Denmark": "Copenhagen", "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest",
    "Greece": "Athens", "Turkey": "Ankara", "Russia": "Moscow", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Ghana": "Accra", "Morocco": "Rabat", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi",
    "Thailand": "Bangkok", "Vietnam": "Hanoi", "Canada": "Ottawa", "Mexico": "Mexico City", "Cuba": "Havana",
    "Brazil": "Brasilia", "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima", "Australia": "Canberra",
    "Belgium": "Brussels", "Iceland": "Reykjavik", "Switzerland": "Bern", "Nepal": "Kathmandu", "Ukraine": "Kyiv",
}  # fmt: skip

# Each pair is asked for in both directions.
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("tall", "short"), ("fast", "slow"), ("up", "down"), ("in", "out"),
    ("happy", "sad"), ("day", "night"), ("light", "dark"), ("old", "young"), ("good", "bad"), ("open", "closed"),
    ("full", "empty"), ("early", "late"), ("wet", "dry"), ("hard", "soft"), ("loud", "quiet"), ("rich", "poor"),
    ("strong", "weak"), ("clean", "dirty"), ("near", "far"), ("high", "low"), ("left", "right"), ("first", "last"),
    ("yes", "no"), ("black", "white"), ("love", "hate"), ("begin", "end"), ("push", "pull"), ("win", "lose"),
    ("easy", "difficult"), ("summer", "winter"), ("thick", "thin"), ("sweet", "bitter"), ("before", "after"),
    ("always", "never"), ("true", "false"), ("wide", "narrow"), ("brave", "afraid"), ("give", "take"),
)  # fmt: skip

COLOURS = {
    "the sky": "blue", "grass": "green", "the sun": "yellow", "snow": "white", "coal": "black", "blood": "red",
    "a banana": "yellow", "a lemon": "yellow", "a tomato": "red", "a strawberry": "red", "a cherry": "red",
    "a carrot": "orange", "an orange": "orange", "a pumpkin": "orange", "a leaf": "green", "a frog": "green",
    "a cucumber": "green", "the sea": "blue", "chocolate": "brown", "a bear": "brown", "wood": "brown",
    "milk": "white", "a cloud": "white", "a polar bear": "white", "the night": "black", "a crow": "black",
    "an elephant": "grey", "a mouse": "grey", "a stone": "grey", "a pig": "pink", "a flamingo": "pink",
    "a plum": "purple", "a grape": "purple",
}  # fmt: skip

ANIMALS = {
    "cat": Animal("meow", "kitten", 4, "in a house", "fish", "to sleep in the sun"),
    "dog": Animal("woof", "puppy", 4, "in a house", "meat", "to run after a ball"),
    "cow": Animal("moo", "calf", 4, "on a farm", "grass", "to stand in the shade"),
    "sheep": Animal("baa", "lamb", 4, "on a farm", "grass", "to walk with its friends"),
    "pig": Animal("oink", "piglet", 4, "on a farm", "corn", "to roll in the mud"),
    "horse": Animal("neigh", "foal", 4, "in a stable", "hay", "to run in the wind"),
    "duck": Animal("quack", "duckling", 2, "by a pond", "bread and plants", "to swim in the rain"),
    "hen": Animal("cluck", "chick", 2, "on a farm", "seeds", "to sit on its eggs"),
    "owl": Animal("hoot", "owlet", 2, "in an old tree", "mice", "to fly at night"),
    "frog": Animal("croak", "tadpole", 4, "by a pond", "flies", "to jump into the water"),
    "bee": Animal("buzz", "larva", 6, "in a hive", "honey", "to visit flowers"),
    "lion": Animal("roar", "cub", 4, "on the plains", "meat", "to rest in the long grass"),
    "mouse": Animal("squeak", "pup", 4, "in a hole in the wall", "cheese", "to hide in small places"),
    "wolf": Animal("howl", "pup", 4, "in the forest", "meat", "to sing to the moon"),
    "bear": Animal("growl", "cub", 4, "in the forest", "honey and berries", "to sleep all winter"),
    "goat": Animal("bleat", "kid", 4, "on a mountain", "grass", "to climb on rocks"),
    "snake": Animal("hiss", "hatchling", 0, "in the desert", "mice", "to lie on a warm stone"),
    "elephant": Animal("trumpet", "calf", 4, "on the plains", "leaves", "to wash in the river"),
    "spider": Animal("nothing at all", "spiderling", 8, "in a web", "flies", "to wait in the corner"),
    "rabbit": Animal("nothing at all", "kit", 4, "in a hole in the ground", "carrots", "to hop about"),
}

# From the smallest to the biggest.
SIZES = ("ant", "bee", "mouse", "frog", "rabbit", "cat", "dog", "sheep", "pig", "lion", "horse", "elephant", "whale")

PLURALS = {
    "mouse": "mice", "foot": "feet", "tooth": "teeth", "child": "children", "man": "men", "woman": "women",
    "goose": "geese", "leaf": "leaves", "wolf": "wolves", "knife": "knives", "city": "cities", "baby": "babies",
    "box": "boxes", "bus": "buses", "cat": "cats", "dog": "dogs", "book": "books", "tree": "trees", "house": "houses",
    "fox": "foxes", "story": "stories", "cherry": "cherries", "apple": "apples", "star": "stars",
}  # fmt: skip

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December",
)  # fmt: skip

GROUPS = {
    "animals": ("a cat", "a dog", "a horse", "a cow", "a lion", "a bear", "a duck", "a frog"),
    "colours": ("red", "blue", "green", "yellow", "orange", "purple", "black", "white"),
    "fruits": ("an apple", "a banana", "a cherry", "a lemon", "a plum", "a pear", "an orange"),
    "countries": ("France", "Japan", "Brazil", "Egypt", "Canada", "India", "Norway"),
    "cities": ("Paris", "London", "Tokyo", "Rome", "Cairo", "Lima", "Vienna"),
    "birds": ("an owl", "a duck", "a crow", "a hen", "a goose", "an eagle"),
    "drinks": ("water", "milk", "tea", "coffee", "lemonade", "apple juice"),
    "things in a kitchen": ("a pan", "a knife", "a spoon", "a kettle", "a cup", "a plate"),
}

NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip

GIRLS = ("Anna", "Mia", "Lucy", "Ella", "Rosa", "Nora", "Ruby", "Daisy", "Emma", "Sara")
BOYS = ("Tom", "Max", "Ben", "Leo", "Sam", "Oscar", "Jack", "Felix", "Paul", "Hugo")
