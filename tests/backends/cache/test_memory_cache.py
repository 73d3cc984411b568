"""The cache in memory: its bound, and who leaves first."""

from __future__ import annotations

from array import array
from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from backends.cache.base import CachedAnswer, CacheMiss
from backends.cache.memory import MemoryCache


def kept(number: int, size: int = 10) -> CachedAnswer:
    return CachedAnswer(number.to_bytes(32, "big"), 0.0, (), False, False, b"x" * size, array("I", [size]))


def test_the_one_used_longest_ago_leaves_first() -> None:
    each = kept(0).size
    cache = MemoryCache(3 * each, lambda: 0.0)
    for number in range(3):
        cache.put(kept(number), 60)
    assert cache.get(kept(0).key) == kept(0)
    cache.put(kept(3), 60)
    assert cache.get(kept(1).key) is CacheMiss.MISS
    assert [cache.get(kept(number).key) for number in (0, 2, 3)] == [kept(0), kept(2), kept(3)]


def test_what_is_larger_than_all_room_is_not_kept_and_takes_its_elder_along() -> None:
    cache = MemoryCache(2000, lambda: 0.0)
    cache.put(kept(0), 60)
    cache.put(kept(0, 3000), 60)
    assert (len(cache), cache.size) == (0, 0)


def test_a_hundred_thousand_answers_stay_within_the_bound() -> None:
    limit = 4 << 20
    cache = MemoryCache(limit, lambda: 0.0)
    for number in range(100_000):
        cache.put(kept(number, 200), 60)
        assert cache.size <= limit
    assert len(cache) == limit // kept(0, 200).size


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["put", "get", "later"]), st.integers(0, 9), st.integers(0, 3000), st.integers(1, 20))
)


@given(ACTIONS)
def test_it_does_as_a_model_does(actions: list[tuple[str, int, int, int]]) -> None:
    now = 0.0
    cache, limit = MemoryCache(10_000, lambda: now), 10_000
    model: OrderedDict[int, tuple[CachedAnswer, float]] = OrderedDict()
    for what, number, size, seconds in actions:
        if what == "later":
            now += seconds
        elif what == "put":
            model.pop(number, None)
            cache.put(kept(number, size), seconds)
            model[number] = kept(number, size), now + seconds
            while sum(one.size for one, _ in model.values()) > limit:
                model.popitem(last=False)
        else:
            found = model.get(number)
            if found is None or found[1] <= now:
                model.pop(number, None)
                assert cache.get(kept(number).key) is CacheMiss.MISS
            else:
                model.move_to_end(number)
                assert cache.get(kept(number).key) == found[0]
        assert cache.size == sum(one.size for one, _ in model.values()) <= limit
        assert len(cache) == len(model)
