"""Sentiment of a text: VADER's compound score rescaled to [0, 1], computed offline."""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

NEGATIVE_BELOW = 0.3
POSITIVE_ABOVE = 0.7
MAX_CHARACTERS = 1_000


@lru_cache(maxsize=1)
def _analyzer() -> "SentimentIntensityAnalyzer":
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def score(text: str) -> float:
    """Score the sentiment of a text from 0 (negative) to 1 (positive), 0.5 = neutral, rounded to four decimals.

    Only the first 1,000 characters count: VADER's time grows with the square of the length.
    """
    return _score(text[:MAX_CHARACTERS])


@lru_cache(maxsize=32_768)
def _score(text: str) -> float:
    compound: float = _analyzer().polarity_scores(text)["compound"]
    return round((compound + 1) / 2, 4)


def label(sentiment: float) -> str:
    """Return `negative`, `neutral` or `positive` for a score."""
    if sentiment < NEGATIVE_BELOW:
        return "negative"
    return "positive" if sentiment > POSITIVE_ABOVE else "neutral"
