"""A process with a subscription that prints its spans as lines of JSON.

``traced_subscriber.py URL CHANNEL COUNT``

The process prints ``ready`` when it is subscribed. It prints the payloads that it has
received, and then the spans that it has made.
"""

from __future__ import annotations

import asyncio
import json
import sys

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from falcon_channels import ChannelOptions
from falcon_channels import Channels


async def main() -> None:
    url, channel, count = sys.argv[1:4]
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    channels = Channels(url)
    channels.add_route('rooms:{room}', None, ChannelOptions(history_size=10))
    channels.add_tracing(provider)
    async with channels, channels.subscribe(channel) as subscription:
        exporter.clear()
        print('ready', flush=True)
        values = [(await anext(subscription)).value() for _ in range(int(count))]
    print(json.dumps(values))
    for span in exporter.get_finished_spans():
        print(span.to_json(indent=None))


asyncio.run(main())
