"""The parameter server with versions: readers take the newest complete weights, and wait for nobody.

Tasks work out gradients from the newest version and queue them. One process, here the driver, applies them and
publishes the next version. A task never sees weights that are half changed, and those that it has do not change
under its hands. With a single writer no step is lost; several would need a lock among them, or `compare_and_set`.
"""

import numpy as np

import shoal

TRUE = np.array([3.0, -1.0, 0.5, 2.0, -4.0])  # what is to be learned
WORKERS, STEPS, RATE = 4, 300, 0.05


@shoal.remote
def work(weights: shoal.Versioned, gradients: shoal.Queue, seed: int) -> int:
    random = np.random.default_rng(seed)
    for _ in range(STEPS):
        x = random.normal(size=(32, TRUE.size))
        newest, version = weights.get_with_version()
        gradients.put(x.T @ (x @ newest - x @ TRUE) / len(x))
    return version


shoal.init(num_cpus=2)
weights = shoal.Versioned(np.zeros(TRUE.size))
gradients = shoal.Queue(maxsize=2 * WORKERS)  # bounded: no gradient is much older than the weights
first = weights.get()
working = [work.remote(weights, gradients, seed) for seed in range(WORKERS)]
for _ in range(WORKERS * STEPS):
    gradient = gradients.get()
    with weights.update() as draft:
        draft -= RATE * gradient

assert all(version > STEPS // 2 for version in shoal.get(working))
print(f"{WORKERS} tasks, {STEPS} gradients each: version {weights.version} is the newest")
print("learned", weights.get().round(3))
print("whoever kept the first version still has it:", first)
assert weights.version == WORKERS * STEPS
assert np.allclose(weights.get(), TRUE, atol=1e-3) and not first.any()
