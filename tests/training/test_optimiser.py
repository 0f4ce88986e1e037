import math

import pytest
import torch

from tunewise.models import aside
from tunewise.training.config import TrainConfig
from tunewise.training.optimiser import Optimiser


@pytest.mark.parametrize(("beta1", "beta2", "epsilon"), [(0.9, 0.999, 1e-8), (0.8, 0.95, 1e-3)])
def test_adamw_is_the_papers_algorithm(beta1, beta2, epsilon):
    torch.manual_seed(0)
    start = torch.randn(4, 3, dtype=torch.float64)
    tensor = torch.nn.Parameter(start.clone())
    optimiser = Optimiser({"w": tensor}, TrainConfig(weight_decay=0.1, beta1=beta1, beta2=beta2, epsilon=epsilon))
    value, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for t in range(1, 6):
        gradient, rate = torch.randn_like(start), 0.01 * t
        tensor.grad = gradient.clone()
        optimiser.gradient_norm(None)
        optimiser.step(rate)
        optimiser.zero_grad()
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        value = value - rate * (m_hat / (v_hat.sqrt() + epsilon) + 0.1 * value)
        torch.testing.assert_close(tensor.detach(), value, rtol=0, atol=1e-12)


def test_decay_spares_vectors():
    vector, matrix = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, 3))
    optimiser = Optimiser({"b": vector, "w": matrix}, TrainConfig(weight_decay=0.5))
    vector.grad, matrix.grad = torch.zeros(3), torch.zeros(3, 3)
    optimiser.gradient_norm(None)
    optimiser.step(0.1)
    assert torch.equal(vector.detach(), torch.ones(3))
    torch.testing.assert_close(matrix.detach(), torch.full((3, 3), 0.95))


def test_the_norm_is_of_the_whole_gradient_and_clipping_rescales_it():
    a, b = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2, 1))
    optimiser = Optimiser({"a": a, "b": b})
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([[4.0], [0.0]])
    assert optimiser.gradient_norm(1.0).item() == 5.0
    torch.testing.assert_close(torch.cat([a.grad, b.grad[:, 0]]), torch.tensor([0.6, 0, 0.8, 0]), rtol=1e-5, atol=0)
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([[4.0], [0.0]])
    assert optimiser.gradient_norm(None).item() == 5.0
    assert a.grad.tolist() == [3.0, 0.0]


def test_updates_too_small_for_bfloat16_add_up_in_the_master():
    tensor = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    optimiser = Optimiser({"w": tensor})
    for _ in range(20):
        tensor.grad = torch.ones(2, 2, dtype=torch.bfloat16)
        optimiser.gradient_norm(None)
        optimiser.step(0.001)
        optimiser.zero_grad()
    # each update is 0.001, a quarter of bfloat16's spacing below 1; without a master none would leave a trace
    torch.testing.assert_close(tensor.detach().float(), torch.full((2, 2), 0.98), rtol=0, atol=0.003)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimiser_goes_on_bit_for_bit(dtype):
    def steps(optimiser, tensor, numbers):
        for number in numbers:
            tensor.grad = torch.full((3, 2), 0.1 * number, dtype=dtype)
            optimiser.gradient_norm(1.0)
            optimiser.step(0.01)
            optimiser.zero_grad()

    whole = torch.nn.Parameter(torch.ones(3, 2, dtype=dtype))
    steps(Optimiser({"w": whole}, TrainConfig(weight_decay=0.1)), whole, range(1, 9))
    first = torch.nn.Parameter(torch.ones(3, 2, dtype=dtype))
    before = Optimiser({"w": first}, TrainConfig(weight_decay=0.1))
    steps(before, first, range(1, 5))
    saved = {name: tensor.clone() for name, tensor in before.state().items()}
    second = torch.nn.Parameter(first.detach().clone())
    after = Optimiser({"w": second}, TrainConfig(weight_decay=0.1))
    after.load_state(saved)
    steps(after, second, range(5, 9))
    assert torch.equal(whole, second)


def test_the_names_of_the_hugging_face_trainer_are_accepted():
    config = TrainConfig.model_validate(
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5}
    )
    assert (config.batch_size, config.accumulation, config.clip) == (4, 2, 0.5)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit", "adafactor", "muon", "sgd"])
@pytest.mark.parametrize("clip", [1.0, None])
def test_layer_by_layer_it_makes_the_same_steps_with_one_layer_widened_at_a_time(monkeypatch, kind, clip):
    shapes = {
        "embedding": (64, 80),
        "layers.0.q": (80, 80),
        "layers.0.norm": (80,),
        "layers.1.q": (80, 80),
        "end": (9,),
    }
    dtypes = {"layers.1.q": torch.float32}

    def trained(most_in_memory):
        monkeypatch.setattr(aside, "LARGEST_IN_MEMORY_BYTES", most_in_memory)
        generator = torch.Generator().manual_seed(0)
        tensors = {
            name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtypes.get(name, torch.bfloat16)))
            for name, shape in shapes.items()
        }
        optimiser, norms, widened = Optimiser(tensors, TrainConfig(weight_decay=0.1, optimiser=kind)), [], []
        update = optimiser._update
        monkeypatch.setattr(
            optimiser,
            "_update",
            lambda: (widened.append(sum(p.grad is not None for p in optimiser._masters.values())), update()),
        )
        for number in range(1, 6):
            for name, tensor in tensors.items():
                if name != "end" or number % 2:
                    tensor.grad = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            before = tensors["layers.1.q"].grad.clone()
            norms.append(optimiser.gradient_norm(clip))
            optimiser.step(0.01 / number)
            torch.testing.assert_close(tensors["layers.1.q"].grad, before * min(1.0, (clip or 1e9) / norms[-1].item()))
            optimiser.zero_grad()
        return tensors, optimiser.state(), norms, widened

    expected, state, norms, at_once = trained(1 << 28)
    found, own_state, own_norms, in_parts = trained(0)
    assert own_norms == norms
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert own_state.keys() == state.keys()
    assert all(torch.equal(own_state[name], value) for name, value in state.items())
    assert (max(at_once), max(in_parts)) == (4, 2)


def test_a_gradient_that_is_not_finite_is_told_before_its_layer_is_reached(monkeypatch):
    monkeypatch.setattr(aside, "LARGEST_IN_MEMORY_BYTES", 0)
    tensor = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimiser = Optimiser({"w": tensor})
    tensor.grad = torch.tensor([1.0, math.nan, 0.0], dtype=torch.bfloat16)
    assert math.isnan(optimiser.gradient_norm(1.0))
    optimiser.zero_grad()
    tensor.grad = torch.ones(3, dtype=torch.bfloat16)
    optimiser.gradient_norm(1.0)
    optimiser.step(0.1)
    assert torch.allclose(tensor.float(), torch.full((3,), 0.9), atol=0.01)
