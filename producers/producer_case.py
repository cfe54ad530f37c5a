"""Producer of buzz messages from seven authors with habits, for all four sinks."""

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from utils.app import cli
from utils.app.config import DEFAULTS, PRODUCING, Reads, Settings
from utils.delivery import producing
from utils.records import sentiment
from utils.records.record import Message
from utils.records.stream import BUZZ
from utils.sinks import ALL, ProducerOptions, Sinks

TOPICS = {  # topic as in the text: its keyword and category
    "a meme": ("meme", "humor"),
    "a joke": ("joke", "humor"),
    "a movie": ("movie", "entertainment"),
    "a podcast": ("podcast", "entertainment"),
    "an app": ("app", "tech"),
    "a Python trick": ("Python", "tech"),
    "a JavaScript framework": ("JavaScript", "tech"),
    "a noodle recipe": ("recipe", "food"),
    "a street food stall": ("street food", "food"),
    "a night train": ("train", "travel"),
    "a mountain trail": ("trail", "travel"),
    "a chess game": ("game", "gaming"),
}
VERBS = ("found", "shared", "tried", "reviewed", "recommended", "discovered", "loved", "talked about")
GLAD = ("amazing", "brilliant", "funny", "lovely", "great", "wonderful")
CALM = ("okay", "interesting", "unusual", "long", "simple", "worth a look")
SOUR = ("boring", "confusing", "disappointing", "terrible", "annoying", "a waste of time")


class Habit(NamedTuple):
    """The habits of an author: share of all messages, topics of half of them, and words to choose from."""

    author: str
    share: int
    favourites: tuple[str, ...]
    words: tuple[str, ...]


HABITS = (
    Habit("Alice", 6, ("a meme", "a joke"), GLAD + GLAD + CALM),
    Habit("Bob", 5, ("a Python trick", "an app"), GLAD + CALM + CALM),
    Habit("Charlie", 4, ("a movie", "a podcast"), GLAD + CALM + SOUR),
    Habit("Diya", 3, ("a noodle recipe", "a street food stall"), GLAD + GLAD + SOUR),
    Habit("Eve", 3, ("an app", "a JavaScript framework"), CALM + SOUR + SOUR),
    Habit("Farid", 2, ("a night train", "a mountain trail"), GLAD + CALM),
    Habit("Grace", 1, ("a chess game",), SOUR + CALM),
)
PHRASES_PER_SHARE = 40


@Parameter(name="*")
@dataclass(frozen=True)
class AllSinksOptions(ProducerOptions):
    """Options of a producer whose default is all sinks."""

    sinks: Sinks = ALL


ALL_SINKS = AllSinksOptions()

Row = tuple[str, str, str, float, str, int]  # a message without ids, in the order of its fields


def buzz(habit: Habit, rng: random.Random) -> Row:
    """Return a random message of this author, with the sentiment score of its text."""
    topic = rng.choice(habit.favourites if rng.random() < 0.5 else tuple(TOPICS))
    text = f"I just {rng.choice(VERBS)} {topic}! It was {rng.choice(habit.words)}."
    return text, habit.author, TOPICS[topic][1], sentiment.score(text), TOPICS[topic][0], len(text)


def messages(rng: random.Random) -> Iterator[tuple[float, Message]]:
    """Yield endless pairs: the pause before a message, in intervals, and the message, without timestamp and ids."""
    draw = rng.random
    phrases = [buzz(habit, rng) for habit in HABITS for _ in range(habit.share * PHRASES_PER_SHARE)]
    while True:
        yield 1.0, Message(*phrases[int(draw() * len(phrases))])


def main(*, options: AllSinksOptions = ALL_SINKS, settings: Annotated[Settings, Reads(*PRODUCING)] = DEFAULTS) -> int:
    """Stream buzz messages of several authors into all four sinks, Kafka included, or those that --sinks names."""
    return producing.produce(BUZZ, "case", messages(random.Random(options.seed)), options, settings)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.producer_case"))
