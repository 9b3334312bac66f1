"""Run the Autobahn TestSuite against our servers and print the results.

The suite is a program of Python 2.7 and runs under nothing newer. Its environment is
made once, in a folder that git ignores. See docs/conformance.md.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tests'))

from support.processes import ServerProcess  # noqa: E402 - it is found by the line above

HOME = ROOT / '.conformance'
VIRTUALENV = 'virtualenv==20.21.1'  # the last line that makes environments for 2.7
SUITE = 'autobahntestsuite==25.10.1'

CORE = ('1.*', '2.*', '3.*', '4.*', '5.*', '6.*', '7.*', '9.*', '10.*')
# Compression: messages of all sizes by 12 kinds of parameters; 216 cases in all, half
# of which differ in nothing but a time of many minutes.
DEFLATE = (
    *(f'12.{part}.{case}' for part in range(1, 6) for case in (*range(1, 7), 11, 12)),
    *(f'13.{part}.{case}' for part in range(1, 8) for case in (*range(1, 7), 11, 12)),
)

# A failed case that is a choice of ours: why.
CHOICES = {
    '7.1.5': 'a close frame within a fragmented message is answered with 1002',
}


@dataclass(frozen=True)
class Target:
    """A server that echoes text and binary messages at ``/``.

    Attributes:
        deflate: Whether it agrees to permessage-deflate; if not, the cases of
            compression have nothing to ask it.
    """

    name: str
    command: tuple[str, ...]
    deflate: bool = True
    env: Mapping[str, str] = field(default_factory=dict)


_GUNICORN = (
    *('python', '-m', 'gunicorn', '--bind', '127.0.0.1:{port}'),
    *('--no-control-socket', '--chdir', 'tests/conformance'),
    *('conformance_wsgi:app', '--worker-class'),
)

# Cases 9.* send 16 MiB in one message, and in fragments of 64 bytes.
_SERVE = (
    *('python', '-m', 'falcon_channels', 'serve', '--port', '{port}'),
    *('--app-dir', 'tests/conformance', 'conformance_asgi:app'),
    *('--ws-max-size', '16777216', '--ws-max-fragments', '1000000'),
)

TARGETS = (
    Target('asgi-serve', _SERVE, deflate=False),
    Target('asgi-serve-deflate', (*_SERVE, '--ws-deflate')),
    Target('wsgi-gunicorn-gthread', (*_GUNICORN, 'gthread', '--threads', '8')),
    Target('wsgi-gunicorn-gevent', (*_GUNICORN, 'gevent')),
)


def python27() -> str:
    """Return the path of a Python 2.7; exit with a message if there is none."""
    candidates = [os.environ.get('PYTHON27'), shutil.which('python2.7')]
    if shutil.which('pyenv'):
        listed = subprocess.run(
            ['pyenv', 'versions', '--bare'], capture_output=True, text=True, check=True
        )
        for version in listed.stdout.split():
            if version.startswith('2.7'):
                found = subprocess.run(
                    ['pyenv', 'prefix', version],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                candidates.append(f'{found.stdout.strip()}/bin/python')
    check = 'import sys; sys.exit(sys.version_info[:2] != (2, 7))'
    for candidate in filter(None, map(shutil.which, filter(None, candidates))):
        # pyenv puts programs on the PATH for versions that are not switched on.
        if not subprocess.run([candidate, '-c', check], capture_output=True).returncode:
            return candidate
    sys.exit(
        'The Autobahn TestSuite needs a Python 2.7, and there is none: set PYTHON27 to '
        'one, have python2.7 on the PATH, or run: pyenv install 2.7.18'
    )


def wstest() -> str:
    """Return the path of the suite's program; install it if it is missing."""
    program = HOME / 'suite' / 'bin' / 'wstest'
    if not program.exists():
        interpreter = python27()
        print(f'Installing the Autobahn TestSuite in {HOME.name} ...', flush=True)
        tools, suite = HOME / 'tools', HOME / 'suite'
        quiet = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
        for command in (
            [sys.executable, '-m', 'venv', tools],
            [tools / 'bin' / 'python', *quiet, VIRTUALENV],
            [tools / 'bin' / 'virtualenv', '--quiet', '-p', interpreter, suite],
            [suite / 'bin' / 'python', '-W', 'ignore', *quiet, SUITE],
        ):
            subprocess.run([str(word) for word in command], check=True)
    return str(program)


def run(target: Target, cases: list[str], program: str) -> dict[str, dict[str, str]]:
    """Run the cases against a target; return behaviour and close by case."""
    reports = HOME / 'reports' / target.name
    shutil.rmtree(reports, ignore_errors=True)
    with ServerProcess(target.command, env=target.env) as server:
        spec = HOME / f'{target.name}.json'
        spec.write_text(
            json.dumps(
                {
                    'outdir': str(reports),
                    'servers': [{'agent': target.name, 'url': f'{server.ws_url}/'}],
                    'cases': cases,
                    'exclude-cases': [],
                    'exclude-agent-cases': {},
                }
            )
        )
        finished = subprocess.run(
            [program, '-m', 'fuzzingclient', '-s', str(spec)],
            capture_output=True,
            text=True,
        )
    index = reports / 'index.json'
    if not index.exists():
        sys.exit(f'{program} wrote no report:\n{finished.stdout}{finished.stderr}')
    results: dict[str, dict[str, str]] = json.loads(index.read_text())[target.name]
    return results


def _closed_well(result: dict[str, str]) -> bool:
    return result['behaviorClose'] in ('OK', 'INFORMATIONAL')


def row(name: str, results: dict[str, dict[str, str]]) -> str:
    """Return a line of the table."""
    counts = Counter(result['behavior'] for result in results.values())
    unclean = sum(not _closed_well(result) for result in results.values())
    numbers = [
        len(results),
        *(counts[kind] for kind in ('OK', 'NON-STRICT', 'INFORMATIONAL')),
        counts['UNIMPLEMENTED'],
        counts['FAILED'],
        unclean,
    ]
    return f'| {name} | ' + ' | '.join(str(number) for number in numbers) + ' |'


def main() -> None:
    """Run the suite, print the results, and fail if an unexpected case failed."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('targets', nargs='*', help='names of targets; all by default')
    parser.add_argument(
        '--cases', nargs='+', help='cases to run (default: 1 to 7, 9 and 10)'
    )
    parser.add_argument(
        '--deflate', action='store_true', help='run the cases of compression, too'
    )
    args = parser.parse_args()
    names = [target.name for target in TARGETS]
    if unknown := set(args.targets) - set(names):
        parser.error(f'no targets: {", ".join(unknown)}; there are {", ".join(names)}')
    program = wstest()
    rows, wrong = [], []
    loose: dict[str, list[str]] = {}
    for target in TARGETS:
        if args.targets and target.name not in args.targets:
            continue
        print(f'Running against {target.name} ...', flush=True)
        deflate = DEFLATE if args.deflate and target.deflate else ()
        cases = args.cases or [*CORE, *deflate]
        results = run(target, cases, program)
        rows.append(row(target.name, results))
        for case, result in sorted(results.items()):
            if result['behavior'] == 'FAILED' or not _closed_well(result):
                choice = CHOICES.get(case)
                print(f'{target.name}: {case} failed: {choice or "UNEXPECTED"}')
                if choice is None:
                    wrong.append(case)
            elif result['behavior'] == 'NON-STRICT':
                loose.setdefault(case, []).append(target.name)
    print()
    print(
        '| server | cases | OK | non-strict | informational | unimplemented | failed |'
        ' unclean close |'
    )
    print('|---|---|---|---|---|---|---|---|')
    print('\n'.join(rows))
    for case, found in sorted(loose.items()):
        print(f'non-strict: {case} ({", ".join(found)})')
    if wrong:
        sys.exit(f'{len(wrong)} failed cases are no choice of ours')


if __name__ == '__main__':
    main()
