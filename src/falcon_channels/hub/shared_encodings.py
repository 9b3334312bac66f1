"""Publications that many clients recover at once, encoded once.

When a process has restarted, all clients of a channel come back in the same seconds
and recover the same publications, each in an answer of its own. What is encoded for one
is kept for a moment, piece by piece: others missed more or less of it, and the channel
goes on while they come back.

Most clients come alone, so that the first who asks for a channel gets nothing, and
encodes its publications as if there were no others. What is kept goes after `KEEP_S`,
all at once, and never exceeds `MAX_KEPT_BYTES`: publications beyond that are encoded
for each client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Sequence
from typing import Any
from typing import Final

from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import Publication

#: How long pieces are kept, in seconds, from the first one.
KEEP_S: Final = 1.0

#: How many bytes may be kept, of publications and of what they were encoded to.
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024

#: About what Python needs to keep a piece, and a channel, beyond their own bytes.
_OVERHEAD_BYTES: Final = 256

#: The kept pieces of one encoding of a channel, by offset.
_Pieces = dict[int, tuple[Publication, Any]]


class SharedEncodings:
    """What was encoded a moment ago.

    Attributes:
        kept_bytes: How much is kept, about.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Pieces] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.kept_bytes = 0

    def pieces(
        self,
        key: Hashable,
        publications: Sequence[Publication],
        encode: Callable[[Publication], Any],
    ) -> list[Any] | None:
        """Return each publication encoded, or ``None`` to who comes first.

        Args:
            key: Names the encoding and the log.
            publications: Of that log.
            encode: Encodes one; with the same key it always does the same.

        Raises:
            Exception: What `encode` raises.
        """
        kept = self._kept.get(key)
        if kept is None:
            self._begin(key)
            return None
        found = []
        for publication in publications:
            piece = kept.get(publication.offset)
            # NOTE: a log that lost its end may give an offset to another publication.
            if piece is None or (
                piece[0] is not publication and piece[0] != publication
            ):
                piece = publication, encode(publication)
                self._keep(kept, piece)
            found.append(piece[1])
        return found

    def clear(self) -> None:
        """Keep nothing of what was encoded so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._kept = {}
        self.kept_bytes = 0

    def _begin(self, key: Hashable) -> None:
        if self.kept_bytes < MAX_KEPT_BYTES:
            self._kept[key] = {}
            self.kept_bytes += _OVERHEAD_BYTES
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(KEEP_S, self.clear)

    def _keep(self, kept: _Pieces, piece: tuple[Publication, Any]) -> None:
        publication = piece[0]
        size_bytes = 2 * approximate_size_bytes(publication) + _OVERHEAD_BYTES
        if self.kept_bytes + size_bytes <= MAX_KEPT_BYTES:
            kept[publication.offset] = piece
            self.kept_bytes += size_bytes
