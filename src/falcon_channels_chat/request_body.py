"""Read request bodies: limited in size, and validated against a type."""

from __future__ import annotations

from typing import TypeVar

import falcon
import falcon.asgi
import msgspec

#: Enough for a message of 4,000 characters in the longest form that JSON allows.
MAX_JSON_BYTES = 64 * 1024

T = TypeVar('T')


async def read_body(req: falcon.asgi.Request, limit_bytes: int) -> bytes:
    """Return the whole body.

    Args:
        req: The request.
        limit_bytes: Maximum size of the body in bytes.

    Raises:
        falcon.HTTPContentTooLarge: The body is larger than the limit. The bytes are
            counted even if ``Content-Length`` is missing or wrong.
    """
    body = b''
    if (req.content_length or 0) <= limit_bytes:
        body = await req.stream.read(limit_bytes + 1)
        if len(body) <= limit_bytes:
            return body
    raise falcon.HTTPContentTooLarge(
        description=f'The body is larger than the limit of {limit_bytes} bytes.'
    )


async def read_json(req: falcon.asgi.Request, body_type: type[T]) -> T:
    """Return the JSON body, converted to a type.

    Args:
        req: The request.
        body_type: Type of the result, usually a `msgspec.Struct`.

    Raises:
        falcon.HTTPUnsupportedMediaType: The content type is not JSON.
        falcon.HTTPUnprocessableEntity: The body does not match the type; the
            description names the invalid field.
        falcon.HTTPContentTooLarge: The body is larger than `MAX_JSON_BYTES`.
    """
    # SECURITY: a form on another site can only post text/plain and form data (CSRF).
    #   Because only JSON is accepted, such a form is refused even without the check
    #   of Origin.
    if (req.content_type or '').partition(';')[0].strip() != falcon.MEDIA_JSON:
        raise falcon.HTTPUnsupportedMediaType(
            description='The content type must be application/json.'
        )
    body = await read_body(req, MAX_JSON_BYTES)
    try:
        return msgspec.json.decode(body, type=body_type)
    except (msgspec.DecodeError, RecursionError) as ex:
        raise falcon.HTTPUnprocessableEntity(description=str(ex)) from None
