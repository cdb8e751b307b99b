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


class Tied(torch.nn.Module):
    """Input and output embedding are one matrix, as in many language models."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 4)
        self.output = torch.nn.Linear(4, 10, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x):
        return self.output(self.embedding(x))


@pytest.mark.parametrize("what", ["module", "state_dict"])
def test_tied_weights_stay_tied(what):
    model = Tied()
    ref = shoal.put(model if what == "module" else model.state_dict(), mutable=True)

    @shoal.remote
    def fill(refs):
        got = shoal.get(refs[0])
        got = got if isinstance(got, dict) else got.state_dict()
        got["embedding.weight"].fill_(3)

    got = shoal.get(ref)
    state = got if what == "state_dict" else got.state_dict()
    shoal.get(fill.remote([ref]))
    assert bool((state["output.weight"] == 3).all())
    assert state["output.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    assert what == "state_dict" or got.output.weight is got.embedding.weight


def test_tensors_over_one_storage_stay_so():
    flat = torch.arange(24, dtype=torch.float32)
    ref = shoal.put({"flat": flat, "matrix": flat.view(4, 6).t(), "tail": flat[20:], "alone": torch.zeros(2)}, mutable=True)
    one, other = shoal.get(ref), shoal.get(ref)
    one["flat"][23] = -1
    one["matrix"][0, 0] = -2
    assert other["tail"][3] == -1 and other["flat"][0] == -2 and other["matrix"].stride() == (1, 6)
    assert one["tail"].untyped_storage().data_ptr() == one["flat"].untyped_storage().data_ptr()
    assert other["alone"].tolist() == [0, 0]


@pytest.mark.parametrize("optimiser", ["SGD", "Adam", "RMSprop"])
def test_a_module_that_loads_a_shared_state_dict_trains_it(optimiser):
    ref = shoal.put(torch.nn.Linear(3, 1).state_dict(), mutable=True)

    @shoal.remote
    def train(refs, seed):
        model = torch.nn.Linear(3, 1, device="meta")
        model.load_state_dict(shoal.get(refs[0]), assign=True)
        optimise = getattr(torch.optim, optimiser)(model.parameters(), lr=0.05)
        random = torch.Generator().manual_seed(seed)
        for _ in range(200):
            x = torch.randn(16, 3, generator=random)
            optimise.zero_grad()
            with shoal.lock(refs[0]):
                ((model(x) - x.sum(1, keepdim=True)) ** 2).mean().backward()
                optimise.step()

    mine = torch.nn.Linear(3, 1, device="meta")
    mine.load_state_dict(shoal.get(ref), assign=True)
    assert mine.weight.requires_grad
    shoal.get([train.remote([ref], seed) for seed in range(2)])
    assert torch.allclose(mine.weight, torch.ones(1, 3), atol=0.1), mine.weight


def test_rollback_and_freezing_of_a_state_dict():
    ref = shoal.put(torch.nn.Linear(3, 3).state_dict(), mutable=True)
    state = shoal.get(ref)
    before = state["weight"].clone()
    with pytest.raises(KeyError), shoal.lock(ref, rollback=True):
        state["weight"].zero_()
        raise KeyError
    assert bool((state["weight"] == before).all())
    with pytest.raises(shoal.exceptions.WritableViewsError):
        shoal.freeze(ref)
    del state
    assert bool((shoal.get(shoal.freeze(ref))["weight"] == before).all())
