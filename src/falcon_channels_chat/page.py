"""The built page: a document, a script, a style sheet and an icon, from memory."""

from __future__ import annotations

import gzip
import mimetypes
from pathlib import Path
from typing import NamedTuple

import falcon
import falcon.asgi

FOLDER = Path(__file__).parent / 'page'

CONTENT_SECURITY_POLICY = '; '.join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # Nothing in the page turns text into markup, and the browser holds us to it.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)


class _File(NamedTuple):
    type: str
    data: bytes
    packed: bytes


class Page:
    """``/`` and ``/rooms/{room}``, the same document, and its ``/assets/{name}``."""

    def __init__(self, folder: Path = FOLDER) -> None:
        # NOTE: a few files, read once: what is not in this dict cannot be asked for.
        self._files = {
            path.name: _File(
                mimetypes.guess_type(path.name)[0] or 'application/octet-stream',
                data := path.read_bytes(),
                gzip.compress(data, 9, mtime=0),
            )
            for path in sorted(folder.rglob('*'))
            if path.is_file()
        }

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, room: str = ''
    ) -> None:
        """Serve the document."""
        if 'index.html' not in self._files:
            raise falcon.HTTPServiceUnavailable(
                description='The page is not built: run `make web`.'
            )
        resp.set_header('Content-Security-Policy', CONTENT_SECURITY_POLICY)
        self._serve(req, resp, 'index.html')
        resp.cache_control = ['no-cache']

    async def on_get_asset(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str
    ) -> None:
        """Serve a file whose name changes with what is in it."""
        if name not in self._files:
            raise falcon.HTTPNotFound
        self._serve(req, resp, name)
        resp.cache_control = ['public', 'max-age=31536000', 'immutable']

    def _serve(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str
    ) -> None:
        file = self._files[name]
        resp.content_type = file.type
        resp.append_header('Vary', 'Accept-Encoding')
        if 'gzip' in (req.get_header('Accept-Encoding') or ''):
            resp.set_header('Content-Encoding', 'gzip')
            resp.data = file.packed
        else:
            resp.data = file.data


class SafeHeaders:
    """Middleware: what every answer says to the browser."""

    async def process_response(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        resource: object,
        req_succeeded: bool,
    ) -> None:
        """Set the headers; nothing is cached unless it says so."""
        resp.set_header('X-Content-Type-Options', 'nosniff')
        resp.set_header('Referrer-Policy', 'same-origin')
        resp.set_header('Cross-Origin-Resource-Policy', 'same-origin')
        resp.set_header('Cross-Origin-Opener-Policy', 'same-origin')
        if resp.get_header('Cache-Control') is None:
            resp.cache_control = ['no-store']
