"""A client with delta: it restores each payload with the decoder of the Python SDK."""

from __future__ import annotations

from typing import Any

from centrifuge.fossil import apply_delta


class DeltaReader:
    """Restores the payloads of one subscription, as an SDK does.

    Attributes:
        base: The payload that was received last, or ``None`` for none yet.
        payloads: All payloads, in order.
        num_deltas: How many of them were received as deltas.
    """

    def __init__(self) -> None:
        self.base: bytes | None = None
        self.payloads: list[bytes] = []
        self.num_deltas = 0

    def read(self, publication: dict[str, Any]) -> bytes:
        """Return the payload of a publication in JSON."""
        return self.take(publication['data'].encode(), publication.get('delta', False))

    def take(self, data: bytes, is_delta: bool) -> bytes:
        """Return the payload of a publication."""
        if is_delta:
            assert self.base is not None, 'a delta, but the client has no base'
            data = bytes(apply_delta(self.base, data))
            self.num_deltas += 1
        self.base = data
        self.payloads.append(data)
        return data
