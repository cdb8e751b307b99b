"""A replay buffer: actors explore a small world and append what they saw, a learner samples it in batches.

The buffer is a Ring in shared memory. Nobody serves it: an actor writes its record in place, the learner copies
a batch out, and a record that is half written is never in it. The world is a corridor of six cells; only the step
into the last cell pays. The learner finds what each cell is worth from the samples (Q-learning).
"""

import numpy as np

import shoal

CELLS, DISCOUNT, EXPLORERS, STEPS = 6, 0.8, 2, 3000
FIELDS = {"cell": ((), "int64"), "move": ((), "int64"), "reward": ((), "float64"), "then": ((), "int64")}


@shoal.remote
class Explorer:
    """Walks at random and records each step."""

    def __init__(self, ring: shoal.Ring, seed: int) -> None:
        self.ring, self.random, self.cell = ring, np.random.default_rng(seed), 0

    def explore(self) -> int:
        for _ in range(STEPS):
            move = int(self.random.integers(2))
            then = max(0, self.cell + (1 if move else -1))
            self.ring.append(cell=self.cell, move=move, reward=float(then == CELLS - 1), then=then)
            self.cell = 0 if then == CELLS - 1 else then  # the last cell is the end: begin again
        return STEPS


shoal.init(num_cpus=2)
ring = shoal.Ring(2000, FIELDS)
exploring = [Explorer.remote(ring, seed).explore.remote() for seed in range(EXPLORERS)]

worth = np.zeros((CELLS, 2))  # of going left and right from each cell
random = np.random.default_rng(0)
for _ in range(2):
    for _ in range(300):  # the first 300 batches while the explorers are at work
        while len(ring) < 64:
            shoal.wait(exploring, timeout=0.001)
        batch = ring.sample(64, rng=random)
        best = worth[batch["then"]].max(axis=1) * (batch["then"] < CELLS - 1)
        worth[batch["cell"], batch["move"]] = batch["reward"] + DISCOUNT * best
    appended = sum(shoal.get(exploring))

print(f"{EXPLORERS} actors appended {appended} records; the ring keeps the last {len(ring)}")
for cell in range(CELLS - 1):
    left, right = worth[cell]
    print(f"cell {cell}: left {left:.3f}, right {right:.3f}, so go {'right' if right > left else 'left'}")
assert ring.statistics()["appended"] == appended == EXPLORERS * STEPS
expected = DISCOUNT ** np.arange(CELLS - 2, -1, -1)
assert np.allclose(worth[:-1, 1], expected)
