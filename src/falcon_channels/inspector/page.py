"""Serve the built page of the inspector from memory."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import NamedTuple

import falcon
import falcon.asgi

FOLDER = Path(__file__).parent / 'page'

NOT_BUILT = (
    'the page of the inspector is not built: run `make web` in the checkout, or '
    'install falcon-channels from PyPI'
)

_CONTENT_SECURITY_POLICY = '; '.join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # The page never converts text to HTML. With these two rules, the browser
        # blocks all code that does so.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)


def set_safe_headers(resp: falcon.asgi.Response) -> None:
    """Set the security headers of a response of the inspector."""
    resp.set_headers(
        {
            'Content-Security-Policy': _CONTENT_SECURITY_POLICY,
            'X-Content-Type-Options': 'nosniff',
            'X-Frame-Options': 'DENY',
            'Referrer-Policy': 'no-referrer',
            'Cross-Origin-Resource-Policy': 'same-origin',
            'Cross-Origin-Opener-Policy': 'same-origin',
            'Cache-Control': 'no-store',
        }
    )


class _File(NamedTuple):
    type: str
    data: bytes


class InspectorPage:
    """Serves the HTML document of the inspector, and its files below ``assets/``.

    Args:
        path: Path of the inspector.
        folder: Folder of the built page.
    """

    def __init__(self, path: str, folder: Path = FOLDER) -> None:
        # SECURITY: the files are read once, and a request only looks up a name in this
        #   dict. An attacker who requests `../page.py` therefore gets a 404.
        self._files = {
            file.name: _File(
                mimetypes.guess_type(file.name)[0] or 'application/octet-stream',
                file.read_bytes(),
            )
            for file in sorted(folder.rglob('*'))
            if file.is_file()
        }
        document = self._files.pop('index.html', None)
        # NOTE: the links of the document are relative, because a proxy may add a prefix
        #   to the path. They begin with the last part of the path, because the path of
        #   the document does not end with a slash.
        self._last = path.rpartition('/')[2]
        last = self._last.encode()
        self._document = (
            None
            if document is None
            else document.data.replace(b'"./assets/', b'"' + last + b'/assets/')
        )

    async def on_get(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Return the document. It contains no data, and needs no key."""
        set_safe_headers(resp)
        if self._document is None:
            raise falcon.HTTPServiceUnavailable(description=NOT_BUILT)
        resp.content_type = falcon.MEDIA_HTML
        resp.data = self._document

    async def on_get_slash(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response
    ) -> None:
        """Redirect to the path without the final slash."""
        raise falcon.HTTPTemporaryRedirect(f'../{self._last}')

    async def on_get_asset(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str
    ) -> None:
        """Return a file. Its name contains a hash of its content."""
        set_safe_headers(resp)
        file = self._files.get(name)
        if file is None:
            raise falcon.HTTPNotFound
        resp.content_type = file.type
        resp.data = file.data
        resp.set_header('Cache-Control', 'public, max-age=31536000, immutable')
