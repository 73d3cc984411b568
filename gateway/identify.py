"""Who a client is, in the words of the errors that it gets; the one place that waits for an issuer's keys."""

from typing import Final, Protocol

from backends.plane import DataPlane, View
from gateway import errors
from policies.identity import AuthenticationError, KeysWanted, Principal, Reason

_REASONS: Final[dict[Reason, type[errors.GatewayError]]] = {
    "token_expired": errors.TokenExpired,
    "claim_missing": errors.ClaimMissing,
}


class Keys(Protocol):
    """Who has an issuer's keys fetched (`backends.jwks.KeySources`)."""

    async def want(self, name: str, /) -> str:
        """Wait a little for newer keys: `newest`, or `unknown` where the issuer cannot be asked."""


class Identity:
    """Of the data plane's newest keys, once a request has had to wait for some."""

    def __init__(self, plane: DataPlane, keys: Keys) -> None:
        self._plane = plane
        self._keys = keys

    async def later(self, wanted: KeysWanted, authorization: bytes | None, x_api_key: bytes | None) -> Principal:
        """What `identify` says with newer keys. A fetch that was under way already may have begun too early for the
        key, so a second one is waited for; another is not made (`backends.jwks.COOLDOWN`). Raises GatewayError."""
        for _ in range(2):
            said = await self._keys.want(wanted.issuer)
            view = self._plane.view
            assert view is not None, "a request came through it"
            try:
                return identify(view, authorization, x_api_key)
            except KeysWanted as again:
                wanted = again
        if said == "newest":
            raise errors.InvalidApiKey("The token was not accepted: its issuer has no such key.")
        raise errors.IdentityUnavailable(
            "The keys of the token's issuer cannot be fetched now. Try again shortly.", retry_after=2
        )


def identify(view: View, authorization: bytes | None, x_api_key: bytes | None) -> Principal:
    """The principal of a credential. Raises GatewayError; KeysWanted where it needs keys that are not here yet."""
    try:
        return view.authenticator.authenticate(authorization, x_api_key)
    except AuthenticationError as error:
        raise _REASONS.get(error.reason, errors.InvalidApiKey)(str(error)) from None
