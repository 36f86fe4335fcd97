"""gateway poll-events: fetch security events beside a running gateway, on the same store."""

from __future__ import annotations

import signal
import sys
import threading
import time

import click

from gateway.auth.issuers import Issuers
from gateway.cli.options import Fault, await_keys, open_blacklist, with_settings
from gateway.cli.output import printable, store_name
from gateway.config.settings import Settings
from gateway.http.problems import Problem
from gateway.ops.logs import configure_logging
from gateway.parties import build_issuers, build_senders
from gateway.signals.events import Events
from gateway.signals.poll import Poller, PollFailed, log
from gateway.signals.record import Recorder

IDLE_SECONDS = 5.0  # between polls of a transmitter that does not hold its answer back
SHORTEST_RETRY, LONGEST_RETRY = 1.0, 60.0


@click.command("poll-events")
@with_settings()
@click.option("--once", is_flag=True, help="fetch what there is, acknowledge it, and end")
def poll_events(settings: Settings, once: bool) -> None:
    """Fetch security events (RFC 8936), until it is ended. Senders of SIGNALS with a poll_url are asked."""
    configure_logging(settings.log_format, settings.log_level)
    issuers = build_issuers(settings)
    senders = build_senders(settings, issuers)
    if not any(sender.poll for sender in senders.all):
        raise Fault("no sender in GATEWAY_SIGNALS has a poll_url")
    recorder = Recorder(open_blacklist(settings), senders, settings.leeway, time.time)
    events = Events(recorder, Issuers(issuers))
    pollers = [Poller(events, sender.poll) for sender in senders.all if sender.poll]
    for poller in pollers:
        log.info("events of %s go to %s", poller.place, store_name(settings))
    if once:
        await_keys(senders.all)
        for failure in [failure for poller in pollers if (failure := _fetch_all(poller))]:
            raise failure
        return
    # Without a handler, the first process of a container ignores it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    threads = [threading.Thread(target=_follow, args=(poller,), daemon=True) for poller in pollers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _fetch_all(poller: Poller) -> Exception | None:
    """Fetch all that there is; return what failed, and log it: the other senders' events are to come all the same."""
    try:
        while poller.fetch(wait=False):
            pass
    except (PollFailed, Problem) as failure:
        log.warning("events of %s: %s", poller.place, failure)
        return failure if isinstance(failure, Problem) else Fault(printable(f"{poller.place}: {failure}"))
    return None


def _follow(poller: Poller) -> None:
    """Fetch for ever; what fails is tried again, at longer and longer intervals, and logged when it changes."""
    pause, fault = SHORTEST_RETRY, ""
    while True:
        before, began, has_more = fault, time.monotonic(), False
        try:
            has_more, fault = poller.fetch(wait=True), ""
        except (PollFailed, Problem) as failure:
            fault = failure.detail if isinstance(failure, Problem) else str(failure)
        except Exception as error:  # noqa: BLE001 - nobody would notice that the thread has ended
            log.exception("events of %s", poller.place)
            fault = type(error).__name__
        if fault != before:
            log.warning("events of %s: %s", poller.place, fault or "they come again")
        pause = min(pause * 2, LONGEST_RETRY) if fault else SHORTEST_RETRY
        if fault or (not has_more and time.monotonic() - began < IDLE_SECONDS):
            time.sleep(pause if fault else IDLE_SECONDS)
