"""Every error that a client can get: class -> status, code and body. This module is the only writer of error bodies.

GatewayError
 +- InvalidJson 400            invalid_json              +- UriTooLong 414           uri_too_long
 +- InvalidRequest 400         invalid_request           +- HeadersTooLarge 431      headers_too_large
 +- FieldNotAllowed 400        field_not_allowed         +- UpstreamUnreachable 502  upstream_unreachable
 +- BadHost 400                bad_host                  +- UpstreamFailed 502       upstream_error
 +- InvalidApiKey 401          invalid_api_key           +- NoEndpoint 503           no_endpoint_available
 |   +- TokenExpired 401       token_expired             +- IdentityUnavailable 503  identity_unavailable
 +- ContextTooLong 400         context_length_exceeded   |   (an issuer's keys are not known)
 +- ClaimMissing 403           claim_missing             +- StoreUnavailable 503     store_unavailable
 +- ModelNotAllowed 403        model_not_allowed         +- ShuttingDown 503         shutting_down
 +- ScopeNotAllowed 403        scope_not_allowed         +- ConnectTimeout 504       connect_timeout
 +- ModelNotFound 404          model_not_found           +- FirstByteTimeout 504     first_byte_timeout
 +- PathNotFound 404           path_not_found            +- IdleTimeout 504          idle_timeout
 +- MethodNotAllowed 405       method_not_allowed        +- AttemptTimeout 504       attempt_timeout
 +- HeaderTimeout 408          header_timeout            +- DeadlineExceeded 504     deadline_exceeded
 +- BodyTimeout 408            body_timeout              +- StreamBroken             stream_broken (in a begun stream)
 +- BodyTooLarge 413           body_too_large            +- InternalError 500        internal_error (a fault of ours)
 +- UnsupportedMediaType 415   unsupported_media_type
 +- RateLimited 429            rate_limit_exceeded (requests or tokens in a time; failed credentials)
 +- ConcurrencyLimited 429     concurrency_limit_exceeded
 +- QuotaExceeded 429          insufficient_quota
 +- QueueFull 429              queue_full
 +- QueueTimeout 504           queue_timeout

The body's shape is that of the path's family: OpenAI's, Anthropic's under /v1/messages, Triton's under /v2, TGI's on
its own paths.
"""

from collections.abc import Sequence

from policies import codec

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
# Anthropic's clients know two more words: https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {413: "request_too_large", 503: "overloaded_error"}


class GatewayError(Exception):
    """Error that the gateway itself answers. `message` names the cause and the fix, never an address or a secret."""

    status: int = 500
    code: str = "internal_error"
    why: str | None = None
    """Label of the attempt's outcome, where the error replaces an engine's own answer."""

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: int | None = None, allow: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:  # fmt: skip
        """`retry_after` is in seconds; `headers` go with the answer, after those that every one has."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.allow = allow
        self.headers = headers

    @property
    def type(self) -> str:
        """The OpenAI error type that belongs to the status."""
        return _TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")


class InvalidJson(GatewayError):
    status, code = 400, "invalid_json"


class InvalidRequest(GatewayError):
    status, code = 400, "invalid_request"


class BadHost(GatewayError):
    status, code = 400, "bad_host"


class FieldNotAllowed(GatewayError):
    status, code = 400, "field_not_allowed"


class ContextTooLong(GatewayError):
    status, code = 400, "context_length_exceeded"


class InvalidApiKey(GatewayError):
    status, code = 401, "invalid_api_key"


class TokenExpired(InvalidApiKey):
    code = "token_expired"


class ClaimMissing(GatewayError):
    status, code = 403, "claim_missing"


class ModelNotAllowed(GatewayError):
    status, code = 403, "model_not_allowed"


class ScopeNotAllowed(GatewayError):
    status, code = 403, "scope_not_allowed"


class ModelNotFound(GatewayError):
    status, code = 404, "model_not_found"


class PathNotFound(GatewayError):
    status, code = 404, "path_not_found"


class MethodNotAllowed(GatewayError):
    status, code = 405, "method_not_allowed"


class HeaderTimeout(GatewayError):
    status, code = 408, "header_timeout"


class BodyTimeout(GatewayError):
    status, code = 408, "body_timeout"


class BodyTooLarge(GatewayError):
    status, code = 413, "body_too_large"


class UriTooLong(GatewayError):
    status, code = 414, "uri_too_long"


class UnsupportedMediaType(GatewayError):
    status, code = 415, "unsupported_media_type"


class HeadersTooLarge(GatewayError):
    status, code = 431, "headers_too_large"


class RateLimited(GatewayError):
    """Too many requests or tokens in a period; `gateway.limits.limit_error` makes the message."""

    status, code = 429, "rate_limit_exceeded"


class ConcurrencyLimited(GatewayError):
    status, code = 429, "concurrency_limit_exceeded"


class QuotaExceeded(GatewayError):
    status, code = 429, "insufficient_quota"


class QueueFull(GatewayError):
    status, code = 429, "queue_full"


class InternalError(GatewayError):
    """Fault of the gateway: the log has the traceback, the client's answer has not."""


class UpstreamUnreachable(GatewayError):
    status, code = 502, "upstream_unreachable"


class UpstreamFailed(GatewayError):
    status, code = 502, "upstream_error"


class NoEndpoint(GatewayError):
    status, code = 503, "no_endpoint_available"


class StoreUnavailable(GatewayError):
    status, code = 503, "store_unavailable"


class IdentityUnavailable(GatewayError):
    """The credential cannot be checked now: the issuer's keys are not known."""

    status, code = 503, "identity_unavailable"


class ShuttingDown(GatewayError):
    status, code = 503, "shutting_down"


def no_endpoint(pool: str, reason: str, seconds: int) -> NoEndpoint:
    """Return the error of a pool without a candidate: `reason` is one of `NoCandidate`, `seconds` the Retry-After."""
    return NoEndpoint(
        f"No endpoint of pool {pool} is available now ({reason}). Try again in {seconds} s.", retry_after=seconds
    )


def shutting_down() -> ShuttingDown:
    """Return the error of every request that the gateway's shutdown leaves without an answer."""
    return ShuttingDown("The gateway is shutting down. Try again.", retry_after=1)


class ConnectTimeout(GatewayError):
    status, code = 504, "connect_timeout"


class AttemptTimeout(GatewayError):
    """Attempt that took too long; another one may follow."""

    status, code = 504, "attempt_timeout"


class FirstByteTimeout(AttemptTimeout):
    code = "first_byte_timeout"


class IdleTimeout(AttemptTimeout):
    code = "idle_timeout"


class QueueTimeout(GatewayError):
    """The wait for a slot of the pool was too long, or would be."""

    status, code = 504, "queue_timeout"


class DeadlineExceeded(GatewayError):
    status, code = 504, "deadline_exceeded"


class StreamBroken(GatewayError):
    """Stream that broke after its beginning: the status is sent already, so an event in the stream reports it."""

    status, code = 502, "stream_broken"


def error_body(error: GatewayError, family: str) -> bytes:
    """The JSON body of an error in the shape of a path's family: openai, anthropic, triton or tgi."""
    return codec.encode(_shape(error, family))


def error_event(error: GatewayError, family: str, *, named: bool) -> bytes:
    """Return one SSE event that reports an error in a begun stream, in the path's dialect.

    `named` dialects (Anthropic's messages, OpenAI's responses) mark it with `event: error`. There is never a `[DONE]`
    after it.
    """
    body = codec.encode(_shape(error, family))
    return b"event: error\ndata: " + body + b"\n\n" if named else b"data: " + body + b"\n\n"


def _shape(error: GatewayError, family: str) -> dict[str, object]:
    if family == "anthropic":
        kind = _ANTHROPIC_TYPES.get(error.status, error.type)
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    if family == "triton":
        return {"error": error.message}
    if family == "tgi":
        return {"error": error.message, "error_type": error.code}
    detail = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": detail}
