"""Run all benchmarks, or some of them, one after the other.

    python -m benchmarks [--quick] [--json FOLDER] [NAME ...]

Each benchmark is a script with more options: `python -m benchmarks.fanout --help`.

    echo          what an echo through on_websocket costs        12 minutes
    fanout        what a delivery to 10, 500, 5,000 costs        35 minutes
    rooms         what a delivery costs in 500 rooms of ten      10 minutes
    connections   what a new connection costs                     4 minutes
    storm         what it costs when all clients reconnect at once 5 minutes
    event_streams what a chunk of an answer costs                 3 minutes
    idle_memory   what an idle connection costs in memory         5 minutes
    filters       what a delivery costs with ten tag filters      2 minutes
    delta         what deltas save, and what they cost           4 minutes
    explain       what recording deliveries costs                4 minutes
    blocking      how long one message blocks the event loop        1 minute
    monitoring    what metrics and tracing cost                   4 minutes

All benchmarks need Linux, two idle cores, a C compiler (cc) and as many file
descriptors as connections (`ulimit -n`: 9,100). With --quick, each benchmark does one
short repetition of its main cases. All of them take three minutes. The results are
orders of magnitude, not figures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import subprocess
import sys

NAMES = (
    'echo',
    'fanout',
    'rooms',
    'connections',
    'storm',
    'event_streams',
    'idle_memory',
    'filters',
    'delta',
    'explain',
    'blocking',
    'monitoring',
)


def main() -> None:
    """Run the scripts one after the other; each prints its own tables."""
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('names', nargs='*', choices=[[], *NAMES], metavar='NAME')
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--json', type=Path, help='write all samples to this folder')
    args = parser.parse_args()
    if args.json is not None:
        args.json.mkdir(parents=True, exist_ok=True)
    for name in args.names or NAMES:
        words = ['--quick'] if args.quick else []
        if args.json is not None:
            words += ['--json', str(args.json / f'{name}.json')]
        print(f'\n## {" ".join(["python -m", f"benchmarks.{name}", *words])}\n')
        sys.stdout.flush()
        subprocess.run([sys.executable, '-m', f'benchmarks.{name}', *words], check=True)


if __name__ == '__main__':
    main()
