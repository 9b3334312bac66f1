"""Run many simulations, or replay one: ``make simulate SEEDS=1000``, ``SEED=7``."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from simulation.world import simulate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, default=1000, help='number of simulations')
    parser.add_argument('--first', type=int, default=0, help='the first seed')
    parser.add_argument('--seed', type=int, help='replay this seed and print its trace')
    parser.add_argument('--one', action='store_true', help='stop at the first failure')
    args = parser.parse_args()
    if args.seed is not None:
        world = simulate(args.seed)
        print('\n'.join(world.trace))
        return 0
    failed = []
    start = time.monotonic()
    for seed in range(args.first, args.first + args.seeds):
        try:
            simulate(seed)
        except Exception:
            failed.append(seed)
            print(traceback.format_exc(limit=-3))
            if args.one or len(failed) == 10:
                break
    seconds = time.monotonic() - start
    print(f'{args.seeds} simulations in {seconds:.1f} s; failed: {failed}')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
