"""The seal itself: what it tells of."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.sealed import sealed


def connects() -> None:
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", 1))


@pytest.mark.parametrize(
    "goes_out", [lambda: Path(__file__).read_text(), connects, lambda: socket.getaddrinfo("127.0.0.1", 1)]
)
def test_whoever_opens_a_file_or_a_socket_or_looks_up_a_name_is_told_of(goes_out: Callable[[], object]) -> None:
    with pytest.raises(AssertionError), sealed():
        goes_out()


def test_nothing_is_told_of_who_stays_inside() -> None:
    with sealed():
        assert sum(range(10)) == 45
