"""Mapping of the codes of lower layers (a refusal's code, the kind of an UpstreamError) to an outcome and to the
client's error."""

from typing import Final

from backends.http1.interface import UpstreamError
from gateway import errors
from gateway.relay.relay import Relay
from policies.resilience import outcome as outcomes
from policies.resilience.outcome import Outcome

REFUSALS: Final = {
    "invalid_json": errors.InvalidJson,
    "invalid_request": errors.InvalidRequest,
    "field_not_allowed": errors.FieldNotAllowed,
    "unsupported_media_type": errors.UnsupportedMediaType,
    "context_length_exceeded": errors.ContextTooLong,
}
"""Codes of `RefusedBody` (`policies.request.describe`)."""
ROUTE_REFUSALS: Final = {
    "model_not_found": errors.ModelNotFound,
    "model_not_allowed": errors.ModelNotAllowed,
    "path_not_found": errors.PathNotFound,
}
"""Codes of `RouteRefused` (`policies.request.routing`)."""
NOT_SENT: Final = frozenset({"refused", "connect_timeout", "tls", "dns", "no_descriptor"})


def outcome_of(relay: Relay) -> Outcome:
    """Return the outcome of an answer of which the client got at least the head."""
    if relay.error is not None:
        return outcomes.BROKEN_OFF
    failed = relay.first_event_error or (relay.tap.error if relay.tap is not None else None)
    return outcomes.of_status(failed or relay.status)


def client_error(error: UpstreamError) -> errors.GatewayError:
    """Return the client's error: it names the kind of failure, never the address."""
    if error.kind == "connect_timeout":
        return errors.ConnectTimeout("The engine did not accept a connection in time.")
    if error.kind == "no_descriptor":
        return errors.NoEndpoint("The gateway has no file descriptor left. Try again shortly.", retry_after=1)
    if error.kind in NOT_SENT:
        return errors.UpstreamUnreachable(f"The engine could not be reached ({error.kind}).")
    if error.kind == "malformed":
        return errors.UpstreamFailed("The engine's answer was not valid HTTP.")
    return errors.UpstreamFailed("The engine closed the connection without an answer.")


def outcome_of_error(error: UpstreamError) -> Outcome:
    """Return the outcome of an attempt that brought no answer."""
    return outcomes.NOT_SENT if error.kind in NOT_SENT else outcomes.NO_ANSWER


def timeout_of(error: errors.AttemptTimeout) -> str:
    """Return the label of `timeouts_total` for the timeout that expired."""
    return error.code.removesuffix("_timeout")
