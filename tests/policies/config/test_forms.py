"""Addresses, URLs, names and words."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.config import addresses, forms
from policies.config.addresses import Address
from policies.config.forms import Bound, TextStep
from policies.config.kind import ScalarKind


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("0.0.0.0:0", Address("0.0.0.0", 0)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[0:0::1]:65535", Address("::1", 65535)),
        ("gateway.local:80", Address("gateway.local", 80)),
        ("unix:/run/sluice/sluice.sock", Address(unix="/run/sluice/sluice.sock")),
    ],
)
def test_address(text: str, address: Address) -> None:
    assert addresses.read_address(text) == address
    assert addresses.read_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8080", "expected HOST:PORT, [IPV6]:PORT or unix:PATH"),
        ("127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:", "expected HOST:PORT"),
        ("127.0.0.1:65536", "expected HOST:PORT"),
        ("127.0.0.1:080", "expected HOST:PORT"),
        (":8080", "names no host: 0.0.0.0:8080 is every IPv4 address"),
        ("::1:8080", "an IPv6 address stands in brackets: [::1]:8080"),
        ("[::g]:80", ""),
        ("*:80", "expected a host's name or address"),
        ("unix:", "expected unix:PATH"),
        ("http://127.0.0.1:80", "an IPv6 address stands in brackets"),
    ],
)
def test_address_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        addresses.read_address(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://10.0.0.11:8000", "http://10.0.0.11:8000"),
        ("https://Host.Example:8443/base/", "https://host.example:8443/base"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("http://vllm", "http://vllm"),
    ],
)
def test_base_url(text: str, url: str) -> None:
    assert addresses.read_base_url(text) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.11:8000", "expected a URL that begins with http:// or https://"),
        ("ftp://host", "expected a URL that begins with http:// or https://"),
        ("HTTP//host", "expected a URL that begins with"),
        ("http:///path", "names no host"),
        ("http://user:hunter2@host", "a URL here holds no user or password: secrets have a key of their own"),
        ("ftp://user:hunter2@host", "found something else"),
        ("http://host/?a=b", "no query and no fragment"),
        ("http://host/#x", "no query and no fragment"),
        ("http://host:0", "expected a port from 1 to 65535"),
        ("http://host:99999", "expected a port from 1 to 65535"),
        ("http://host:", "expected a port from 1 to 65535"),
        ("http://ho st", "expected a URL"),
        ("http://host/\n", "expected a URL"),
        ("http://host\\@evil", "expected a URL"),
        ("http://höst", "expected a URL"),
        ("http://[::1", ""),
    ],
)
def test_base_url_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        addresses.read_base_url(text)
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "redis+cluster", "redis+unix"])
def test_store_url(scheme: str) -> None:
    assert addresses.STORE_URL.read(f"{scheme}://host:6379/0") == f"{scheme}://host:6379/0"


@pytest.mark.parametrize("text", ["memory", "memory://x", "http://host", "redis://u:hunter2@host"])
def test_store_url_that_is_none(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        addresses.STORE_URL.read(text)
    assert "hunter2" not in str(caught.value)


def test_network() -> None:
    assert addresses.NETWORK.read("10.0.0.0/8") == ip_network("10.0.0.0/8")
    with pytest.raises(ValueError, match="has host bits set"):
        addresses.NETWORK.read("10.0.0.1/8")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (forms.NAME, "qwen-v1", "qwen-v1"),
        (forms.NAME, "2.5_b", "2.5_b"),
        (forms.MODEL, "Qwen/Qwen2-7B:awq", "Qwen/Qwen2-7B:awq"),
        (forms.GLOB, "qwen2-*", "qwen2-*"),
        (forms.GLOB, "qwen[23]-?b", "qwen[23]-?b"),
        (forms.PATH_GLOB, "/predict/*", "/predict/*"),
        (forms.URL_PATH, "auto", "auto"),
        (forms.AUTO_PORT, "9000", 9000),
        (forms.PROCESSES, "auto", "auto"),
        (forms.HEADER_NAME, "X-Team", "x-team"),
        (forms.HEADER_VALUE, " ml ", "ml"),
        (forms.BOUND, "<=2048", Bound("<=", 2048)),
        (forms.BOUND, "> 2k", Bound(">", 2000)),
        (forms.STEP, "50%", TextStep(50, True)),
        (forms.STEP, "2", TextStep(2, False)),
        (forms.OUTCOME, "not_sent", "not_sent"),
        (forms.OUTCOME, "503", 503),
        (forms.HASH_ON, "header:X-Session-Id", "header:X-Session-Id"),
        (forms.HASH_ON, "body:user", "body:user"),
        (forms.BOOL, "true", True),
        (forms.VERSION, "1", 1),
    ],
)
def test_form(kind: ScalarKind, text: str, value: Any) -> None:
    assert kind.read(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (forms.NAME, "a b", "expected a name (letters, digits, . _ -)"),
        (forms.NAME, "-a", "expected a name"),
        (forms.NAME, "a" * 64, "expected a name"),
        (forms.PLAN_NAME, "off", '"off" means that there is none'),
        (forms.MODEL, "", "expected a model's name"),
        (forms.MODEL, "a\nb", "expected a model's name"),
        (forms.GLOB, "qwen[2", 'a [ without its ] in "qwen[2"'),
        (forms.PATH_GLOB, "predict", "expected a path such as /predict/*"),
        (forms.PATH_GLOB, "/a?b", "expected a path such as /predict/*"),
        (forms.PATH_GLOB, "/a/../b", "a path here has no .."),
        (forms.AUTO_PORT, "x", "expected auto or a whole number"),
        (forms.HEADER_NAME, "x team", "expected a header's name"),
        (forms.HEADER_NAME, "Host", "host is set by the gateway itself"),
        (forms.HEADER_NAME, "Authorization", "authorization is sent by api_key"),
        (forms.HEADER_VALUE, "a\r\nb", "expected a header's value in printable ASCII"),
        (forms.ENV_NAME, "A-B", "expected an environment variable's name"),
        (forms.BOUND, "=2048", 'expected a comparison such as "<=2048"'),
        (forms.STEP, "0%", "must be more than 0"),
        (forms.OUTCOME, "not_sended", 'no outcome "not_sended", did you mean "not_sent"?'),
        (forms.OUTCOME, "600", 'no outcome "600"'),
        (forms.HASH_ON, "tennant", 'no hash_on "tennant", did you mean "tenant"?'),
        (forms.BOOL, "yes", 'expected true or false, found "yes"'),
        (forms.BOOL, "on", "expected true or false"),
        (forms.VERSION, "2", 'no version of this file\'s format "2" (known: 1)'),
        (forms.TEXT, "\0", "holds a NUL character"),
    ],
)
def test_form_that_is_none(kind: ScalarKind, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        kind.read(text)
    assert message in str(caught.value)


KINDS = [
    value for module in (forms, addresses) for value in vars(module).values() if isinstance(value, ScalarKind)
]  # fmt: skip


@given(st.text() | st.from_regex(r"[a-z+]{2,6}://[\[\]a-z0-9:@/?#%\\]{0,20}"))
def test_any_text_is_read_or_refused(text: str) -> None:
    readers: list[Callable[[str], Any]] = [kind.read for kind in KINDS]
    for read in readers:
        try:
            read(text)
        except ValueError as error:
            assert str(error)
