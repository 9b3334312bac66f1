"""Read request bodies: limited in size, and validated against a type."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import falcon
import falcon.asgi
import msgspec

#: Enough for a message of 4,000 characters in the longest form that JSON allows.
MAX_JSON_BYTES = 64 * 1024

#: Minimum number of bytes that must arrive in each `TIMEOUT_S`; otherwise the upload
#: ends.
#: SECURITY: clients that send most of a body and then nothing would fill the memory.
MIN_BYTES = 16 * 1024
TIMEOUT_S = 15.0

T = TypeVar('T')


async def read_body(req: falcon.asgi.Request, limit_bytes: int) -> bytes:
    """Return the whole body.

    Args:
        req: The request.
        limit_bytes: Maximum size of the body in bytes.

    Raises:
        falcon.HTTPContentTooLarge: The body is larger than the limit. The bytes are
            counted even if ``Content-Length`` is missing or wrong.
        falcon.HTTPError: 408: less than `MIN_BYTES` arrived within `TIMEOUT_S`.
        falcon.HTTPBadRequest: The client left before the end of the body.
    """
    if (req.content_length or 0) <= limit_bytes:
        body = await _read(req, limit_bytes)
        if len(body) < (req.content_length or 0):
            raise falcon.HTTPBadRequest(
                description=f'The body has {len(body)} of {req.content_length} bytes.'
            )
        if len(body) <= limit_bytes:
            return body
    raise falcon.HTTPContentTooLarge(
        description=f'The body is larger than the limit of {limit_bytes} bytes.'
    )


async def _read(req: falcon.asgi.Request, limit_bytes: int) -> bytes:
    """Return the body, or its beginning if it is larger than the limit."""
    body = bytearray()
    expected_bytes = MIN_BYTES
    try:
        async with asyncio.timeout(TIMEOUT_S) as deadline:
            async for chunk in req.stream:
                body += chunk
                if len(body) > limit_bytes:
                    break
                if len(body) >= expected_bytes:
                    expected_bytes = len(body) + MIN_BYTES
                    deadline.reschedule(asyncio.get_running_loop().time() + TIMEOUT_S)
    except TimeoutError:
        raise falcon.HTTPError(
            408, description=f'The body did not arrive within {TIMEOUT_S:.0f} s.'
        ) from None
    return bytes(body)


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
    except (ValueError, RecursionError) as ex:
        # NOTE: ValueError is the base of msgspec's errors and of UnicodeDecodeError.
        raise falcon.HTTPUnprocessableEntity(description=str(ex)) from None
