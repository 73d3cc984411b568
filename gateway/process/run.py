"""`sluice serve` as a process: from the first line to its exit status, and what each signal does.

SIGTERM ends in order: lame duck, drain, the rest is told. SIGINT (Ctrl-C), and a SIGTERM that comes again, hurry: what
is open is told at once and workers are killed. SIGHUP reads the files again.
"""

import asyncio
import functools
import gc
import logging
import signal
import sys
from pathlib import Path

from gateway.control.policy_loader import StartError
from gateway.http.accept import raise_descriptor_limit
from gateway.http.listener import run
from gateway.observe.log import fields
from gateway.process.app import Gateway
from gateway.process.banner import banner

log = logging.getLogger("sluice.shutdown")


def serve(path: Path) -> int:
    """Run the gateway until SIGINT or SIGTERM. The exit code: 0 after an orderly end, 1 when it could not start."""
    raise_descriptor_limit()
    return run(functools.partial(_serve, path))


class SignalHandlers:
    """Signal handlers: `why` the process ends, and whether in a `hurry`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.why = ""
        self.ended = asyncio.Event()
        self.hurry = asyncio.Event()
        self._loop = loop
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end, number)

    def _end(self, number: signal.Signals) -> None:
        name = signal.Signals(number).name
        if self.why and not self.hurry.is_set():
            log.info("shutdown_hurried", extra=fields(why=name))
        if self.why or number == signal.SIGINT:
            self.hurry.set()
        self.why = self.why or name
        self.ended.set()

    def deafen(self) -> None:
        """Ignore all signals from now on: a repeated signal must not change the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


async def _serve(path: Path) -> int:
    loop = asyncio.get_running_loop()
    signals = SignalHandlers(loop)
    try:
        return await _serve_until_told(path, loop, signals)
    finally:
        signals.deafen()


async def _serve_until_told(path: Path, loop: asyncio.AbstractEventLoop, signals: SignalHandlers) -> int:
    gateway = Gateway(path)
    try:
        await gateway.start()
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(gateway.reload(), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, reload)
    ready = loop.create_task(gateway.control.settled.wait(), name="first round")
    stop = loop.create_task(signals.ended.wait(), name="signal")
    await asyncio.wait({ready, stop}, return_when=asyncio.FIRST_COMPLETED)
    if not signals.ended.is_set():
        _greet(gateway)
    _settle_garbage()
    await stop
    ready.cancel()
    await gateway.leave(signals.why, signals.hurry)
    return 0


def _greet(gateway: Gateway) -> None:
    control = gateway.control
    sys.stdout.write(banner(control.policy, gateway.address, gateway.admin_address, control.demo_key))
    sys.stdout.flush()
    sys.stderr.write(f"ready on {gateway.address}\n")


def _settle_garbage() -> None:
    """Move the objects of the start out of the collector's sight, and collect less often: neither a request nor a
    connection makes reference cycles. Worth 5% of a request's CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 4)
