"""Several processes train one PyTorch model in shared memory: an optimiser's step in one is seen by all.

The state_dict is put once as a mutable object. Each task builds the module without memory of its own (device="meta")
and takes the shared tensors as its parameters. Gradients and the optimiser's state stay private; the steps are made
in place, under the lock.
"""

import torch

import shoal

TASKS, STEPS = 2, 300


class Model(torch.nn.Module):
    """Two layers with tied weights: the second is the first one, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Linear(6, 2, bias=False)
        self.up = torch.nn.Linear(6, 2, bias=False)
        self.up.weight = self.down.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(x) @ self.up.weight


def shared_model(ref: shoal.ObjectRef) -> Model:
    with torch.device("meta"):  # no memory, no initial values
        model = Model()
    model.load_state_dict(shoal.get(ref), assign=True)  # its parameters are views of the shared memory
    return model


@shoal.remote
def train(refs: list[shoal.ObjectRef], seed: int) -> None:
    torch.set_num_threads(1)  # the parallelism is that of the tasks
    model, lock = shared_model(refs[0]), shoal.lock(refs[0])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02)
    random = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        hidden = torch.randn(64, 2, generator=random)
        x = torch.cat([hidden, hidden, hidden], 1)  # two numbers say it all
        with lock:
            optimiser.zero_grad()
            loss(model, x).backward()
            optimiser.step()


def loss(model: Model, x: torch.Tensor) -> torch.Tensor:
    return ((model(x) - x) ** 2).mean()


shoal.init(num_cpus=2)
torch.manual_seed(1)
ref = shoal.put(Model().state_dict(), mutable=True)
model = shared_model(ref)
sample = torch.cat([torch.eye(2)] * 3, 1)
before = float(loss(model, sample).detach())
shoal.get([train.remote([ref], seed) for seed in range(TASKS)])
after = float(loss(model, sample).detach())  # the driver's model has learned: it is the same memory
print(f"the driver's model had a loss of {before:.3f} and has {after:.3f} after {TASKS} tasks made {STEPS} steps each")
assert after < before / 100
assert model.up.weight.data_ptr() == model.down.weight.data_ptr()
