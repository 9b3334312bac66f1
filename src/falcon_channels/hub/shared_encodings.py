"""Publications that many clients recover at the same time, encoded once.

After a restart of a process, all clients of a channel reconnect within seconds. They
recover the same publications, each in a reply of its own. Each encoded publication (a
*piece*) is stored for a moment and shared. Publications are encoded one by one, because
the clients have missed different numbers of them.

Most clients reconnect alone. The first request for a channel therefore stores nothing,
and the caller encodes the publications itself. All pieces are dropped after `CACHE_S`
seconds. They never exceed `MAX_CACHED_BYTES`: publications beyond that are encoded for
each client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Sequence
from typing import Any
from typing import Final

from falcon_channels.publication import approximate_size_bytes
from falcon_channels.publication import approximate_total_bytes
from falcon_channels.publication import Publication
from falcon_channels.transports.encoders import Encoder

#: Seconds after which all pieces are dropped, from the first request on.
CACHE_S: Final = 1.0

#: Largest size of all stored publications and their encoded forms.
MAX_CACHED_BYTES: Final = 16 * 1024 * 1024

#: Approximate memory of Python objects for a piece or a channel, without its bytes.
_OVERHEAD_BYTES: Final = 256


class _Pieces:
    """The pieces of one encoding of a channel.

    Attributes:
        by_offset: Publications and their pieces, by offset.
        publications: Publications of the last request whose pieces are all stored.
        found: Pieces of `publications`.
    """

    __slots__ = ('by_offset', 'found', 'publications')

    def __init__(self) -> None:
        self.by_offset: dict[int, tuple[Publication, Any]] = {}
        self.publications: Sequence[Publication] = []
        self.found: list[Any] = []


class SharedEncodings:
    """Pieces that were encoded within the last second.

    Attributes:
        cached_bytes: Approximate size of all stored pieces.
    """

    def __init__(self) -> None:
        self._pieces: dict[Hashable, _Pieces] = {}
        self._timer: asyncio.TimerHandle | None = None
        #: Publications of the last call of `size_bytes`, and their size in bytes.
        self._sized: tuple[Sequence[Publication], int] = [], 0
        self.cached_bytes = 0

    def pieces(
        self,
        key: Hashable,
        publications: Sequence[Publication],
        encode: Callable[[Publication], Any],
    ) -> list[Any] | None:
        """Return each publication encoded, or ``None`` for the first request of a key.

        The list is shared with other callers: do not change it.

        Args:
            key: Identifies the encoding and the log.
            publications: Publications of that log.
            encode: Encodes one publication, always in the same way for the same key.

        Raises:
            Exception: Any exception of `encode`.
        """
        pieces = self._pieces.get(key)
        if pieces is None:
            self._begin(key)
            return None
        # PERF: clients that reconnect together have mostly missed the same
        #   publications. The two lists then have the same objects, and the comparison
        #   is fast (benchmarks/centrifugo.py).
        if publications == pieces.publications:
            return pieces.found
        found = []
        for publication in publications:
            piece = pieces.by_offset.get(publication.offset)
            # NOTE: a log that lost its newest publications may reuse their offsets.
            #   The publications themselves are therefore compared.
            if piece is None or (
                piece[0] is not publication and piece[0] != publication
            ):
                piece = publication, encode(publication)
                self._store(pieces, piece)
            found.append(piece[1])
        # NOTE: while half of the space is free, `_store` has stored all of them.
        if self.cached_bytes < MAX_CACHED_BYTES // 2:
            pieces.publications, pieces.found = publications, found
        return found

    def encode(
        self,
        encoder: Encoder,
        channel: str,
        publications: Sequence[Publication],
        epoch: str,
    ) -> Any:
        """Return one blob with recovered publications, made of shared pieces.

        Raises:
            PayloadError: A publication has no form in this encoding.
        """
        blobs = self.pieces(
            (encoder, channel, epoch),
            publications,
            lambda publication: encoder.encode(channel, [publication], epoch),
        )
        if blobs is None:
            return encoder.encode(channel, publications, epoch)
        return encoder.framing.join(blobs)

    def size_bytes(self, publications: Sequence[Publication]) -> int:
        """Return the approximate size of publications, as sent to a client.

        PERF: see `pieces`.
        """
        if publications == self._sized[0]:
            return self._sized[1]
        size_bytes = approximate_total_bytes(publications)
        if self._timer is not None:
            self._sized = publications, size_bytes
        return size_bytes

    def clear(self) -> None:
        """Drop all pieces."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pieces = {}
        self._sized = [], 0
        self.cached_bytes = 0

    def _begin(self, key: Hashable) -> None:
        if self.cached_bytes < MAX_CACHED_BYTES:
            self._pieces[key] = _Pieces()
            self.cached_bytes += _OVERHEAD_BYTES
            if self._timer is None:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(CACHE_S, self.clear)

    def _store(self, pieces: _Pieces, piece: tuple[Publication, Any]) -> None:
        publication = piece[0]
        size_bytes = 2 * approximate_size_bytes(publication) + _OVERHEAD_BYTES
        if self.cached_bytes + size_bytes <= MAX_CACHED_BYTES:
            pieces.by_offset[publication.offset] = piece
            self.cached_bytes += size_bytes
