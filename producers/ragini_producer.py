"""Producer of "Hello World" messages from Ragini and her friends, in patterns that the dashboard shows."""

import math
import random
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Annotated, Literal

from cyclopts import Parameter

from utils.app import cli
from utils.app.config import DEFAULTS, PRODUCING, Reads, Settings
from utils.delivery import producing
from utils.records import sentiment
from utils.records.record import Message
from utils.records.stream import BUZZ
from utils.sinks import DEFAULT_OPTIONS, ProducerOptions

AUTHORS = [*["Ragini"] * 6, *["Arjun"] * 4, *["Meera"] * 3, *["Lukas", "Sofia", "Kenji"] * 2, "Amara", "Tom"]
TOPICS = [("workshop", "tech"), ("breakfast", "food"), ("garden", "nature"), ("match", "sports"), ("trip", "travel")]
TOPICS += [("concert", "music"), ("lecture", "education"), ("movie", "entertainment")]
OPENINGS = ["Hello World!", "Hello World from {}!", "{} says Hello World!"]
FEELINGS = [  # from sad to happy
    *("The {} was a horrible disaster!", "I hate this awful {}, it ruined the week.", "Worst {} ever!"),
    *("Sadly the {} failed again.", "The {} was bad.", "The {} left me tired.", "The {} was a bit disappointing."),
    *("I had some trouble with the {}.", "No {} today, sorry.", "I missed the {} today.", "I miss the {}."),
    *("The {} was a bit hard.", "Another {}?", "The {} continues.", "A {} as usual.", "I want another {}."),
    *("The {} was okay.", "I agree about the {}.", "A {} with friends.", "The {} was quite nice."),
    *("We talked about the {} and that was fun.", "A calm {} is fine with me.", "Good news: the {} is a success."),
    *("I enjoyed the {}, thanks to my friends!", "The {} was amazing, best of all!", "Superb {}, brilliant!"),
    "I love this wonderful {}, what a perfect day!",
]
FACTS = ["Next week there is another {}.", "Everybody in the office talked about the {}.", "Here comes the {}."]
FACTS += ["Today was about the {}, from nine to five.", "The {} begins at seven in the evening."]
FACTS += ["More about the {} tomorrow.", "My neighbour told me about a {} in Pune.", "The {} is on the first floor."]
SHORTEST, LENGTHS, LENGTH_WIDTH = 20, 5, 50  # five classes of length, each 50 characters wide, from 20 on
SENTIMENTS = 10  # classes of sentiment, each 0.1 wide

Pattern = Literal["steady", "wave", "burst", "drift"]
Row = tuple[str, str, str, float, str, int]  # a message without ids, in the order of its fields
Step = tuple[float, float, float, float, float]
"""Choice of a message: pause before it, least sentiment (0-1) and its range, least length (0-5) and its range."""


def wave(period: int = 60) -> list[Step]:
    """Return steps that alternate between glad messages, fast and long, and sad ones, slow and short."""
    swing = [math.sin(math.tau * n / period) for n in range(period)]
    return [(1 - 0.7 * s, 0.4 + 0.35 * s, 0.2, 1.4 + 1.4 * s, 2) for s in swing]


def burst(flood: int = 30) -> list[Step]:
    """Return steps of silence, then a flood of glad, sad or neutral messages; on average one interval per message."""
    sentiments = [0.7] * flood + [0.05] * flood + [0.4] * flood
    return [(0.3 if n % flood else 0.3 + 0.7 * flood, score, 0.25, 0, 2) for n, score in enumerate(sentiments)]


def drift(period: int = 600, outlier_every: int = 75) -> list[Step]:
    """Return steps whose sentiment and length slowly rise and fall, with rare outliers: very sad and long messages."""
    creep = [0.5 - 0.5 * math.cos(math.tau * n / period) for n in range(period)]
    steps: list[Step] = [(1.0, 0.5 + 0.3 * c, 0.15, 3.4 * c, 1.5) for c in creep]
    steps[outlier_every - 1 :: outlier_every] = [(1.0, 0.0, 0.1, 4, 0.9)] * (period // outlier_every)
    return steps


PATTERNS: dict[Pattern, Callable[[], list[Step]]] = {"wave": wave, "burst": burst, "drift": drift}
PATTERNS["steady"] = lambda: [(1.0, 0.25, 0.6, 0, 5)]


def pool(texts: int = 800) -> list[list[list[Row]]]:
    """Return scored messages by class of length, then by class of sentiment; the same ones in every run."""
    rng = random.Random(0)
    classes: list[list[list[Row]]] = [[[] for _ in range(SENTIMENTS)] for _ in range(LENGTHS)]
    for number in range(texts):
        author, (keyword, category) = rng.choice(AUTHORS), rng.choice(TOPICS)
        text = f"{rng.choice(OPENINGS).format(author)} {FEELINGS[number % len(FEELINGS)].format(keyword)}"
        if number % LENGTHS and rng.random() < 0.5:
            text += " " + rng.choice(FEELINGS).format(keyword)
        for fact in rng.sample(FACTS, len(FACTS)):
            if len(text) < SHORTEST + LENGTH_WIDTH * (number % LENGTHS):
                text += " " + fact.format(keyword)
        score, length = sentiment.score(text), len(text)
        alike = classes[(length - SHORTEST) // LENGTH_WIDTH][min(int(score * SENTIMENTS), SENTIMENTS - 1)]
        alike.append((text, author, category, score, keyword, length))
    return classes


def messages(pattern: Pattern, rng: random.Random) -> Iterator[tuple[float, Message]]:
    """Yield endless pairs: the pause before a message, in intervals, and the message, without timestamp and ids."""
    draw, classes = rng.random, pool()
    for gap, score, sentiment_width, length, length_width in cycle(PATTERNS[pattern]()):
        alike = classes[int(length + length_width * draw())][int((score + sentiment_width * draw()) * SENTIMENTS)]
        yield gap, Message(*alike[int(draw() * len(alike))])


def main(
    *,
    pattern: Annotated[Pattern, Parameter(name="--pattern", help="How sentiment, length and rate change.")] = "wave",
    options: ProducerOptions = DEFAULT_OPTIONS,
    settings: Annotated[Settings, Reads(*PRODUCING)] = DEFAULTS,
) -> int:
    """Stream "Hello World" messages of named persons into file, SQLite and DuckDB, or the sinks that --sinks names."""
    paced = messages(pattern, random.Random(options.seed))
    return producing.produce(BUZZ, "ragini", paced, options, settings)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.ragini_producer"))
