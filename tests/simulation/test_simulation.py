"""The hub under faults: hundreds of simulations, each decided by its seed."""

from __future__ import annotations

import os

import pytest

from simulation.world import simulate

# NOTE: `make simulate SEEDS=...` runs more; `SEED=...` replays one.
SEEDS = int(os.environ.get('SIMULATE_SEEDS', '180'))
BATCHES = 6


@pytest.mark.parametrize('batch', range(BATCHES))
def test_every_seed_keeps_order_recovery_presence_and_limits(batch: int) -> None:
    """In every simulation, order, recovery, presence, limits and draining are right."""
    received = num_deltas = 0
    for seed in range(batch, SEEDS, BATCHES):
        world = simulate(seed)
        received += sum(actor.received for actor in world.actors)
        num_deltas += world.num_deltas
    assert received > SEEDS
    assert num_deltas > SEEDS


@pytest.mark.parametrize('seed', [3, 7])
def test_same_seed_replays_the_same_trace(seed: int) -> None:
    """Two simulations with the same seed have the same trace, line by line."""
    first = simulate(seed)
    second = simulate(seed)
    assert first.trace == second.trace
    assert len(first.trace) > 50
