"""The page of metrics that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from falcon import testing
import falcon.asgi
import httpx
import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
import pytest
from support.asgi_servers import AsgiServer
from support.linked_broker import LinkedBroker
from support.linked_broker import start_node
from support.processes import free_port
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.sync.client import connect

from falcon_channels import Channels
from falcon_channels.cluster.cluster import Cluster
from falcon_channels.metrics import COUNTERS
from falcon_channels.metrics import Counters
from falcon_channels.metrics import GAUGES
from falcon_channels.metrics import HISTOGRAMS
from falcon_channels.metrics import LABELLED_COUNTERS
from falcon_channels.monitoring.prometheus import ChannelsCollector
from falcon_channels.monitoring.prometheus import metric_families
from falcon_channels.monitoring.prometheus import read_metrics

ROOT = Path(__file__).parents[2]


def samples(text: str) -> dict[str, float]:
    """Return the values of a page by name; labels follow the name in braces."""
    return {
        sample.name + str(sample.labels or ''): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope='module')
def server(asgi_server: AsgiServer) -> Iterator[ServerProcess]:
    command = asgi_server.command('support.api_app:app')
    with ServerProcess(command, env={'PYTHONPATH': 'tests'}) as process:
        yield process


@pytest.mark.server
@pytest.mark.xdist_group('metrics')
def test_page_counts_connections_and_deliveries(server: ServerProcess) -> None:
    """The page counts connections and publications."""

    def page() -> dict[str, float]:
        return samples(httpx.get(f'{server.url}/metrics', timeout=30).text)

    before = page()
    with connect(f'{server.ws_url}/ws/rooms:metrics?user=ann') as ws:
        ws.recv(30)
        ws.send('"hello"')
        ws.recv(30)
        during = page()
    assert 1 == during['falcon_channels_connections']
    assert 1 == during['falcon_channels_subscriptions']
    assert 1 == during['falcon_channels_channels']
    assert 1 == during['falcon_channels_link_up']
    name = 'falcon_channels_deliveries_total'
    assert 1 == during[name] - before[name]
    wait_until(
        lambda: page()['falcon_channels_connections'] == 0, 'the connection has ended'
    )


@pytest.mark.server
@pytest.mark.xdist_group('metrics')
def test_page_is_openmetrics_if_the_client_accepts_it(server: ServerProcess) -> None:
    """The page is in the OpenMetrics format if `Accept` asks for it."""
    accept = {'Accept': 'application/openmetrics-text; version=1.0.0'}
    response = httpx.get(f'{server.url}/metrics', headers=accept, timeout=30)
    assert response.headers['content-type'].startswith('application/openmetrics-text')
    assert response.text.endswith('# EOF\n')


@pytest.mark.server
@pytest.mark.xdist_group('metrics')
def test_page_of_all_processes_has_host_and_process_id(
    asgi_server: AsgiServer, server: ServerProcess
) -> None:
    """The page of all processes has a label with the host name and the process id."""
    page = samples(httpx.get(f'{server.url}/metrics/all', timeout=30).text)
    (key,) = [key for key in page if key.startswith('falcon_channels_connections{')]
    pids = server.child_pids() if asgi_server.forks else [server.pid]
    assert any(f"_{pid}'" in key for pid in pids)


async def test_page_of_all_processes_has_each_node() -> None:
    """All nodes that share a broker are on one page."""
    link: list[LinkedBroker] = []
    (one, _), (two, _) = await start_node(link), await start_node(link)
    app = falcon.asgi.App()
    for channels in (two, one):
        channels.add_metrics(app, f'/{channels.node.cluster.id}', all_processes=True)
    async with testing.ASGIConductor(app) as conductor, two.subscribe('rooms:a'):
        response = await conductor.simulate_get(f'/{one.node.cluster.id}')
    lines = [
        line
        for line in response.text.splitlines()
        if line.startswith('falcon_channels_subscriptions{')
    ]
    assert ['0.0', '1.0'] == sorted(line.split()[-1] for line in lines)
    await one.close()
    await two.close()


@pytest.mark.parametrize('problem', ['not started', 'cut', 'silent', 'closed'])
async def test_page_of_all_processes_always_has_the_process_that_answers(
    problem: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the other processes cannot be asked, the page has this process."""
    monkeypatch.setattr(Cluster.ask_encoded, '__kwdefaults__', {'timeout_s': 0.1})
    if problem == 'not started':
        channels = Channels(f'redis://127.0.0.1:{free_port()}/0?timeout_s=1')
    else:
        channels, broker = await start_node([])
        if problem == 'cut':
            broker.cut = True
        elif problem == 'silent':
            broker.link.clear()
        else:
            await channels.close()
    app = falcon.asgi.App()
    channels.add_metrics(app, all_processes=True)
    async with testing.ASGIConductor(app) as conductor:
        for _ in range(2):
            response = await conductor.simulate_get('/metrics')
            assert 200 == response.status_code
            assert 1 == response.text.count('falcon_channels_link_up{')
    expected = 0 if problem == 'silent' else 1
    assert expected == caplog.text.count('the page has the metrics of one process')
    await channels.close()


async def test_process_with_other_buckets_and_labels_hides_no_other_process() -> None:
    """During an update, the page has all series that this version knows."""
    channels, _ = await start_node([])
    channels.node.measure()
    async with channels.subscribe('rooms:a') as subscription:
        await channels.publish('rooms:a', 1)
        await anext(subscription)
    own = read_metrics(channels.node)
    assert own.labelled
    assert own.histograms
    other = msgspec.structs.replace(
        own,
        node='other',
        labelled={
            name: [([*labels, 'more'], value) for labels, value in rows]
            for name, rows in own.labelled.items()
        },
        histograms={
            name: [
                msgspec.structs.replace(row, counts=[1, *row.counts]) for row in rows
            ]
            for name, rows in own.histograms.items()
        },
    )

    def samples_of(node: str) -> int:
        return sum(
            sample.labels['node'] == node
            for family in metric_families([other, own], labels=True)
            for sample in family.samples
            if set(sample.labels) != {'node'}
        )

    assert samples_of(own.node) > 0
    assert 0 == samples_of('other')
    await channels.close()


def test_collector_works_in_the_registry_of_the_application() -> None:
    """The collector can be registered beside the application's own metrics."""
    registry = CollectorRegistry()
    registry.register(ChannelsCollector(Channels().node))
    page = samples(generate_latest(registry).decode())
    assert 0 == page['falcon_channels_connections']


def test_metrics_are_read_in_a_thread_while_labels_are_added() -> None:
    """A page that is read while the event loop adds labels has no error."""
    node = Channels().node
    measured = node.measure()

    class Busy(tuple[str, ...]):
        """Labels that are read while another thread adds labels."""

        def __iter__(self) -> Iterator[str]:
            for name, row in LABELLED_COUNTERS.items():
                measured.add(name, ('new',) * len(row.labels), 1)
            for name, table in HISTOGRAMS.items():
                measured.observe(name, ('new',) * len(table.labels), 1.0)
            return super().__iter__()

    for name, row in LABELLED_COUNTERS.items():
        measured.add(name, Busy(['old'] * len(row.labels)), 1)
    for name, table in HISTOGRAMS.items():
        measured.observe(name, Busy(['old'] * len(table.labels)), 1.0)
    found = read_metrics(node)
    for name, row in LABELLED_COUNTERS.items():
        assert (['old'] * len(row.labels), 1) in found.labelled[name]


def test_every_metric_has_a_help_text_and_is_documented() -> None:
    """Each metric has a help text, and a row in docs/metrics.md."""
    registry = CollectorRegistry()
    registry.register(ChannelsCollector(Channels().node))
    text = generate_latest(registry).decode()
    documented = (ROOT / 'docs' / 'metrics.md').read_text()
    names = [f'{name}_total' for name in (*COUNTERS, *LABELLED_COUNTERS)]
    names += [*GAUGES, *HISTOGRAMS]
    for name in names:
        assert f'`falcon_channels_{name}`' in documented
        help_line = next(
            line
            for line in text.splitlines()
            if line.startswith(f'# HELP falcon_channels_{name} ')
        )
        assert len(help_line.split(' ', 3)[3].split()) > 1


def test_counters_have_exactly_the_attributes_of_the_table() -> None:
    """`Counters` declares one attribute for each row of `COUNTERS`."""
    assert COUNTERS.keys() == Counters.__annotations__.keys()
    assert dict.fromkeys(COUNTERS, 0) == Counters().to_media()
