"""Makes a stream of anything that can be read: files, tables, topics, requests over HTTP, standard input."""

import sys
from typing import Annotated

from cyclopts import Parameter

from utils.app import cli, signals
from utils.app.config import DEFAULTS, PRODUCING, Once, Reads, Settings, feed_token
from utils.app.errors import ToolkitError
from utils.feeds.feeding import feed
from utils.feeds.inputs import HTTP, PLAIN, InputOptions, find_input
from utils.sinks import EMBEDDED, WHOLE_RUN, Run, Sinks


def main(
    source: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            help="A file, a database with --table, kafka:TOPIC, http:PORT, or - for standard input.",
        ),
    ],
    /,
    *,
    stream: Annotated[
        str,
        Parameter(name="--stream", show_default=False, help="Which stream; else the name of SOURCE without suffix."),
    ] = "",
    time: Annotated[
        str | None,
        Parameter(name="--time", show_default=False, help="Field with the event time, instead of the one found."),
    ] = None,
    once: Once = False,
    again: Annotated[
        bool, Parameter(name="--again", show_default=False, help="Read from the beginning, also what was fed before.")
    ] = False,
    options: InputOptions = PLAIN,
    sinks: Sinks = EMBEDDED,
    run: Run = WHOLE_RUN,
    settings: Annotated[Settings, Reads(*PRODUCING)] = DEFAULTS,
) -> int:
    """Feed SOURCE into a stream, exactly once: follow a file that grows, or read what is complete to its end."""
    stop = signals.stop_on_signals()
    if source.startswith(HTTP):
        if not stream or once or again or options != PLAIN:
            raise ToolkitError(f"{source}: name --stream; --once, --again and how a file is read do not apply")
        from utils.feeds.http import feed_http

        address, token = source.removeprefix(HTTP), feed_token()
        return feed_http(address, stream, settings, sinks=sinks, run=run, stop=stop, time=time, token=token)
    found = find_input(source, options, settings, stop)
    return feed(
        found, stream or found.name, settings, sinks=sinks, run=run, stop=stop, time=time, once=once, again=again
    )


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.feed_producer"))
