"""A process that publishes through a broker, and prints what was acknowledged.

``broker_publisher.py URL CHANNEL PUBLISHERS COUNT [SIZE [NAME]]``: each of so many
publishers publishes so many publications, one after another, again with the same
idempotency key where the broker was not available. A line ``CHANNEL OFFSET EPOCH DATA``
follows each acknowledgement, and ``done`` the last; what fails goes to the standard
error. Who is started again with the same NAME publishes the same, with the same
idempotency keys.
"""

from __future__ import annotations

import asyncio
import os
import sys

from falcon_channels.brokers.base import StreamSettings
from falcon_channels.brokers.urls import open_broker
from falcon_channels.errors import BrokerUnavailableError
from falcon_channels.publication import Publication
from falcon_channels.testing import Recorder

SETTINGS = StreamSettings(size=100_000, ttl_s=3600.0, idempotency_ttl_s=600.0)


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
