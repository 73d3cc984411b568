"""Descriptions of the fields of an access-log line, in its order; source of the table in gateway/README.md."""

from collections.abc import Mapping
from typing import Final

ACCESS_LOG_FIELDS: Final[Mapping[str, str]] = {
    "time": "time at which the first byte of the request arrived, UTC",
    "request_id": "the gateway's id of the request, also in `x-request-id`",
    "client_request_id": "the client's own `x-request-id`, where the gateway does not take it over",
    "client": "address of the client",
    "key": "id of the API key, or ISSUER/SUBJECT of a token; never the credential",
    "tenant": "tenant of the key or token",
    "plan": "plan of the key or token",
    "method": "HTTP method",
    "path": "path without its query",
    "model": "model that the client named",
    "route": "route that matched",
    "pool": "pool of the route, or of the fallback that answered",
    "endpoint": "endpoint of the last attempt",
    "status": "HTTP status that the client got; 499 if the client left before",
    "code": "the gateway's error code, if the answer or its last event was the gateway's own",
    "stream": "whether the client requested a stream",
    "attempts": "number of attempts",
    "outcome": "outcome of the last attempt",
    "trail": "endpoint, outcome and milliseconds of every attempt",
    "ms": "first byte in to last byte out",
    "first_byte_ms": "time to the first content of a stream, else to the first byte of the answer",
    "overhead_ms": "part of the time that the gateway itself took",
    "queued_ms": "wait for a slot of the pool",
    "bytes_in": "size of the request body",
    "bytes_out": "size of the answer's body",
    "events": "reads of a stream that were passed on",
    "prompt_tokens": "tokens of the prompt",
    "completion_tokens": "tokens of the answer",
    "client_gone": "phase in which the client left",
    "degraded": "what replaced the route's own answer: `cache`, `message`, or the label of a fallback's pool",
    "degraded_why": "error code or engine status for which the route's own pool did not answer",
    "cache": "result of the cache lookup: `hit`, `stale`, `miss`, `bypass`, `store_error`, `shared`; null without one",
}
