"""Producer that makes a stream of a file, a table, a topic, HTTP requests or standard input."""

import sys
from typing import Annotated

from cyclopts import Parameter

from utils.app import cli, signals
from utils.app.config import DEFAULTS, PRODUCING, Reads, Settings, feed_token
from utils.app.errors import ToolkitError
from utils.app.options import optional
from utils.feeds.feeding import PLAIN_FEED, FeedOptions, feed
from utils.feeds.inputs import HTTP, PLAIN, InputOptions, find_input

_SOURCE = "A file, a database with --table, kafka:TOPIC, http:PORT, or - for standard input."


def main(
    source: Annotated[str, Parameter(allow_leading_hyphen=True, help=_SOURCE)],
    /,
    *,
    stream: Annotated[
        str, optional("Name of the stream; default: that of the file without suffix, the table or the topic.")
    ] = "",
    read: InputOptions = PLAIN,
    options: FeedOptions = PLAIN_FEED,
    settings: Annotated[Settings, Reads(*PRODUCING)] = DEFAULTS,
) -> int:
    """Feed SOURCE into a stream, exactly once: follow a file that grows, or read a complete one to its end."""
    stop = signals.stop_on_signals()
    if source.startswith(HTTP):
        if not stream or options.once or options.again or read != PLAIN:
            raise ToolkitError(f"{source}: give --stream, and leave out --once, --again and the options for files")
        from utils.feeds.http import feed_http

        return feed_http(source.removeprefix(HTTP), stream, options, settings, stop, feed_token())
    found = find_input(source, read, settings, stop)
    if not (stream or found.name):
        raise ToolkitError(f"{source}: a stream cannot have this name: give it one with --stream")
    return feed(found, stream or found.name, options, settings, stop)


if __name__ == "__main__":
    sys.exit(cli.run(main, name="producers.feed_producer"))
