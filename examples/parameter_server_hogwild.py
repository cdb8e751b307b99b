"""The parameter server without a lock ("Hogwild!"): all tasks read and write the weights as they are.

A reader may see weights of which some are newer than others, and of two subtractions from the same weight at
the same moment one may be lost. Gradient descent forgives both: each step starts from wherever the weights are.
What must be exact, here the number of steps, is a Counter.

The method: Niu, Recht, Ré, Wright, "Hogwild!: A Lock-Free Approach to Parallelizing Stochastic Gradient
Descent" (2011).
"""

from typing import Any

import numpy as np

import shoal

TRUE = np.array([3.0, -1.0, 0.5, 2.0, -4.0])  # what is to be learned
WORKERS, STEPS, RATE = 4, 300, 0.05


@shoal.remote
def train(weights: np.ndarray, steps: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(STEPS):
        x = random.normal(size=(32, TRUE.size))
        weights -= RATE * x.T @ (x @ weights - x @ TRUE) / len(x)
        steps.add()


shoal.init(num_cpus=2)
ref = shoal.put(np.zeros(TRUE.size), mutable=True)
steps = shoal.Counter()
shoal.get([train.remote(ref, steps, seed) for seed in range(WORKERS)])

weights = shoal.get(ref)
print(f"{WORKERS} tasks, {STEPS} steps each: {steps.value} were made; some may have been lost to others, and yet")
print("learned", weights.round(3))
assert steps.value == WORKERS * STEPS
assert np.allclose(weights, TRUE, atol=1e-3)
