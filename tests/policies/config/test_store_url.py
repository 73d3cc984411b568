"""What a store's URL says."""

from __future__ import annotations

import pytest

from policies.config.store_url import StoreTarget, read_target

HOST = [("h", 6379)]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://h", StoreTarget("single", HOST)),
        ("redis://h:1/", StoreTarget("single", [("h", 1)])),
        ("redis://h/5", StoreTarget("single", HOST, database=5)),
        ("redis://[::1]:7000/0", StoreTarget("single", [("::1", 7000)])),
        ("rediss://h:1/2", StoreTarget("single", [("h", 1)], tls=True, database=2)),
        ("redis+unix:///run/redis.sock", StoreTarget("unix", [("/run/redis.sock", 0)])),
        ("redis+unix:///run/a%20b.sock?db=3", StoreTarget("unix", [("/run/a b.sock", 0)], database=3)),
        ("redis+sentinel://a,b:1/main", StoreTarget("sentinel", [("a", 26379), ("b", 1)], service="main")),
        ("redis+sentinel://a/main/4", StoreTarget("sentinel", [("a", 26379)], service="main", database=4)),
        ("redis+cluster://a,b:7001,[::1]:7002", StoreTarget("cluster", [("a", 6379), ("b", 7001), ("::1", 7002)])),
        ("redis+cluster://a/0", StoreTarget("cluster", [("a", 6379)])),
    ],
)
def test_every_form(url: str, target: StoreTarget) -> None:
    assert read_target(url) == target


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://", "names no host"),
        ("redis://h:0", "a port from 1 to 65535"),
        ("redis://h:", "a port from 1 to 65535"),
        ("redis://h:99999", "a port from 1 to 65535"),
        ("redis://[::1/0", "IPV6|Invalid"),
        ("redis://h/a", "a database at most"),
        ("redis://h/0/1", "a database at most"),
        ("redis://h/0?timeout=5", "a database at most"),
        ("redis://a,b", "several hosts"),
        ("redis+sentinel://a,b", "found no service"),
        ("redis+sentinel://a,,b/main", "names no host"),
        ("redis+cluster://a/1", "database 0 only"),
        ("redis+unix://", "redis\\+unix:///PATH"),
        ("redis+unix:///s?db=x", "redis\\+unix:///PATH"),
    ],
)
def test_what_is_of_no_use_is_said(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_target(url)
