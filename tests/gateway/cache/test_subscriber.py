"""A body as far as it is here, given a batch at a time."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.subscriber import ChunkBuffer


@given(st.lists(st.integers(1, 100_000), max_size=20), st.integers(0, 20))
def test_a_batch_is_some_chunks_in_their_order(sizes: list[int], at: int) -> None:
    chunks = ChunkBuffer()
    for size in sizes:
        chunks.add(b"x" * size)
    at = min(at, len(sizes))
    found, place = list[bytes](), at
    while batch := chunks.batch(place):
        found += batch
        place += len(batch)
    assert list(map(len, found)) == sizes[at:]
    chunks.drop(at)
    assert (chunks.begin, chunks.end, chunks.size) == (at, len(sizes), sum(sizes[at:]))
