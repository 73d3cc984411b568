"""One request's record."""

from gateway.observe.access_log import AccessLogEntry

FIELDS = """
time request_id client_request_id client key tenant plan method path model route pool endpoint status code stream
attempts outcome trail ms first_byte_ms overhead_ms queued_ms bytes_in bytes_out events prompt_tokens
completion_tokens client_gone degraded degraded_why cache
"""


def test_the_record_names_no_fields_so_their_order_is_held() -> None:
    """`Exchange.record` builds the log's entry by place."""
    assert AccessLogEntry.__struct_fields__ == tuple(FIELDS.split())
