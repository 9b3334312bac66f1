"""Reads the head of an HTTP request that has the usual form, without a parser.

SECURITY: Each parser of HTTP/1.1 would read an accepted head in the same way. A head
that two parsers could read differently, or that is malformed, is not accepted. A parser
has to decide about it.
"""

from __future__ import annotations

from websockets.http11 import MAX_LINE_LENGTH
from websockets.http11 import MAX_NUM_HEADERS

from falcon_channels.websocket.handshake import HEADER_NAME_BYTES

#: Headers with values that many clients have in common. Each line is read and stored
#: once for all connections.
#: SECURITY: No header that may hold a secret is in this set, because the value stays in
#: memory after its connection has ended.
_SHARED_HEADERS = {
    b'accept-encoding',
    b'accept-language',
    b'cache-control',
    b'connection',
    b'host',
    b'origin',
    b'pragma',
    b'sec-fetch-dest',
    b'sec-fetch-mode',
    b'sec-fetch-site',
    b'sec-websocket-extensions',
    b'sec-websocket-version',
    b'upgrade',
    b'user-agent',
}
#: Maximum size of a line that is shared, in bytes, and number of these lines.
_MAX_SHARED_BYTES = 256
_MAX_KNOWN_LINES = 1024
#: Names and values of the lines that are shared.
_known_lines: dict[bytes, tuple[bytes, bytes]] = {}
#: Names of the headers that most clients send, in lower case.
_USUAL_NAMES = (
    *(b'accept', b'accept-encoding', b'accept-language', b'cache-control'),
    *(b'connection', b'content-length', b'content-type', b'cookie', b'dnt', b'host'),
    *(b'last-event-id', b'origin', b'pragma', b'priority', b'referer', b'sec-ch-ua'),
    *(b'sec-ch-ua-mobile', b'sec-ch-ua-platform', b'sec-fetch-dest'),
    *(b'sec-fetch-mode', b'sec-fetch-site', b'user-agent', b'x-forwarded-for'),
    *(b'x-forwarded-host', b'x-forwarded-proto', b'x-real-ip', b'authorization'),
)
#: The name of a header in lower case, by each of its usual spellings. All requests use
#: the same object for a name. Their values are not shared.
SHARED_NAMES = {
    spelling: name for name in _USUAL_NAMES for spelling in (name, name.title())
} | {b'DNT': b'dnt', b'Last-Event-ID': b'last-event-id', b'X-Real-IP': b'x-real-ip'}
#: Maximum size of the request line and headers together, in bytes.
MAX_HEAD_BYTES = 65536

#: Accepted bytes. They are a part of what RFC 9110 section 5 and RFC 9112 section 3
#: allow: values without line ends and other control characters, targets of visible
#: ASCII without a fragment.
_VALUE_BYTES = bytes([9, *range(32, 127), *range(128, 256)])
_TARGET_BYTES = bytes(range(33, 127)).replace(b'#', b'')
_LAST_BYTES = b'\r\n\r\n'


def read_usual_head(
    head: bytes, method: bytes
) -> tuple[str, list[tuple[bytes, bytes]]] | None:
    """Read a request line and its headers.

    Args:
        head: Bytes that end with an empty line.
        method: The method that is accepted, with the space after it.

    Returns:
        Path and query as the client sent them, and the headers: names in lower case,
        and values. ``None`` if the head does not have the usual form.
    """
    if len(head) > MAX_HEAD_BYTES:
        return None
    first, *lines = head[: -len(_LAST_BYTES)].split(b'\r\n')
    target = first[len(method) : -len(b' HTTP/1.1')]
    if (
        not first.startswith(method + b'/')
        or not first.endswith(b' HTTP/1.1')
        or len(first) > MAX_LINE_LENGTH
        or len(lines) > MAX_NUM_HEADERS
        or target.translate(None, _TARGET_BYTES)
    ):
        return None
    pairs = []
    for line in lines:
        pair = _known_lines.get(line) or _read_line(line)
        if pair is None:
            return None
        pairs.append(pair)
    return target.decode('ascii'), pairs


def _read_line(line: bytes) -> tuple[bytes, bytes] | None:
    """Return name and value of a header; ``None`` if they have unusual bytes."""
    name, colon, value = line.partition(b':')
    name = name.lower()
    if (
        not colon
        or not name
        or name.translate(None, HEADER_NAME_BYTES)
        or value.translate(None, _VALUE_BYTES)
    ):
        return None
    pair = name, value.strip(b' \t')
    if name in _SHARED_HEADERS and len(line) <= _MAX_SHARED_BYTES:
        if len(_known_lines) >= _MAX_KNOWN_LINES:
            _known_lines.clear()
        _known_lines[line] = pair
    return pair
