"""Log lines of changes of endpoints and workers: one line an event, with its reason and figures.

The README lists the names of the events; operators search the log for them.
"""

import logging
from collections.abc import Mapping
from typing import Final

from backends.control.events import EndpointEvent, Kind
from backends.workers.supervisor import WorkerEvent
from gateway.observe.log import fields

log = logging.getLogger("sluice.endpoint")

# Warnings are what takes an endpoint out, or a client might have felt; what an engine does when it is busy, and what is
# well again, is news and no more.
LINES: Final[Mapping[Kind, tuple[str, int]]] = {
    "failed": ("endpoint_failed", logging.WARNING),
    "suspect": ("endpoint_suspect", logging.INFO),
    "down": ("endpoint_down", logging.WARNING),
    "paused": ("endpoint_paused", logging.INFO),
    "ejected": ("endpoint_ejected", logging.WARNING),
    "returned": ("endpoint_returned", logging.INFO),
    "breaker_open": ("breaker_opened", logging.WARNING),
    "breaker_half_open": ("breaker_half_opened", logging.INFO),
    "breaker_closed": ("breaker_closed", logging.INFO),
    "panic": ("pool_panicked", logging.ERROR),
}


def log_endpoint_event(event: EndpointEvent) -> None:
    """Write the line."""
    name, level = LINES[event.kind]
    if log.isEnabledFor(level):
        what: dict[str, object] = {"pool": event.pool, "endpoint": event.endpoint, "reason": event.reason}
        facts = {key: value for key, value in what.items() if value}
        log.log(
            level, name, extra=fields(**facts, **{key: event.figures[key] for key in event.figures if key not in facts})
        )


def log_worker_event(event: WorkerEvent) -> None:
    """The same of a worker."""
    level = logging.WARNING if event.kind == "died" else logging.INFO
    what = fields(
        worker=event.worker,
        pool=event.pool,
        pid=event.pid,
        reason=event.reason or None,
        seconds=round(event.seconds, 3),
    )
    logging.getLogger("sluice.control").log(level, f"worker_{event.kind}", extra=what)
