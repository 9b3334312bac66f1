"""Parts of the opening handshake that ASGI and WSGI share (RFC 6455 section 4)."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from websockets.datastructures import Headers
from websockets.headers import parse_extension
from websockets.http11 import Response

#: The version of the protocol, in ``Sec-WebSocket-Version``.
VERSION = '13'

#: Bytes of the name of a header in lower case (RFC 9110 section 5.1).
HEADER_NAME_BYTES = b"!#$%&'*+-.0123456789^_`abcdefghijklmnopqrstuvwxyz|~"

#: Headers that `refusal_response` sets.
_OWN_HEADERS = ('connection', 'content-length', 'date')


def refusal_response(
    status: int,
    text: str = '',
    *,
    headers: Iterable[tuple[str, str]] = (
        ('Content-Type', 'text/plain; charset=utf-8'),
    ),
    body: bytes | None = None,
) -> Response:
    """Return an HTTP response that refuses a handshake and ends the connection.

    Args:
        status: HTTP status code.
        text: The body; by default the reason phrase of the status.
        headers: Headers, without those of the connection, the date and the length.
        body: The body as bytes, instead of `text`.

    Raises:
        ValueError: A header has illegal characters.
    """
    phrase = status_phrase(status)
    if body is None:
        body = f'{text or phrase}\n'.encode()
    fields = Headers(
        [
            ('Date', formatdate(usegmt=True)),
            ('Connection', 'close'),
            ('Content-Length', str(len(body))),
        ]
    )
    for name, value in headers:
        if name.lower() not in _OWN_HEADERS:
            fields[header_name(name)] = value
    return Response(status, phrase, fields, body)


def header_name(name: bytes | str) -> str:
    """Return the name of a header of the application as text.

    SECURITY: A line end in a name would add a header, or end the head.

    Raises:
        ValueError: The name has illegal characters (RFC 9110 section 5.1).
    """
    text = as_text(name)
    raw = text.lower().encode('latin-1', 'replace')
    if not raw or raw.translate(None, HEADER_NAME_BYTES):
        raise ValueError(
            f'{text!r} is not the name of a header; use letters, digits and hyphens'
        )
    return text


def as_text(value: bytes | str) -> str:
    """Return the name or value of a header as text."""
    return value if isinstance(value, str) else value.decode('latin-1')


def status_phrase(status: int) -> str:
    """Return the reason phrase of an HTTP status; ``''`` if the status is unknown."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ''


def check_extensions(values: Iterable[str]) -> None:
    """Check offers of extensions that are not going to be negotiated.

    NOTE: The protocol core parses an offer only if it has an extension to agree to.

    Args:
        values: Values of the ``Sec-WebSocket-Extensions`` headers.

    Raises:
        websockets.exceptions.InvalidHeader: An offer is malformed (RFC 6455 section
            9.1); answer with 400.
    """
    for value in values:
        parse_extension(value)
