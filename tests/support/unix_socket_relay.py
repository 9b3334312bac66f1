"""Relay from a UNIX socket to a server: ``unix_socket_relay.py PATH HOST PORT``."""

from __future__ import annotations

import asyncio
import contextlib
import sys


async def main(path: str, host: str, port: int) -> None:
    """Relay connections until the process is killed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            further = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, further[1]), _copy(further[0], writer))

    server = await asyncio.start_unix_server(serve, path)
    await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


if __name__ == '__main__':
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
