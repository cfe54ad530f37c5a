"""Live dashboard: a threaded matplotlib animation of a stream in a window, an image, a browser or a recording."""

import sys
from typing import Annotated

from loguru import logger

from consumers.dashboard.options import DEFAULT_BUFFERS, Buffers, Charts, Plan, shield
from utils import sinks
from utils.app import cli, signals
from utils.app.config import DEFAULT_STREAM, DEFAULTS, READING, Reads, Settings
from utils.app.options import Begin, StreamName
from utils.reading.expression import Expression
from utils.reading.processing import wait_for_stream

SWITCH_S = 0.0005  # of Python's threads; by default a flood of records makes a frame twice as slow
FIRST_LOOK_S, END_S = 2.0, 10.0
AS_READ, USUAL = Charts(), Plan()


def main(
    *,
    stream: StreamName = DEFAULT_STREAM,
    source: sinks.ChosenSource = sinks.AUTO,
    start: Begin = "start",
    charts: Charts = AS_READ,
    buffers: Buffers = DEFAULT_BUFFERS,
    plan: Plan = USUAL,
    settings: Annotated[Settings, Reads(*READING)] = DEFAULTS,
) -> int:
    """Show a stream live: record flow, bars by a text field, trend and histogram of numbers, health of the source.

    Draws in a window where there is one, else keeps data/dashboard.png up to date. In the window:
    space pauses drawing, t changes the theme, s saves an image, q quits; the mouse shows values.
    """
    sys.setswitchinterval(SWITCH_S)
    stop = signals.stop_on_signals()
    found = wait_for_stream(stream, settings, source, stop, once=False)
    if found is None:
        return 0
    found = charts.roles(sinks.with_chosen_roles(found, settings, source))
    where = Expression(found, charts.where) if charts.where else None
    shield()  # MPLBACKEND is `backend` of the plan

    from consumers.dashboard import animation, theme
    from consumers.dashboard.reader import Reader
    from consumers.dashboard.state import State

    theme.reset()
    state = State(found, source, buffers=buffers, where=where, from_end=start == "end")
    resume = "end" if start == "end" else ""
    reader = Reader(sinks.source(source, settings, found, lambda partition: resume), state, stop)
    if plan.serve is None and not plan.save and (name := animation.window_backend(plan.backend)):
        logger.info("drawing in a window with {}", name)
        reader.start()
        animation.show_window(state, plan, stop, settings.data_path)
    else:
        show = animation.opened(plan, settings.data_path, state.snapshot())
        reader.start()
        reader.looked.wait(FIRST_LOOK_S)  # so that one image is one of what is there
        show(animation.frames(state, plan, stop, stop.wait))
    stop.set()
    reader.join(timeout=END_S)
    if reader.failure:
        raise reader.failure
    known = state.snapshot()
    cli.print_lines(
        f"{cli.counted(known.total, known.roles.record)}, {known.invalid:,} invalid, {known.lost:,} lost,"
        f" {known.duplicate:,} duplicate"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, name="consumers.ragini_visual_consumer"))
