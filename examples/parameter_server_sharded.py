"""The parameter server in several shards, each with a lock of its own: tasks wait for each other less.

Each shard is a mutable object, so each has its own lock. A task holds one lock at a time, and begins with
another shard than its neighbour. What this gives up: the weights of different shards that a task reads need
not belong to the same moment.
"""

import numpy as np

import shoal

SHARDS, SIZE = 4, 3  # the model has SHARDS * SIZE weights
TRUE = np.arange(SHARDS * SIZE) - 5.0  # what is to be learned
WORKERS, STEPS, RATE = 4, 300, 0.05


def locked(ref: shoal.ObjectRef) -> np.ndarray:
    """A copy of a shard, whole."""
    with shoal.lock(ref):
        return shoal.get(ref)["weights"].copy()


@shoal.remote
def train(shards: list[shoal.ObjectRef], seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(STEPS):
        x = random.normal(size=(32, TRUE.size))
        weights = np.concatenate([locked(ref) for ref in shards])
        gradient = x.T @ (x @ weights - x @ TRUE) / len(x)
        for k in range(SHARDS):
            i = (seed + k) % SHARDS
            with shoal.lock(shards[i]):
                shard = shoal.get(shards[i])
                shard["weights"] -= RATE * gradient[i * SIZE : (i + 1) * SIZE]
                shard["steps"] += 1


shoal.init(num_cpus=2)
shards = [shoal.put({"weights": np.zeros(SIZE), "steps": np.zeros(1, np.int64)}, mutable=True) for _ in range(SHARDS)]
shoal.get([train.remote(shards, seed) for seed in range(WORKERS)])

for i, shard in enumerate(shoal.get(shards)):
    print(f"shard {i}: {shard['steps'][0]} steps, learned", shard["weights"].round(3) + 0.0)  # + 0.0: no -0
    assert shard["steps"][0] == WORKERS * STEPS
    assert np.allclose(shard["weights"], TRUE[i * SIZE : (i + 1) * SIZE], atol=1e-3)
