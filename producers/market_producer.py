"""Example producer of trades in a small market, with wandering prices and rare crashes."""

import random
import sys
from collections.abc import Iterator
from typing import Annotated

from utils.app import cli
from utils.app.config import DEFAULTS, PRODUCING_STREAM, Reads, Settings
from utils.delivery import producing
from utils.records.record import Record
from utils.records.stream import Stream
from utils.sinks import DEFAULT_OPTIONS, ProducerOptions


class Tick(Record):
    """One trade: `price` in the currency of the market, `volume` in shares."""

    symbol: str
    price: float
    volume: int


TICKS = Stream("ticks", Tick, by="symbol", value="price", histogram="volume", zones=(95, 105))

SYMBOLS = {"AMBR": 0.05, "BOLT": 0.08, "CLAY": 0.12, "DUNE": 0.2}  # with the standard deviation of a price change
FAIR_PRICE, PULL = 100.0, 0.002  # prices return to it by this share of the distance per trade
CRASH_EVERY, CRASH_TRADES, CRASH = 1_500, 12, 0.9  # mean trades per crash, its trades, and the factor of the price


def ticks(rng: random.Random) -> Iterator[tuple[float, Tick]]:
    """Yield endless pairs: the pause before a trade, in intervals, and the trade, without timestamp and ids."""
    prices = dict.fromkeys(SYMBOLS, FAIR_PRICE)
    crashing, left = "", 0
    while True:
        if not left and rng.random() * CRASH_EVERY < 1:
            crashing, left = rng.choice(list(SYMBOLS)), CRASH_TRADES
        hurry = left > 0  # during a crash: fast trades of high volume, of one symbol only
        symbol = crashing if hurry else rng.choice(list(SYMBOLS))
        prices[symbol] += PULL * (FAIR_PRICE - prices[symbol]) + rng.gauss(0, SYMBOLS[symbol])
        price = prices[symbol] * (CRASH if hurry else 1)
        volume = 1 + int(rng.lognormvariate(7 if hurry else 4, 0.8))
        left = max(0, left - 1)
        yield rng.expovariate(10.0 if hurry else 1.0), Tick(symbol, round(price, 2), volume)


def main(
    *, options: ProducerOptions = DEFAULT_OPTIONS, settings: Annotated[Settings, Reads(*PRODUCING_STREAM)] = DEFAULTS
) -> int:
    """Stream trades of four symbols into file, SQLite and DuckDB, or the sinks that --sinks names."""
    return producing.produce(TICKS, "market", ticks(random.Random(options.seed)), options, settings)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.market_producer"))
