"""Serve the built page from memory: a document, a script, a style sheet, an icon."""

from __future__ import annotations

import gzip
import mimetypes
from pathlib import Path
from typing import NamedTuple

import falcon
import falcon.asgi

FOLDER = Path(__file__).parent / 'page'

NOT_BUILT = (
    'the page of the chat is not built: run `make web` in the checkout, or install '
    'falcon-channels from PyPI'
)

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
        # The page never turns text into markup. With these two rules the browser
        # blocks any code that tries to.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)


def is_built() -> bool:
    """Return whether the page of this installation is built."""
    return (FOLDER / 'index.html').is_file()


class _File(NamedTuple):
    type: str
    data: bytes
    gzipped: bytes


class Page:
    """``/`` and ``/rooms/{room}``: the document; ``/assets/{name}``: its files.

    Args:
        folder: Folder of the built page.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        # SECURITY: the files are read once, and a request only looks up a name in this
        #   dict. An attacker who asks for `../app.py` therefore gets a 404.
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
        """Return the document. The script reads the room from the address."""
        if 'index.html' not in self._files:
            raise falcon.HTTPServiceUnavailable(description=NOT_BUILT)
        resp.set_header('Content-Security-Policy', CONTENT_SECURITY_POLICY)
        self._serve(req, resp, 'index.html')
        resp.cache_control = ['no-cache']

    async def on_get_asset(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str
    ) -> None:
        """Return a file. Its name contains a hash of its content."""
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
            resp.data = file.gzipped
        else:
            resp.data = file.data


class SafeHeaders:
    """Middleware: adds security headers to every response."""

    async def process_response(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        resource: object,
        req_succeeded: bool,
    ) -> None:
        """Set the headers; disable caching unless the resource allows it."""
        resp.set_header('X-Content-Type-Options', 'nosniff')
        resp.set_header('Referrer-Policy', 'same-origin')
        resp.set_header('Cross-Origin-Resource-Policy', 'same-origin')
        resp.set_header('Cross-Origin-Opener-Policy', 'same-origin')
        if resp.get_header('Cache-Control') is None:
            resp.cache_control = ['no-store']
