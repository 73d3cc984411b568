"""Ports are kept for the worker that was told their number, and we know who listens on them."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from backends.workers.groups import PortListener, listener, members
from backends.workers.ports import HOST, FreePorts


def listening(port: int, *options: int, host: str = HOST) -> socket.socket:
    made = socket.socket()
    for option in options:
        made.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        made.bind((host, port))
        made.listen()
    except OSError:
        made.close()
        raise
    return made


@pytest.mark.parametrize("host", [HOST, "0.0.0.0"])
@pytest.mark.parametrize("options", [(socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,)])
def test_an_engine_can_listen_on_a_port_that_is_kept(options: tuple[int, ...], host: str) -> None:
    ports = FreePorts(3)
    with listening(ports.numbers[1], *options, host=host), socket.create_connection((HOST, ports.numbers[1]), 1.0):
        pass
    ports.release()


def test_a_kept_port_answers_nobody_and_is_chosen_for_nobody() -> None:
    ports = FreePorts(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, ports.numbers[0]), 1.0)
    others = [listening(0, socket.SO_REUSEADDR, socket.SO_REUSEPORT) for _ in range(200)]
    assert ports.numbers[0] not in [each.getsockname()[1] for each in others]
    for each in others:
        each.close()
    ports.release()


def test_a_released_port_is_free_for_engines_that_share_nothing() -> None:
    ports = FreePorts(1)
    with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        listening(ports.numbers[0])
    ports.release()
    listening(ports.numbers[0]).close()


def test_the_listener_is_ours_only_if_the_group_holds_every_socket() -> None:
    group, other = os.getpgid(0), 1
    with listening(0, socket.SO_REUSEPORT) as mine:
        port = mine.getsockname()[1]
        assert listener(HOST, port, group) is PortListener.OURS
        assert listener(HOST, port, other) in (PortListener.STRANGER, PortListener.UNKNOWN)
        script = (
            "import socket as s, sys; x = s.socket(); x.setsockopt(s.SOL_SOCKET, s.SO_REUSEPORT, 1);"
            f"x.bind(('{HOST}', {port})); x.listen(); print('on', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-S", "-c", script]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as stranger:
            assert stranger.stdout is not None and stranger.stdout.readline() == b"on\n"
            assert listener(HOST, port, group) is PortListener.STRANGER
            assert listener(HOST, port, stranger.pid) is PortListener.STRANGER
            stranger.communicate()
        assert listener(HOST, port, group) is PortListener.OURS
    assert listener(HOST, port, group) is PortListener.NOBODY


def test_a_wildcard_listener_counts_only_where_there_is_no_closer_one() -> None:
    group = os.getpgid(0)
    with listening(0, host="0.0.0.0") as wide:
        assert listener(HOST, wide.getsockname()[1], group) is PortListener.OURS
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as wide:
        assert listener(HOST, wide.getsockname()[1], group) is PortListener.OURS


def test_members_are_the_live_processes_of_a_group() -> None:
    with subprocess.Popen(["sleep", "30"], start_new_session=True) as child:
        assert members(child.pid) == [child.pid]
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert members(child.pid) == []
