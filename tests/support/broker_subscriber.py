"""A process with channels and subscribers, which prints what they got.

``broker_subscriber.py URL CHANNEL SUBSCRIBERS COUNT``: prints ``ready``, lets each of
so many subscribers take so many publications, and prints a line of JSON for each: a
list of ``[offset, payload]``. A subscriber that is told that it missed something goes
on with ``["lost", code]``. Meanwhile it publishes one item of its own.
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
    entered = asyncio.Barrier(int(subscribers) + 1)

    async def take() -> list[Any]:
        got: list[Any] = []
        while len(got) < int(count):
            async with channels.subscribe(channel) as subscription:
                if not got:
                    await entered.wait()
                try:
                    async for publication in subscription:
                        got.append([publication.offset, publication.value()])
                        if len(got) >= int(count):
                            break
                except UnsubscribedError as ex:
                    got.append(['lost', ex.code])
        return got

    tasks = [asyncio.create_task(take()) for _ in range(int(subscribers))]
    await entered.wait()
    os.write(1, b'ready\n')
    await channels.publish(channel, f'from {os.getpid()}')
    for got in await asyncio.gather(*tasks):
        print(json.dumps(got), flush=True)  # noqa: T201
    await channels.close()


if __name__ == '__main__':
    asyncio.run(main())
