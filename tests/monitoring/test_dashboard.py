"""The dashboard, the alert rules and the queries of the page fit the metrics.

`promtool` and `prometheus` come from Debian's package prometheus.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
import json
from pathlib import Path
import re
import shutil
import subprocess
from typing import Any

import httpx
import promql_parser
import pytest
from support.asgi_servers import AsgiServer
from support.processes import free_port
from support.processes import ROOT
from support.processes import ServerProcess
from support.processes import wait_until
from websockets.sync.client import connect
import yaml

from falcon_channels.metrics import COUNTERS
from falcon_channels.metrics import GAUGES
from falcon_channels.metrics import HISTOGRAMS
from falcon_channels.metrics import LABELLED_COUNTERS

FOLDER = ROOT / 'deploy' / 'monitoring'
DASHBOARD: dict[str, Any] = json.loads((FOLDER / 'grafana-dashboard.json').read_text())
PANELS: list[dict[str, Any]] = DASHBOARD['panels']
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / 'alerts.yaml').read_text())['groups']
    for rule in group['rules']
]

PAGE = (ROOT / 'docs' / 'metrics.md').read_text()
PAGE_QUERIES = re.findall(r'```promql\n(.*?)\n```', PAGE, re.DOTALL)

#: Labels that Prometheus adds, and the one of `all_processes`.
TARGET_LABELS = {'job', 'instance', 'node'}

needs_prometheus = pytest.mark.skipif(
    shutil.which('promtool') is None or shutil.which('prometheus') is None,
    reason='prometheus is not installed: apt-get install prometheus',
)


def labels_by_metric() -> dict[str, set[str]]:
    """Return the labels of every name that a query may have."""
    names = {f'{name}_total': set[str]() for name in COUNTERS}
    names |= {name: set() for name in GAUGES}
    for name, counter in LABELLED_COUNTERS.items():
        names[f'{name}_total'] = set(counter.labels)
    for name, histogram in HISTOGRAMS.items():
        names[f'{name}_bucket'] = {*histogram.labels, 'le'}
        names[f'{name}_count'] = names[f'{name}_sum'] = set(histogram.labels)
    return {f'falcon_channels_{name}': labels for name, labels in names.items()}


METRICS = labels_by_metric()


def with_values(query: str) -> str:
    """Replace the variables of Grafana."""
    return query.replace('$__rate_interval', '30s').replace('$job', '.*')


def dashboard_queries() -> list[str]:
    return [
        with_values(target['expr'])
        for panel in PANELS
        for target in panel.get('targets', ())
    ]


def expressions(node: Any) -> Iterator[Any]:
    """Yield a parsed query and all its parts."""
    yield node
    for name in ('lhs', 'rhs', 'expr', 'param', 'args', 'vector_selector'):
        parts = getattr(node, name, None)
        for part in parts if isinstance(parts, list) else [parts]:
            if part is not None:
                yield from expressions(part)


def used_names(query: str) -> tuple[set[str], set[str]]:
    """Return the names of metrics and of labels in a query."""
    metrics, labels = set(), set()
    for part in expressions(promql_parser.parse(query)):
        if isinstance(part, promql_parser.VectorSelector):
            metrics.add(part.name)
            labels |= {matcher.name for matcher in part.matchers.matchers}
        elif isinstance(part, promql_parser.AggregateExpr) and part.modifier:
            labels |= set(part.modifier.labels)
    return metrics, labels


@pytest.mark.parametrize(
    'query', dashboard_queries() + [r['expr'] for r in RULES] + PAGE_QUERIES
)
def test_every_query_names_existing_metrics_and_labels(query: str) -> None:
    """A query is valid PromQL, and has names and labels that the page has."""
    metrics, labels = used_names(query)
    assert metrics
    assert set() == metrics - METRICS.keys()
    known = set.union(*(METRICS[name] for name in metrics))
    assert set() == labels - known - TARGET_LABELS


def test_page_has_queries_for_usual_questions() -> None:
    """The page has a query for latency, refusals, closes and connections."""
    metrics = set.union(*(used_names(query)[0] for query in PAGE_QUERIES))
    assert {
        'falcon_channels_publish_to_write_seconds_bucket',
        'falcon_channels_refused_commands_total',
        'falcon_channels_closes_total',
        'falcon_channels_connections',
    } <= metrics


def test_dashboard_variables_name_existing_metrics() -> None:
    """The list of jobs comes from a metric that every process has."""
    text = json.dumps(DASHBOARD['templating'])
    names = set(re.findall(r'falcon_channels_\w+', text))
    assert {'falcon_channels_link_up'} == names


def test_legends_name_labels_of_their_query() -> None:
    """A legend has only labels that the query keeps."""
    for panel in PANELS:
        for target in panel.get('targets', ()):
            shown = set(re.findall(r'{{(\w+)}}', target['legendFormat']))
            query = with_values(target['expr'])
            if shown <= {'instance', 'node'}:
                continue
            grouped = (
                set(promql_parser.parse(query).modifier.labels)
                if (query.startswith('sum by'))
                else used_names(query)[1]
            )
            assert shown <= grouped, target


def test_panels_do_not_overlap() -> None:
    """All panels have their own place in the grid of 24 columns."""
    places = [panel['gridPos'] for panel in PANELS]
    assert len(PANELS) == len({panel['id'] for panel in PANELS})
    for place in places:
        assert 0 <= place['x'] < place['x'] + place['w'] <= 24
    for one, two in combinations(places, 2):
        beside = one['x'] + one['w'] <= two['x'] or two['x'] + two['w'] <= one['x']
        above = one['y'] + one['h'] <= two['y'] or two['y'] + two['h'] <= one['y']
        assert beside or above, (one, two)


def test_every_labelled_metric_is_on_the_dashboard() -> None:
    """The dashboard shows each histogram and each counter with labels."""
    shown = set.union(*(used_names(query)[0] for query in dashboard_queries()))
    for name in LABELLED_COUNTERS:
        assert f'falcon_channels_{name}_total' in shown
    for name in HISTOGRAMS:
        assert f'falcon_channels_{name}_bucket' in shown


@pytest.mark.parametrize('rule', RULES, ids=[rule['alert'] for rule in RULES])
def test_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    """An alert has a severity, a summary and a description."""
    assert rule['labels']['severity'] in {'warning', 'critical'}
    assert {'summary', 'description'} == rule['annotations'].keys()
    assert all(len(text.split()) > 3 for text in rule['annotations'].values())


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    """`alerts_test.yaml` has a time series that fires each alert."""
    stories = yaml.safe_load((FOLDER / 'alerts_test.yaml').read_text())['tests']
    fired = {
        test['alertname']
        for story in stories
        for test in story['alert_rule_test']
        if test['exp_alerts']
    }
    assert {rule['alert'] for rule in RULES} == fired


@needs_prometheus
@pytest.mark.parametrize(
    'words', [('check', 'rules', 'alerts.yaml'), ('test', 'rules', 'alerts_test.yaml')]
)
def test_promtool_accepts_the_alert_rules(words: tuple[str, ...]) -> None:
    """Prometheus accepts the rules, and each fires when it should."""
    done = subprocess.run(
        ['promtool', *words], cwd=FOLDER, capture_output=True, text=True
    )
    assert 0 == done.returncode, done.stdout + done.stderr


@needs_prometheus
def test_promtool_accepts_the_configuration_of_the_page(tmp_path: Path) -> None:
    """The configuration of the page works next to the file with the alert rules."""
    [config] = re.findall(r'```yaml\n(.*?)```', PAGE, re.DOTALL)
    (tmp_path / 'prometheus.yml').write_text(config)
    shutil.copy(FOLDER / 'alerts.yaml', tmp_path)
    done = subprocess.run(
        ['promtool', 'check', 'config', 'prometheus.yml'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert f'{len(RULES)} rules found' in done.stdout


@needs_prometheus
@pytest.mark.server
def test_prometheus_answers_every_query_of_the_dashboard(
    asgi_server: AsgiServer, tmp_path: Path
) -> None:
    """Prometheus reads a running app, loads the rules, and answers all queries."""
    command = asgi_server.command('support.api_app:app')
    env = {'PYTHONPATH': 'tests'}
    with ServerProcess(command, env=env) as app:
        config = {
            'global': {'scrape_interval': '200ms', 'scrape_timeout': '200ms'},
            'rule_files': [str(FOLDER / 'alerts.yaml')],
            'scrape_configs': [
                {
                    'job_name': job,
                    'metrics_path': path,
                    'static_configs': [{'targets': [f'127.0.0.1:{app.port}']}],
                }
                for job, path in (('one', '/metrics'), ('all', '/metrics/all'))
            ],
        }
        (tmp_path / 'prometheus.yml').write_text(yaml.safe_dump(config))
        port = free_port()
        words = [
            'prometheus',
            f'--config.file={tmp_path}/prometheus.yml',
            f'--storage.tsdb.path={tmp_path}/data',
            f'--web.listen-address=127.0.0.1:{port}',
        ]
        with ServerProcess(words, port=port) as prometheus, httpx.Client() as client:

            def ask(query: str) -> list[Any]:
                url = f'{prometheus.url}/api/v1/query'
                answer = client.get(url, params={'query': query}, timeout=30).json()
                assert 'success' == answer['status'], (query, answer)
                found: list[Any] = answer['data']['result']
                return found

            def ready() -> bool:
                answer = client.get(f'{prometheus.url}/-/ready', timeout=30)
                return answer.status_code == 200

            wait_until(ready, 'Prometheus is ready')
            with connect(f'{app.ws_url}/ws/rooms:metrics?user=ann') as ws:
                ws.recv(30)
                wait_until(
                    lambda: len(ask('falcon_channels_connections == 1')) == 2,
                    'Prometheus has read the connection',
                )
                for _ in range(3):
                    ws.send('"hello"')
                    ws.recv(30)
                wait_until(
                    lambda: (
                        2
                        == len(
                            ask(
                                'falcon_channels_route_deliveries_total == 3'
                                ' and on (job) count_over_time('
                                'falcon_channels_route_deliveries_total[1m]) > 1'
                            )
                        )
                    ),
                    'Prometheus has read the deliveries twice',
                )
                queries = dashboard_queries() + PAGE_QUERIES
                answers = {query: ask(query) for query in queries}
            empty = {query for query, answer in answers.items() if not answer}
            # Nothing was refused, nobody has left, and the app has no responder here.
            may_be_empty = (
                *('refused_', 'closes_', 'recovery_', 'responder_'),
                'outcome="failed"',
            )
            assert [] == [q for q in empty if not any(w in q for w in may_be_empty)]
            rules = client.get(f'{prometheus.url}/api/v1/rules', timeout=30).json()
            (group,) = rules['data']['groups']
            assert len(RULES) == len(group['rules'])
