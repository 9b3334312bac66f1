"""Images: upload and download. The type of an image is checked by its first bytes."""

from __future__ import annotations

import falcon
import falcon.asgi

from falcon_channels_chat.rate_limit import RequestLimit
from falcon_channels_chat.request_body import read_body
from falcon_channels_chat.sessions import require_member
from falcon_channels_chat.settings import Settings
from falcon_channels_chat.store import Image
from falcon_channels_chat.store import Store

#: First bytes of a file, and its media type.
#: SECURITY: SVG is not accepted because an SVG file can contain scripts.
_SIGNATURES = (
    (b'\x89PNG\r\n\x1a\n', 'image/png'),
    (b'\xff\xd8\xff', 'image/jpeg'),
    (b'GIF87a', 'image/gif'),
    (b'GIF89a', 'image/gif'),
)


def image_type(data: bytes) -> str | None:
    """Detect the media type from the first bytes; ``None`` if it is not accepted."""
    if data[:4] == b'RIFF' and data[8:12] == b'WEBP':
        return 'image/webp'
    for signature, media_type in _SIGNATURES:
        if data.startswith(signature):
            return media_type
    return None


@falcon.before(require_member)
class Images:
    """``/api/images``: upload an image as the body of a POST."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._max_bytes = settings.max_image_bytes
        self._max_total_bytes = settings.max_images_bytes
        self._limit = RequestLimit(0.2, 5, settings.people_per_address)

    async def on_post(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Store an image and return its id, to which a message can refer."""
        self._limit.take(req)
        declared = (req.content_type or '').partition(';')[0].strip()
        if not declared.startswith('image/'):
            raise falcon.HTTPUnsupportedMediaType(
                description='The content type must be an image type.'
            )
        data = await read_body(req, self._max_bytes)
        media_type = image_type(data)
        if media_type is None or media_type != declared:
            raise falcon.HTTPUnsupportedMediaType(
                description='PNG, JPEG, GIF and WebP images can be sent.'
            )
        image_id = await self._store.add_image(
            req.context.member.id,
            Image(type=media_type, data=data),
            self._max_total_bytes,
        )
        if image_id is None:
            raise falcon.HTTPInsufficientStorage(
                description='The storage for images is full.'
            )
        resp.status = falcon.HTTP_201
        resp.location = f'/api/images/{image_id}'
        resp.media = {'id': image_id}


@falcon.before(require_member)
class OneImage:
    """``/api/images/{image_id}``: one image."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, image_id: str
    ) -> None:
        """Return an image with the media type that was detected at the upload."""
        image = await self._store.image(image_id)
        if image is None:
            raise falcon.HTTPNotFound(description='There is no such image.')
        resp.content_type = image.type
        resp.data = image.data
        resp.cache_control = ['private', 'max-age=86400', 'immutable']
        # SECURITY: an attacker may upload a file that a browser would run as a page.
        #   If the file is opened directly, the sandbox prevents that.
        resp.set_header('Content-Security-Policy', "default-src 'none'; sandbox")
