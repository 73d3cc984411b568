"""Fair queue of tenants: start-time fair queuing (Goyal, Vin, Cheng, SIGCOMM 1996), each request of length 1.

A tenant's first waiting request has a start tag, its next one has it only once the first is served: so a client that
leaves costs its tenant nothing. Of two tenants that both always wait, what they are served differs by their weights, to
within one request of each. Every step takes O(log tenants), save `longest`.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, Generic, TypeVar

T = TypeVar("T")

# Below so many, what is no longer needed is left where it is.
_FEW: Final = 16


class _TenantFlow(Generic[T]):
    """One tenant. `entry` is the number of its valid place in the heap, -1 while nothing of it waits."""

    __slots__ = ("entry", "finish", "start", "waiting", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        # Linked: both ends and the middle are taken out in O(1); a plain dict looks over all that left before.
        self.waiting: OrderedDict[T, None] = OrderedDict()
        self.start = self.finish = 0.0
        self.entry = -1


class FairQueue(Generic[T]):
    """Items wait by tenant, each tenant with a weight above 0; an item waits once."""

    __slots__ = ("_flows", "_heap", "_kept", "_number", "_size", "_virtual", "_weights")

    def __init__(self) -> None:
        self._flows: dict[str, _TenantFlow[T]] = {}
        self._heap: list[tuple[float, int, _TenantFlow[T]]] = []
        self._virtual = 0.0
        self._number = 0
        self._size = 0
        self._weights = 0.0
        self._kept = _FEW

    def __len__(self) -> int:
        return self._size

    def push(self, tenant: str, weight: float, item: T) -> None:
        """Wait. The tenant's weight is from now on the one given here."""
        flow = self._flows.get(tenant)
        if flow is None:
            flow = self._flows[tenant] = _TenantFlow(weight)
        elif flow.waiting:
            self._weights += weight - flow.weight
        flow.weight = weight
        flow.waiting[item] = None
        self._size += 1
        if flow.entry < 0:
            self._weights += weight
            flow.start = max(self._virtual, flow.finish)
            self._enter(flow)

    def peek(self) -> T:
        """The next one, which stays; IndexError when nobody waits."""
        return next(iter(self._first().waiting))

    def take(self) -> T:
        """The next one is served; IndexError when nobody waits."""
        flow = self._first()
        heapq.heappop(self._heap)
        item, _ = flow.waiting.popitem(last=False)
        self._virtual = flow.start
        flow.finish = flow.start = flow.start + 1 / flow.weight
        if flow.waiting:
            self._enter(flow)
        self._left(flow)
        return item

    def remove(self, tenant: str, item: T) -> bool:
        """Remove an item that was not served; return whether it was in the queue."""
        flow = self._flows.get(tenant)
        if flow is None or item not in flow.waiting:
            return False
        del flow.waiting[item]
        self._left(flow)
        return True

    def count(self, tenant: str) -> int:
        """Return the number of waiting items of one tenant."""
        flow = self._flows.get(tenant)
        return 0 if flow is None else len(flow.waiting)

    def counts(self) -> Mapping[str, int]:
        """Return the number of waiting items by tenant."""
        return {tenant: len(flow.waiting) for tenant, flow in self._flows.items() if flow.waiting}

    def ahead(self, tenant: str, weight: float) -> int:
        """Estimate the number of waiting items served before a new one of this tenant: as many of the others as their
        weights allow, were all of them always waiting."""
        flow = self._flows.get(tenant)
        own = 0 if flow is None else len(flow.waiting)
        weights = self._weights - flow.weight if own and flow is not None else self._weights
        return min(self._size, math.ceil((own + 1) * (1 + weights / weight)) - 1)

    def longest(self) -> tuple[str, float]:
        """The tenant with the most waiting for its weight, and how many that is a unit of weight. O(tenants)."""
        tenant, flow = max(self._flows.items(), key=lambda pair: len(pair[1].waiting) / pair[1].weight)
        return tenant, len(flow.waiting) / flow.weight

    def newest(self, tenant: str) -> T:
        """The last one of a tenant."""
        return next(reversed(self._flows[tenant].waiting))

    def _enter(self, flow: _TenantFlow[T]) -> None:
        """Enter a flow whose first item waits, at its start tag; of equal tags the earlier goes first."""
        self._number += 1
        flow.entry = self._number
        heapq.heappush(self._heap, (flow.start, flow.entry, flow))

    def _first(self) -> _TenantFlow[T]:
        heap = self._heap
        while heap[0][1] != heap[0][2].entry:
            heapq.heappop(heap)
        return heap[0][2]

    def _left(self, flow: _TenantFlow[T]) -> None:
        """One of it is gone; so is whatever is of no use any more."""
        self._size -= 1
        if not flow.waiting:
            flow.entry = -1
            self._weights -= flow.weight
        if not self._size:
            self._flows.clear()
            self._heap.clear()
            self._virtual = self._weights = 0.0
        elif len(self._heap) + len(self._flows) > self._kept:
            self._heap = [entry for entry in self._heap if entry[1] == entry[2].entry]
            heapq.heapify(self._heap)
            # What a tenant has had is remembered until the others have had as much.
            self._flows = {name: one for name, one in self._flows.items() if one.waiting or one.finish > self._virtual}
            self._kept = max(_FEW, 2 * (len(self._heap) + len(self._flows)))
