"""Negotiation of permessage-deflate by this server (RFC 7692)."""

from __future__ import annotations

from collections.abc import Sequence

from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

from falcon_channels.transports.websocket_framing import DEFLATE
from falcon_channels.transports.websocket_framing import DEFLATE_MEMORY_LEVEL
from falcon_channels.transports.websocket_framing import DEFLATE_WINDOW_BITS
from falcon_channels.transports.websocket_framing import DeflateFraming
from falcon_channels.transports.websocket_framing import UNCOMPRESSED
from falcon_channels.transports.websocket_framing import UncompressedFraming


def deflate_factory() -> ServerPerMessageDeflateFactory:
    """Return the negotiator of permessage-deflate.

    It agrees to no context takeover in both directions and to one window size. A
    message compressed for one client is therefore valid for all others, and no zlib
    state is stored between messages.
    """
    return ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        client_no_context_takeover=True,
        server_max_window_bits=DEFLATE_WINDOW_BITS,
        compress_settings={'memLevel': DEFLATE_MEMORY_LEVEL},
    )


def outgoing_framing(
    extensions: Sequence[Extension],
) -> UncompressedFraming | DeflateFraming:
    """Return the framing of messages to a client with these extensions.

    NOTE: A client that asked for a smaller window than all others gets uncompressed
    messages. It must accept them (RFC 7692 section 6).
    """
    for extension in extensions:
        if (
            isinstance(extension, PerMessageDeflate)
            and extension.local_max_window_bits == DEFLATE_WINDOW_BITS
        ):
            return DEFLATE
    return UNCOMPRESSED
