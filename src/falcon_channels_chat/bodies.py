"""Bodies of requests: bounded, of the type that was asked for, checked."""

from __future__ import annotations

from typing import TypeVar

import falcon
import falcon.asgi
import msgspec

#: 4,000 characters of JSON, each as long as JSON can write one, and some room.
MAX_JSON_BYTES = 64 * 1024

T = TypeVar('T')


async def read_body(req: falcon.asgi.Request, limit_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        falcon.HTTPContentTooLarge: It is larger than the limit, whatever its
            ``Content-Length`` says.
    """
    body = b''
    if (req.content_length or 0) <= limit_bytes:
        body = await req.stream.read(limit_bytes + 1)
        if len(body) <= limit_bytes:
            return body
    raise falcon.HTTPContentTooLarge(
        description=f'The body is over the limit of {limit_bytes} bytes.'
    )


async def read_json(req: falcon.asgi.Request, shape: type[T]) -> T:
    """Return the body as a value of a type.

    Raises:
        falcon.HTTPUnsupportedMediaType: It is not declared as JSON.
        falcon.HTTPUnprocessableEntity: It is no such value; says where.
        falcon.HTTPContentTooLarge: It is too large.
    """
    # SECURITY: a form of another site can post text/plain, form data and nothing
    #   else; with this it cannot post here even if its Origin were not looked at.
    if (req.content_type or '').partition(';')[0].strip() != falcon.MEDIA_JSON:
        raise falcon.HTTPUnsupportedMediaType(
            description='Send application/json, please.'
        )
    body = await read_body(req, MAX_JSON_BYTES)
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, RecursionError) as ex:
        raise falcon.HTTPUnprocessableEntity(description=str(ex)) from None
