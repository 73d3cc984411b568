"""Makes the store that a policy file asks for (POLICY: `store.url`)."""

from collections.abc import Callable

from backends.store.memory import MemoryStore
from backends.store.windowed import WindowedStore, Windows


def open_memory(clock: Callable[[], float], epoch: float) -> WindowedStore:
    """The store of one process.

    clock: monotonic seconds
    epoch: what makes Unix time of them
    """

    def now() -> float:
        return clock() + epoch

    def open_windows() -> Windows:
        from backends.store.windows import LibraryWindows, WindowMemory

        return LibraryWindows(WindowMemory(now), now)

    return WindowedStore(MemoryStore(clock, epoch), open_windows)
