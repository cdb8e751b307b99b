"""A model's parameters in shared memory: an optimiser's step in one process is seen by all."""

import pytest

import shoal

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("session")


def test_an_optimiser_step_is_seen_everywhere():
    ref = shoal.put(torch.nn.Linear(4, 2), mutable=True)

    @shoal.remote
    def step(refs):
        model = shoal.get(refs[0])
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
        with shoal.lock(refs[0]):
            model(torch.ones(1, 4)).sum().backward()
            optimiser.step()

    model = shoal.get(ref)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    shoal.get(step.remote([ref]))
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.detach(), before[name] - 0.5), name


def test_a_state_dict_is_shared():
    ref = shoal.put(torch.nn.Linear(3, 3).state_dict(), mutable=True)

    @shoal.remote
    def clear(refs):
        for tensor in shoal.get(refs[0]).values():
            tensor.zero_()

    state = shoal.get(ref)
    shoal.get(clear.remote([ref]))
    assert all(not tensor.any() for tensor in state.values())
