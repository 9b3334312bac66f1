"""Identify the user of a connection: by its token, by ``on_connect``, or by both."""

from __future__ import annotations

from falcon_channels.access.subscribing import TokenClaims
from falcon_channels.endpoint.client_connection import ClientConnection
from falcon_channels.endpoint.refusals import EndedError
from falcon_channels.endpoint.refusals import RefusedError
from falcon_channels.errors import TokenExpiredError
from falcon_channels.errors import TokenInvalidError
from falcon_channels.protocol import codes
from falcon_channels.tokens import TokenVerifier


async def authenticate(connection: ClientConnection) -> None:
    """Identify the user of a new connection.

    Raises:
        TokenExpiredError: The client fetches a new token.
        TokenInvalidError: The client must not connect again.
        KeysUnavailableError: The client connects again.
        EndedError: The client has no token, but one is needed.
        falcon.HTTPError: ``on_connect`` refused.
    """
    endpoint = connection.endpoint
    if endpoint.tokens is not None:
        if connection.token:
            await endpoint.tokens.prepare(connection.token)
            connection.apply_token(endpoint.tokens.connection(connection.token))
        elif endpoint.on_connect is None and not endpoint.options.allow_anonymous:
            bad = codes.DISCONNECT_BAD_REQUEST
            raise EndedError(bad._replace(reason='a token is needed'))
    if endpoint.on_connect is not None:
        await endpoint.operations.responder(
            'on_connect', endpoint.on_connect(connection.req, connection)
        )
        connection.note_accepted()


async def refresh(connection: ClientConnection, token: str) -> None:
    """Verify a new connection token, and ask ``on_refresh``.

    SECURITY: a client whose refresh is refused has the same rights as before, and its
    connection ends at the same time as before.

    Raises:
        EndedError: The token is invalid, expired or another user's.
        KeysUnavailableError: The client sends the token again.
        RefusedError: The endpoint has neither tokens nor ``on_refresh``.
        falcon.HTTPError: ``on_refresh`` refused.
    """
    rights, num_commands = connection.rights, connection.num_commands
    try:
        await _refresh(connection, token)
    except BaseException:
        if connection.num_commands == num_commands:
            connection.restore_rights(rights)
        else:
            # NOTE: a command of the application may have changed the rights, too. The
            #   client connects again, and is asked for its token.
            connection.disconnect(*codes.DISCONNECT_EXPIRED)
        raise


async def _refresh(connection: ClientConnection, token: str) -> None:
    endpoint = connection.endpoint
    if endpoint.tokens is not None:
        try:
            await endpoint.tokens.prepare(token)
            claims = endpoint.tokens.connection(token)
        except TokenExpiredError:
            raise EndedError(codes.DISCONNECT_EXPIRED) from None
        except TokenInvalidError:
            raise EndedError(codes.DISCONNECT_INVALID_TOKEN) from None
        if claims.user != connection.user:
            raise EndedError(codes.DISCONNECT_INVALID_TOKEN)
        connection.apply_token(claims)
    connection.renew_token(token)
    if endpoint.on_refresh is not None:
        await endpoint.operations.responder(
            'on_refresh', endpoint.on_refresh(connection.req, connection)
        )
    elif endpoint.tokens is None:
        raise RefusedError(codes.NOT_AVAILABLE)


async def verify_subscription_token(
    tokens: TokenVerifier | None, user: str, channel: str, token: str
) -> TokenClaims:
    """Verify a subscription token; return its claims.

    Args:
        tokens: Verifier of the endpoint.
        user: User of the connection.
        channel: Channel of the subscription.
        token: Token that the client sent.

    Raises:
        RefusedError: The endpoint has no verifier.
        TokenExpiredError: The client fetches a new token.
        TokenInvalidError: The client may not subscribe.
        KeysUnavailableError: The client subscribes again.
        EndedError: The token is another user's, or names another channel.
    """
    if tokens is None:
        raise RefusedError(codes.NOT_AVAILABLE)
    await tokens.prepare(token)
    claims = tokens.subscription(token)
    if (claims.user, claims.channel) != (user, channel):
        raise EndedError(codes.DISCONNECT_INVALID_TOKEN)
    return TokenClaims(claims.info, claims.expires_at, claims.filter)
