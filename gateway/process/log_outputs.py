"""Log files of a gateway: its own log and the access log (policy key `observe`). Opened at the start, again on SIGHUP,
and closed last of all."""

import asyncio
import contextlib
import functools
import random
from collections.abc import Callable
from pathlib import Path

from gateway.control.policy_loader import StartError
from gateway.observe.access_log import AccessLog
from gateway.observe.log import GatewayLog
from policies.config.settings import ObserveSettings


class LogOutputs:
    """Both logs of one process. Raises StartError where a file of them could not be made."""

    def __init__(self, settings: ObserveSettings, rng: random.Random) -> None:
        for path in _files(settings):
            if not path.parent.is_dir():
                raise StartError(
                    f"cannot write {path}: there is no folder {path.parent}; make it, or name another file"
                )
        own, requests = settings.log, settings.access_log
        later = functools.partial(_later, asyncio.get_running_loop())
        self.own = GatewayLog(own.path, level=own.level, form=own.format, later=later)
        self.access: AccessLog | None = None
        """Access log, where the policy has one."""
        if requests is not None:
            self.access = AccessLog(
                requests.path, complain=self.own.complain, chance=rng.random, sample=requests.sample
            )

    def reopen(self) -> None:
        """Open the files again after logrotate has moved them."""
        self.own.reopen()
        if self.access is not None:
            self.access.reopen()

    async def close(self) -> None:
        """Write what is left, outside the loop; the own log last, for it tells of the other."""
        if self.access is not None:
            await asyncio.to_thread(self.access.close)
        await asyncio.to_thread(self.own.close)


def _files(settings: ObserveSettings) -> list[Path]:
    """The logs that go to files: one that could not be written would only be missed when it is needed."""
    names = [settings.log.path]
    if settings.access_log is not None:
        names.append(settings.access_log.path)
    return [Path(name) for name in names if name not in ("-", "stderr", "stdout")]


def _later(loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]) -> None:
    """From whatever thread; on a loop that has ended nothing is called any more."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.call_later, seconds, call)
