"""A parameter server in fifteen lines, with a lock: tasks learn the weights of a linear model together.

There is no server process. The weights are one mutable array; a task copies them under the lock, works out a
gradient without it, and applies the gradient under the lock. No step is lost and no half-made one is read.
"""

import numpy as np

import shoal

TRUE = np.array([3.0, -1.0, 0.5, 2.0, -4.0])  # what is to be learned
WORKERS, STEPS, RATE = 4, 300, 0.05


@shoal.remote
def train(refs: list[shoal.ObjectRef], seed: int) -> None:
    model = shoal.get(refs[0])  # a dict of arrays: views of the shared memory
    lock = shoal.lock(refs[0])
    random = np.random.default_rng(seed)
    for _ in range(STEPS):
        x = random.normal(size=(32, TRUE.size))
        with lock:
            weights = model["weights"].copy()
        gradient = x.T @ (x @ weights - x @ TRUE) / len(x)
        with lock:
            model["weights"] -= RATE * gradient
            model["steps"] += 1


shoal.init(num_cpus=2)
ref = shoal.put({"weights": np.zeros(TRUE.size), "steps": np.zeros(1, np.int64)}, mutable=True)
shoal.get([train.remote([ref], seed) for seed in range(WORKERS)])

model = shoal.get(ref)
print(f"{WORKERS} tasks, {STEPS} steps each: {model['steps'][0]} steps are in the weights")
print("learned", model["weights"].round(3))
assert model["steps"][0] == WORKERS * STEPS
assert np.allclose(model["weights"], TRUE, atol=1e-3)
