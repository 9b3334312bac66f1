"""Break the hub on purpose, and see whether the simulation notices.

``cd tests && python -m simulation.mutants`` copies the package, changes one place at a
time, and simulates until a world fails. A mutant that survives is printed, and shows a
promise that nothing checks.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

SOURCE = Path(__file__).parents[2] / 'src'
TESTS = Path(__file__).parents[1]
SEEDS = 400


class Mutant(NamedTuple):
    """One defect: in `module`, `old` becomes `new`."""

    name: str
    module: str
    old: str
    new: str


MUTANTS = [
    Mutant(
        'gaps are not noticed',
        'feed.py',
        'offset > position.offset + 1',
        'offset > position.offset + 2',
    ),
    Mutant(
        'repeats are delivered',
        'feed.py',
        'if offset <= position.offset:\n                return False',
        'if offset < position.offset:\n                return False',
    ),
    Mutant(
        'another epoch is not noticed',
        'feed.py',
        'if epoch != position.epoch or offset',
        'if offset',
    ),
    Mutant(
        'what comes during a repair is forgotten',
        'feed.py',
        'if self.kept_overflow:\n            return\n',
        'if True:\n            return\n',
    ),
    Mutant(
        'a join does not flush first',
        'hub.py',
        'self._must_go_on(subscription)\n        self._fan_out.flush_feed(feed)',
        'self._must_go_on(subscription)',
    ),
    Mutant(
        'who is ahead gets everything',
        'fanout.py',
        'item.offset > subscription.offset',
        'item.offset > 0',
    ),
    Mutant(
        'who is ahead stays ahead',
        'feed.py',
        'if s.offset <= offset]',
        'if s.offset < offset]',
    ),
    Mutant(
        'a trimmed log counts as recovered',
        'protocol/recovery.py',
        'publications[0].offset != asked.offset + 1',
        'publications[0].offset < 0',
    ),
    Mutant(
        'a read cut short counts as recovered',
        'protocol/recovery.py',
        'return [] if top.offset == asked.offset else None',
        'return []',
    ),
    Mutant(
        'any epoch recovers',
        'protocol/recovery.py',
        'asked.epoch and asked.epoch != top.epoch',
        'False',
    ),
    Mutant(
        'what is published during a join is forgotten',
        'feed.py',
        'subscription.kept.append((publication, epoch))',
        'subscription.kept_bytes += 0',
    ),
    Mutant(
        'a restored link is not followed by a repair',
        'hub.py',
        'self._repairs.begin_all()',
        'self._repairs.links += 1',
    ),
    Mutant(
        'a link that is restored during a read is not noticed',
        'repair.py',
        'if links != self.links:',
        'if False:',
    ),
    Mutant(
        'a link that is restored while a channel opens is not noticed',
        'hub.py',
        '(links != self._repairs.links and feed.options.history_size)',
        'False',
    ),
    Mutant(
        'lost publications are passed over',
        'repair.py',
        'self._give_up(feed)\n',
        'feed.turn.clear()\n',
    ),
    Mutant(
        'slow readers are never closed',
        'fanout.py',
        "if feed.options.slow_reader == 'close':",
        "if feed.options.slow_reader == 'never':",
    ),
    Mutant(
        'what waits for slow readers is not bounded',
        'feed.py',
        'while len(pending) > 1 and subscription.pending_bytes > limit_bytes:',
        'while False:',
    ),
    Mutant(
        'slow readers get what waited after what is new',
        'hub.py',
        'items = feed.catch_up(subscription)',
        'items = feed.catch_up(subscription)[1:]',
    ),
    Mutant(
        'a leave during a join leaves a ghost',
        'hub.py',
        'if subscription.ended or subscription.connection.closed:',
        'if False:',
    ),
    Mutant(
        'who left while being entered stays present',
        'presence.py',
        'if subscription.ended:\n                # NOTE: it left',
        'if False:\n                # NOTE: it left',
    ),
    Mutant(
        'presence is not refreshed',
        'presence.py',
        'await asyncio.sleep(ttl_s / 3)',
        'await asyncio.sleep(ttl_s * 3)',
    ),
    Mutant(
        'presence is not removed',
        'presence.py',
        'self._leaving.append(subscription)',
        'self._leaving.clear()',
    ),
    Mutant(
        'joins and leaves overtake each other',
        'presence.py',
        'async with turn.lock:\n                yield',
        'yield',
    ),
    Mutant(
        'idle channels stay subscribed',
        'feeds.py',
        'await self._unsubscribe(feed.channel)',
        'pass',
    ),
    Mutant(
        'a channel that comes to life again is shut',
        'feeds.py',
        'if feed is not None and feed.idle and channel not in self._changing:',
        'if feed is not None and channel not in self._changing:',
    ),
    Mutant(
        'a connection that has ended is added',
        'hub.py',
        'if connection.closed:\n            raise ClosedError',
        'if False:\n            raise ClosedError',
    ),
    Mutant(
        'a subscription whose answer was lost stays at the broker',
        'feeds.py',
        'await self._unsubscribe(channel)\n            raise',
        'pass\n            raise',
    ),
    Mutant(
        'the last publication may be lost',
        'repair.py',
        'if feed.position == before != page.position:',
        'if False:',
    ),
]


def survives(mutant: Mutant) -> tuple[bool, str]:
    """Return whether no world fails, and the last line of what was said."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / 'falcon_channels'
        shutil.copytree(SOURCE / 'falcon_channels', package)
        path = package / mutant.module
        text = path.read_text()
        if mutant.old not in text:
            return True, f'{mutant.module} does not have {mutant.old!r}'
        path.write_text(text.replace(mutant.old, mutant.new, 1))
        result = subprocess.run(
            [sys.executable, '-m', 'simulation', '--seeds', str(SEEDS), '--one'],
            cwd=TESTS,
            env={**os.environ, 'PYTHONPATH': folder},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    said = [line for line in result.stdout.splitlines() if 'seed' in line]
    return result.returncode == 0, said[0][:150] if said else result.stderr[-150:]


def main() -> int:
    wanted = ' '.join(sys.argv[1:])
    survivors = 0
    for mutant in MUTANTS:
        if wanted in mutant.name:
            lives, said = survives(mutant)
            survivors += lives
            print(f'{"SURVIVES" if lives else "noticed "}  {mutant.name}: {said}')
    return survivors


if __name__ == '__main__':
    sys.exit(main())
