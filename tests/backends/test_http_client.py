"""The control plane's HTTP client."""

import asyncio
import subprocess
import sys

import pytest

from backends.http_client import HttpClient, HttpError
from tests.backends.http1.answering import answering


@pytest.mark.parametrize("status", [200, 307, 404, 503])
async def test_a_status_is_an_answer_whatever_it_is(status: int) -> None:
    answer = f"HTTP/1.1 {status} X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n".encode()
    async with answering(answer) as port, HttpClient() as client:
        assert await client.get_status(f"http://127.0.0.1:{port}/health", 5.0) == status


async def test_a_body_without_end_is_not_read() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\nand on and on") as port, HttpClient() as client:
        assert await client.get_status(f"http://127.0.0.1:{port}/health", 5.0) == 200


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0-OpenSSH\r\n"])
async def test_silence_half_a_head_and_nonsense_are_no_answer(answer: bytes) -> None:
    async with answering(answer) as port, HttpClient() as client:
        with pytest.raises(HttpError):
            await client.get_status(f"http://127.0.0.1:{port}/health", 0.2)


async def test_a_closed_port_is_no_answer() -> None:
    async with HttpClient() as client:
        with pytest.raises(HttpError):
            await client.get_status("http://127.0.0.1:1/health", 1.0)


async def test_a_body_is_had_up_to_its_bound_and_as_it_came() -> None:
    body = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
    async with answering(body) as port, HttpClient() as client:
        assert await client.get(f"http://127.0.0.1:{port}/", 5.0, most=5) == b"hello"
        with pytest.raises(HttpError, match="over 4 bytes"):
            await client.get(f"http://127.0.0.1:{port}/", 5.0, most=4)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("404 X\r\ncontent-length: 0", "status 404"),
        ("301 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0", "status 301"),
        ("200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5", "a content coding"),
        ("200 OK\r\ncontent-length: 50", "no answer within"),
    ],
)
async def test_what_is_no_plain_body_with_200_is_none(head: str, reason: str) -> None:
    async with answering(f"HTTP/1.1 {head}\r\n\r\nhello".encode()) as port, HttpClient() as client:
        with pytest.raises(HttpError, match=reason):
            await client.get(f"http://127.0.0.1:{port}/", 0.3, most=100)


async def test_two_first_requests_share_one_client() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi") as port, HttpClient() as client:
        url = f"http://127.0.0.1:{port}/"
        assert await asyncio.gather(*(client.get(url, 5.0, most=5) for _ in range(5))) == [b"hi"] * 5


def test_httpx_is_not_loaded_before_the_first_request() -> None:
    script = "import sys, backends.http_client, backends.workers.supervisor; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == 0
