"""Two real vLLMs of one model, a tap before each, and the real gateway in front of both: once for the whole run."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engines.clients import Target
from tests.engines.gateway import Gateway, Settings
from tests.engines.install import Entry, entry
from tests.engines.vllm import API_KEY, Worker
from tests.engines.wire import Seen, exchanges
from tests.fakes.tap import Tap


@dataclass(frozen=True, slots=True)
class House:
    """Everything that a test here talks to."""

    cache: Entry
    workers: list[Worker]
    taps: list[Tap]
    gateway: Gateway

    @property
    def through(self) -> Target:
        """The gateway, with a good key."""
        return Target(self.gateway.port, self.gateway.key, self.cache.node_modules)

    @property
    def direct(self) -> Target:
        """A vLLM itself, with its own key."""
        return Target(self.workers[0].port, API_KEY, self.cache.node_modules, bearer=True)

    def _posts(self, number: int) -> list[Seen]:
        seen = [one for connection in list(self.taps[number].connections) for one in exchanges(connection)]
        return [one for one in seen if one.request.start.startswith("POST ")]

    def posts(self) -> list[Seen]:
        """Every POST that went to an engine by a tap, save those of the gateway's own."""
        return [one for number in range(len(self.taps)) for one in self._posts(number) if not _is_probe(one)]

    def asked(self, number: int) -> list[Seen]:
        """Every request for a token that the gateway made of its own to see whether this engine works."""
        return [one for one in self._posts(number) if _is_probe(one)]

    def went_to(self, mark: str) -> list[int]:
        """By their numbers, the engines that got a request whose body holds `mark`."""
        numbers = range(len(self.taps))
        return [number for number in numbers for one in self._posts(number) if mark.encode() in one.request.body]

    def post_with(self, mark: str) -> Seen:
        """The one POST whose body holds `mark`."""
        found = [one for one in self.posts() if mark.encode() in one.request.body]
        assert len(found) == 1, f"{len(found)} requests with {mark!r} went to the engines"
        return found[0]

    def busy(self) -> int:
        """Requests that run or wait in any engine."""
        return sum(worker.busy() for worker in self.workers)


def _is_probe(one: Seen) -> bool:
    return one.request.headers.get("user-agent", "").startswith("sluice-probe/")


@pytest.fixture(scope="session")
def cache() -> Entry:
    wanted = entry(os.environ)
    if not wanted.is_there():
        pytest.fail(f"{wanted.folder} is not there: `make test-engines` makes it, or python -m tests.engines.install")
    wanted.logs.mkdir(exist_ok=True)
    return wanted


@pytest.fixture(scope="session")
def workers(cache: Entry) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        started = []
        for number in range(2):
            worker = Worker.start(cache, number)
            stack.callback(worker.stop)
            started.append(worker)
        for worker in started:
            worker.wait_ready()
        yield started


@contextmanager
def house_of(
    cache: Entry,
    workers: list[Worker],
    folder: Path,
    log: str,
    pool: Settings | None = None,
    route: Settings | None = None,
) -> Iterator[House]:
    """A gateway with settings of its own before the workers, with taps between."""
    with ExitStack() as stack:
        taps = [stack.enter_context(Tap("127.0.0.1", worker.port)) for worker in workers]
        gateway = Gateway.start(folder, [tap.port for tap in taps], cache.logs / log, pool=pool, route=route)
        stack.callback(gateway.stop)
        yield House(cache, workers, taps, gateway)


@pytest.fixture(scope="session")
def house(cache: Entry, workers: list[Worker], tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_of(cache, workers, tmp_path_factory.mktemp("gateway"), "gateway.log") as made:
        yield made
