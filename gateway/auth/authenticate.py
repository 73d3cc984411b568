"""Authentication of credentials that the first check does not accept: waits for an issuer's newer keys, and refuses."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from backends.data_plane import DataPlane
from gateway import errors
from gateway.durations import whole_seconds
from policies.identity.guessing import HOLD, GuessingLimiter
from policies.identity.jwt_form import NOT_SIGNED, refused
from policies.identity.principal import AuthenticationError, KeysWanted, Principal, Reason

_REASONS: Final[dict[Reason, type[errors.GatewayError]]] = {
    "token_expired": errors.TokenExpired,
    "claim_missing": errors.ClaimMissing,
}
# Who sends nothing guesses nothing, and whose token lacks a claim was known. Tokens of a whole company end all day
# behind one address, and its clients get new ones upon a 401, not upon a 429; a guess that is over lets nobody in.
_NO_GUESS: Final = frozenset({"missing", "claim_missing", "token_expired"})

Doubt = AuthenticationError | KeysWanted
"""Result of `Authenticator.authenticate` for a credential that is not known to be good."""


class KeyRefresher(Protocol):
    """Fetcher of an issuer's keys (`backends.identity.jwks.KeySources`)."""

    async def want(self, name: str, /) -> str:
        """Wait briefly for newer keys; return `newest`, or `unknown` where the issuer does not answer."""


class SlowAuthentication:
    """Authentication that may wait for newer keys of an issuer, against the data plane's latest table."""

    def __init__(
        self, plane: DataPlane, keys: KeyRefresher, guessing: GuessingLimiter, failed: Callable[[Reason], None]
    ) -> None:
        """`failed` counts a credential that was missing or invalid."""
        self._plane = plane
        self._keys = keys
        self._guessing = guessing
        self._failed = failed

    async def later(
        self, doubt: Doubt, authorization: bytes | None, x_api_key: bytes | None, address: str
    ) -> Principal:
        """Return the principal of a credential from `address`, where newer keys of its issuer prove it. Raises
        GatewayError, after a delay where the address has failed too often."""
        try:
            if isinstance(doubt, AuthenticationError):
                raise doubt
            return await self._with_newer_keys(doubt, authorization, x_api_key)
        except AuthenticationError as error:
            # Without its frames, which hold it: a cycle that only the garbage collector would find.
            refused = error.with_traceback(None)
        raise await self._refusal(refused, address)

    async def _with_newer_keys(
        self, wanted: KeysWanted, authorization: bytes | None, x_api_key: bytes | None
    ) -> Principal:
        """Return the principal once newer keys prove it. A fetch already under way may have begun too early for the
        key, so a second one is awaited, and no further one (`backends.identity.jwks.COOLDOWN`)."""
        for _ in range(2):
            said = await self._keys.want(wanted.issuer)
            view = self._plane.view
            assert view is not None, "a request came through it"
            try:
                return view.authenticator.authenticate(authorization, x_api_key)
            except KeysWanted as again:
                wanted = again.with_traceback(None)
        if said == "newest":
            raise refused(NOT_SIGNED)
        raise errors.IdentityUnavailable(
            "The keys of the token's issuer cannot be fetched now. Try again shortly.", retry_after=2
        )

    async def _refusal(self, error: AuthenticationError, address: str) -> errors.GatewayError:
        view = self._plane.view
        if error.reason == "unknown" and view is not None and not view.table.keys_known:
            return errors.IdentityUnavailable("Keys cannot be read now. Try again shortly.", retry_after=2)
        self._failed(error.reason)
        wait = None if error.reason in _NO_GUESS else self._guessing.failed(address)
        if wait is None:
            return _REASONS.get(error.reason, errors.InvalidApiKey)(str(error))
        await asyncio.sleep(HOLD)
        return errors.RateLimited(
            "Too many credentials from this address were no good. Check the key before trying it again.",
            retry_after=whole_seconds(wait),
            headers=[(b"x-should-retry", b"false")],
        )
