"""The product with a weight that is made anew, against the dense one."""

import torch
from torch.autograd import gradcheck
from torch.nn import functional

from tunewise.models.codes import product


def test_gradients_are_those_of_the_product():
    generator = torch.Generator().manual_seed(0)
    x, bias, weight = (torch.randn(*shape, generator=generator).double() for shape in ((2, 3, 5), (4,), (4, 5)))
    assert torch.equal(product(x, bias, lambda: weight), functional.linear(x, weight, bias))
    assert gradcheck(lambda x, bias: product(x, bias, lambda: weight), (x.requires_grad_(), bias.requires_grad_()))
    assert gradcheck(lambda x: product(x, None, lambda: weight), (x,))


def test_the_weight_is_made_once_for_each_pass_that_needs_it():
    made = []

    def weight():
        made.append(1)
        return torch.ones(4, 5)

    x, bias = torch.ones(2, 5), torch.zeros(4, requires_grad=True)
    product(x, bias, weight).sum().backward()
    assert len(made) == 1  # nobody asked for the gradient of x
    assert torch.equal(bias.grad, torch.full((4,), 2.0))
    product(x.requires_grad_(), bias, weight).sum().backward()
    assert len(made) == 3
