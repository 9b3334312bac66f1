"""Errors that responders raise in tests, and the tracebacks in the log."""

from __future__ import annotations

import asyncio
from typing import Any

import falcon
import pytest

from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.errors import ClosedError
from falcon_channels.errors import KeysUnavailableError
from falcon_channels.errors import ProtocolError
from falcon_channels.errors import PublicationTooLargeError
from falcon_channels.errors import TokenExpiredError
from falcon_channels.errors import TokenInvalidError
from falcon_channels.errors import UnknownChannelError
from falcon_channels.errors import UnsubscribedError


class Unprintable:
    """A description that cannot be converted to text."""

    def __str__(self) -> str:
        raise RuntimeError('no text')


#: Descriptions of an `HTTPForbidden`, by the kind of error.
REFUSALS: dict[str, Any] = {
    'http-dict': {'reason': 'closed'},
    'http-exception': ValueError('closed'),
    'http-surrogate': 'closed \ud800',
    'http-unprintable': Unprintable(),
    'http-long': 'closed ' * 1000,
}

#: Errors of the library that a call of the application raised, by the kind of error.
LIBRARY_ERRORS: dict[str, Exception] = {
    'unknown-channel': UnknownChannelError('secret'),
    'too-large': PublicationTooLargeError(2, 1),
    'unsubscribed': UnsubscribedError(2500, 'secret'),
    'protocol': ProtocolError('secret'),
}

#: Errors of the library that tell the client to try again, or that its token was
#: refused, by the kind of error.
KEPT_ERRORS: dict[str, Exception] = {
    'broker-unavailable': BrokerUnavailableError('secret'),
    'closed': ClosedError('secret'),
    'keys-unavailable': KeysUnavailableError('secret'),
    'token-expired': TokenExpiredError('secret'),
    'token-invalid': TokenInvalidError('secret'),
}

#: Kinds of errors that are bugs of the application.
BUGS = ('runtime', 'status', 'cancelled', 'bad-status', 'group', *LIBRARY_ERRORS)


async def fail(kind: str) -> None:
    """Raise an error of one kind."""
    if kind in REFUSALS:
        raise falcon.HTTPForbidden(description=REFUSALS[kind])
    if kind in LIBRARY_ERRORS:
        raise LIBRARY_ERRORS[kind]
    if kind in KEPT_ERRORS:
        raise KEPT_ERRORS[kind]
    if kind == 'status':
        raise falcon.HTTPStatus(falcon.HTTP_202)
    if kind == 'bad-status':
        raise falcon.HTTPError('nonsense')
    if kind == 'group':
        raise ExceptionGroup('several', [RuntimeError('one'), ValueError('two')])
    if kind == 'cancelled':
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task
    raise RuntimeError('secret of the server')


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages of all records with a traceback."""
    return [r.getMessage() for r in caplog.records if r.exc_info]
