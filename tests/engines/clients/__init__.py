"""The clients that people use, each made to show the bytes that it read and wrote.

A client is a function from a Target and a Request to a Reply; CLIENTS and `speakers` list them.
"""

import base64
import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai

from tests.engines import wire

TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go and what they show there. `bearer`: anthropic's SDK shows the key in `Authorization` too."""

    port: int
    key: str
    node_modules: Path
    bearer: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. `garbled` goes over the wire in place of the payload, whatever the SDK wrote."""

    path: str
    payload: dict[str, Any]
    garbled: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the client had of it: body bytes without HTTP's framing, the class it raised, the items that it parsed."""

    status: int
    request: bytes
    body: bytes
    error: str | None
    items: int


Client = Callable[[Target, Request], Reply]


class _Listening(httpx2.BaseTransport):
    """The SDKs' own transport with an ear on it."""

    def __init__(self, garbled: bytes | None) -> None:
        self._inner = httpx2.HTTPTransport()
        self._garbled = garbled
        self.status = 0
        self.request = b""
        self.body = bytearray()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._garbled is not None:
            headers = [(k, v) for k, v in request.headers.multi_items() if k.lower() != "content-length"]
            request = httpx2.Request(request.method, request.url, headers=headers, content=self._garbled)
        self.request = request.read()
        answer = self._inner.handle_request(request)
        self.status = answer.status_code
        assert isinstance(answer.stream, httpx2.SyncByteStream)
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=_Copied(answer.stream, self.body))

    def close(self) -> None:
        self._inner.close()


class _Copied(httpx2.SyncByteStream):
    def __init__(self, inner: httpx2.SyncByteStream, copy: bytearray) -> None:
        self._inner = inner
        self._copy = copy

    def __iter__(self) -> Iterator[bytes]:
        for data in self._inner:
            self._copy += data
            yield data

    def close(self) -> None:
        self._inner.close()


def _ask(listening: _Listening, request: Request, verb: Callable[..., Any], errors: type[Exception]) -> Reply:
    error, items = None, 0
    try:
        answer = verb(**request.payload)
        if request.payload.get("stream"):
            # An SDK stops at the event that it takes for the last; what stands after it must have come all the same.
            items = sum(1 for _ in answer)
        else:
            items = 1
    except errors as raised:
        error = type(raised).__name__
    return Reply(listening.status, listening.request, bytes(listening.body), error, items)


def openai_python(target: Target, request: Request) -> Reply:
    """The openai SDK for Python."""
    listening = _Listening(request.garbled)
    with (
        httpx2.Client(transport=listening, timeout=TIMEOUT) as http,
        openai.OpenAI(base_url=f"{target.url}/v1", api_key=target.key, max_retries=0, http_client=http) as client,
    ):
        verbs: dict[str, Callable[..., Any]] = {
            "/v1/chat/completions": client.chat.completions.create,
            "/v1/completions": client.completions.create,
            "/v1/responses": client.responses.create,
        }
        return _ask(listening, request, verbs[request.path], openai.OpenAIError)


def anthropic_python(target: Target, request: Request) -> Reply:
    """The anthropic SDK for Python: its key goes in `x-api-key`, which vLLM itself does not read."""
    listening = _Listening(request.garbled)
    with (
        httpx2.Client(transport=listening, timeout=TIMEOUT) as http,
        anthropic.Anthropic(
            base_url=target.url,
            api_key=target.key,
            max_retries=0,
            http_client=http,
            default_headers={"authorization": f"Bearer {target.key}"} if target.bearer else {},
        ) as client,
    ):
        verb: Callable[..., Any] = client.messages.create
        return _ask(listening, request, verb, anthropic.AnthropicError)


def openai_node(target: Target, request: Request) -> Reply:
    """The openai SDK for Node."""
    job = {
        "base_url": f"{target.url}/v1",
        "api_key": target.key,
        "path": request.path,
        "payload": request.payload,
        "garbled": None if request.garbled is None else request.garbled.decode(),
    }
    script = Path(__file__).with_name("openai_sdk.mjs")
    done = subprocess.run(
        ["node", script, target.node_modules], input=json.dumps(job).encode(), capture_output=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    request_bytes, body = base64.b64decode(said["request"]), base64.b64decode(said["body"])
    return Reply(said["status"], request_bytes, body, said["error"], said["items"])


def curl(target: Target, request: Request) -> Reply:
    """The curl command, told to leave the framing in, so that ours is read strictly too."""
    sent = json.dumps(request.payload).encode() if request.garbled is None else request.garbled
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        command = ["curl", "-sS", "-N", "--raw", "-i", "-o", str(out), "--max-time", str(int(TIMEOUT))]
        command += ["-H", f"authorization: Bearer {target.key}", "-H", "content-type: application/json"]
        command += ["--data-binary", "@-", f"{target.url}{request.path}"]
        done = subprocess.run(command, input=sent, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        data = out.read_bytes()
    answer = wire.read(data, closed=True)
    assert answer is not None and answer[0].whole and answer[1] == len(data), "curl got no well-framed answer"
    return Reply(answer[0].status, sent, answer[0].body, None, 0)


CLIENTS: dict[str, Client] = {
    "openai-python": openai_python,
    "openai-node": openai_node,
    "anthropic-python": anthropic_python,
    "curl": curl,
}


def speakers(path: str) -> list[str]:
    """Names of the clients that speak the dialect of `path`; curl speaks all."""
    sdks = ["anthropic-python"] if path == "/v1/messages" else ["openai-python", "openai-node"]
    return [*sdks, "curl"]
