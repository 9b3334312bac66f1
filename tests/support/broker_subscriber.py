"""A process with subscribers that prints the publications that they have received.

``broker_subscriber.py URL CHANNEL SUBSCRIBERS COUNT``

The process prints ``ready`` when all of SUBSCRIBERS subscribers are subscribed. Then it
publishes one item. Each subscriber receives COUNT publications. The process prints one
line of JSON for each subscriber: a list of ``[offset, payload]``. A subscriber that has
missed publications adds ``["lost", code]`` and subscribes again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from falcon_channels import ChannelOptions
from falcon_channels import Channels
from falcon_channels import UnsubscribedError


async def main() -> None:
    url, channel, subscribers, count = sys.argv[1:5]
    channels = Channels(url)
    options = ChannelOptions(history_size=100_000, history_ttl_s=3600.0)
    channels.add_route('{name}', object(), options)
    subscribed = asyncio.Barrier(int(subscribers) + 1)

    async def receive() -> list[Any]:
        received: list[Any] = []
        while len(received) < int(count):
            async with channels.subscribe(channel) as subscription:
                if not received:
                    await subscribed.wait()
                try:
                    async for publication in subscription:
                        received.append([publication.offset, publication.value()])
                        if len(received) >= int(count):
                            break
                except UnsubscribedError as ex:
                    received.append(['lost', ex.code])
        return received

    tasks = [asyncio.create_task(receive()) for _ in range(int(subscribers))]
    await subscribed.wait()
    os.write(1, b'ready\n')
    await channels.publish(channel, f'from {os.getpid()}')
    for received in await asyncio.gather(*tasks):
        print(json.dumps(received), flush=True)  # noqa: T201
    await channels.close()


if __name__ == '__main__':
    asyncio.run(main())
