"""permessage-deflate as this server negotiates it (RFC 7692)."""

from __future__ import annotations

from collections.abc import Sequence

from websockets.exceptions import NegotiationError
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.typing import ExtensionParameter

from falcon_channels.transports.framing import DEFLATE_MEMORY_LEVEL
from falcon_channels.transports.framing import DEFLATE_WINDOW_BITS


class DeflateFactory(ServerPerMessageDeflateFactory):
    """Agree to no context takeover both ways and to one window for all.

    A message compressed for one client is then right for every other one, and no
    zlib state is kept between messages. An offer that asks for a smaller window of
    the server is declined: that client gets its messages uncompressed.
    """

    def __init__(self) -> None:
        super().__init__(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            server_max_window_bits=DEFLATE_WINDOW_BITS,
            compress_settings={'memLevel': DEFLATE_MEMORY_LEVEL},
        )

    def process_request_params(
        self,
        params: Sequence[ExtensionParameter],
        accepted_extensions: Sequence[Extension],
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Return the answer to one offer and the extension.

        Raises:
            NegotiationError: The offer is malformed or asks for a smaller window.
        """
        answer, extension = super().process_request_params(params, accepted_extensions)
        if extension.local_max_window_bits != DEFLATE_WINDOW_BITS:
            raise NegotiationError('the server has one window size for all')
        return answer, extension
