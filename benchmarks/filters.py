"""Measure the cost of tag filters, per delivery that is sent.

    python -m benchmarks.filters

There are 500 subscribers of the client protocol in ten regions of 50. Without filters,
each region is a channel of its own, and the publisher goes round the channels. With
filters, all are in one channel, and ``on_subscribe`` sets one of ten filters. In both
cases a publication has 50 deliveries.

The second table has publications for all 500 subscribers: in a channel without filters,
and in one with ten filters that all of them match.
"""

from __future__ import annotations

from benchmarks import harness

REGIONS = 10
MEMBERS = 50


def sdk(name: str, publish: str, subscribe: str) -> harness.Peer:
    """Return the server, for clients that send a subscribe request."""
    hello = f'{{"id":1,"connect":{{}}}}\n{{"id":2,"subscribe":{subscribe}}}'
    return harness.Peer(
        name,
        [*harness.SERVE, 'benchmarks.apps.rooms:app'],
        dialect=[
            *('--sub', '/connection/websocket', '--pub', publish),
            *('--sub-hello', hello, '--members', str(MEMBERS)),
        ],
    )


def main() -> None:
    """Run the benchmark and print the tables."""
    parser = harness.arguments(__doc__ or '', {'in_flight': [10]})
    parser.add_argument('--in-flight', type=int, nargs='+', default=[1, 10])
    args = parser.parse_args()
    one_region = '{"channel":"rooms:regions","data":"%d"}'
    some = [
        sdk('ten channels', '/pub-room', '{"channel":"rooms:%d"}'),
        sdk('one channel with ten filters', '/pub-region', one_region),
    ]
    everything = [
        sdk('no filter', '/pub-sdk', '{"channel":"rooms:sdk"}'),
        sdk('ten filters', '/pub-to-all', '{"channel":"rooms:all","data":"%d"}'),
    ]
    for title, peers, words in (
        (f'A publication for {MEMBERS}', some, ['rooms', REGIONS]),
        (f'A publication for {REGIONS * MEMBERS}', everything, ['fanout', 500]),
    ):
        cases = [
            harness.Case(f'{title}, {n} at once', [*words, n, args.bytes])
            for n in args.in_flight
        ]
        harness.measure(peers, cases, args, unit='delivery')


if __name__ == '__main__':
    main()
