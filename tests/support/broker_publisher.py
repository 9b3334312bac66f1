"""A process that publishes with a broker, and prints each acknowledged publication.

``broker_publisher.py URL CHANNEL PUBLISHERS COUNT [SIZE [NAME]]``

Each of PUBLISHERS publishers publishes COUNT publications, one after another. If the
broker is not available, the publisher repeats the call with the same idempotency key.

The process prints a line ``CHANNEL OFFSET EPOCH DATA`` for each acknowledgement, and
``done`` at the end. It prints errors to the standard error stream. Two processes with
the same NAME publish the same items with the same idempotency keys.
"""

from __future__ import annotations

import asyncio
import os
import sys

from falcon_channels.brokers.base import LogSettings
from falcon_channels.brokers.urls import open_broker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder

SETTINGS = LogSettings(size=100_000, ttl_s=3600.0, idempotency_ttl_s=600.0)


async def main() -> None:
    url, channel, publishers, count = sys.argv[1:5]
    size = int(sys.argv[5]) if len(sys.argv) > 5 else 0
    name = sys.argv[6] if len(sys.argv) > 6 else str(os.getpid())
    broker = open_broker(url)
    await broker.start(Recorder())

    async def publish(number: int) -> None:
        for n in range(int(count)):
            mark = f'{name}-{number}-{n}'
            data = f'"{mark.ljust(size, ".")}"'
            while True:
                try:
                    result = await broker.publish(
                        channel,
                        Publication(data=data.encode()),
                        SETTINGS,
                        idempotency_key=mark,
                    )
                except BrokerUnavailableError as ex:
                    print('failed', ex, file=sys.stderr, flush=True)  # noqa: T201
                    await asyncio.sleep(0.05)
                    continue
                break
            offset, epoch = result.position
            os.write(1, f'{channel} {offset} {epoch} {data}\n'.encode())

    await asyncio.gather(*(publish(n) for n in range(int(publishers))))
    await broker.close()
    os.write(1, b'done\n')


if __name__ == '__main__':
    asyncio.run(main())
