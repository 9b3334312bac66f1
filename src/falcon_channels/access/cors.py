"""Answers that a page of an allowed origin may read (CORS)."""

from __future__ import annotations

import falcon

from falcon_channels.access.handshake import Handshake


def allow_origin(
    handshake: Handshake, req: falcon.Request, resp: falcon.Response
) -> None:
    """Check the origin of a request, and let its page read the answer (CORS).

    Raises:
        falcon.HTTPError: See `Handshake.check_origin`.
    """
    handshake.check_origin(req)
    origin = req.get_header('Origin')
    resp.append_header('Vary', 'Origin')
    if origin is not None:
        resp.set_header('Access-Control-Allow-Origin', origin)
        resp.set_header('Access-Control-Allow-Credentials', 'true')
