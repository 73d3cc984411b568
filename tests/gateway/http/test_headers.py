"""Which headers go on, in both directions (DESIGN rules 8 and 9)."""

from gateway.http.headers import downstream_filter, upstream_filter, upstream_head

CLIENT = [
    (b"host", b"gw"),
    (b"authorization", b"Bearer secret"),
    (b"x-api-key", b"secret"),
    (b"cookie", b"secret"),
    (b"content-type", b"application/json"),
    (b"x-tenant", b"acme"),
    (b"x-sluice-deadline", b"1s"),
    (b"x-forwarded-for", b"1.2.3.4"),
    (b"x-data-parallel-rank", b"0"),
    (b"te", b"trailers"),
    (b"upgrade", b"h2c"),
    (b"http2-settings", b"AAA"),
    (b"x-session-id", b"s"),
    (b"content-length", b"2"),
    (b"expect", b"100-continue"),
]


def test_credentials_hops_and_internal_headers_stay_here() -> None:
    kept = upstream_filter().kept(CLIENT, None)
    assert kept == [(b"content-type", b"application/json"), (b"x-tenant", b"acme"), (b"x-session-id", b"s")]


def test_headers_named_by_connection_go_too() -> None:
    kept = upstream_filter().kept(CLIENT, b"authorization, X-Tenant")
    assert kept == [(b"content-type", b"application/json"), (b"x-session-id", b"s")]


def test_an_underscore_makes_no_other_name_of_ours() -> None:
    """Servers behind CGI's kin read `x_request_id` as `x-request-id`, and the last of both wins."""
    spelled = [(name.replace(b"-", b"_"), value) for name, value in CLIENT]
    kept = upstream_filter().kept(spelled, None)
    assert [name for name, _ in kept] == [b"content_type", b"x_tenant", b"x_session_id"]
    assert not upstream_filter().passes(b"transfer_encoding")


def test_our_own_lines_stand_before_the_clients_and_cannot_be_stripped() -> None:
    kept = upstream_filter().kept(CLIENT, b"authorization")
    head = upstream_head(b"POST /x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer up\r\n", kept, "id1", 2)
    assert b"authorization: Bearer up\r\n" in head and b"secret" not in head
    assert head.endswith(b"x-request-id: id1\r\ncontent-length: 2\r\n\r\n")


def test_the_upstreams_credentials_and_our_names_do_not_come_down() -> None:
    answer = [
        (b"set-cookie", b"secret"),
        (b"connection", b"close"),
        (b"x-sluice-pool", b"fake"),
        (b"server", b"uvicorn"),
        (b"retry-after", b"1"),
    ]
    assert downstream_filter().kept(answer, b"close") == [(b"server", b"uvicorn"), (b"retry-after", b"1")]


def test_names_that_clients_make_up_are_not_remembered_without_end() -> None:
    names = upstream_filter()
    for number in range(5000):
        assert names.passes(b"x-%d" % number)
    assert len(names._verdicts) <= 1024
