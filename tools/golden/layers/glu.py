"""glu: y = a · activation(b), where a and b are the halves of x along `dim`; PyTorch's GLU is the sigmoid's."""

import torch
import torch.nn.functional as F

from fixture import Case

ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "geluTanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}


def glu(shape, dim, activation, dtype="f32"):
    c = Case("glu", dtype, dim=dim, activation=activation)
    a, b = c.normal("x", *shape).chunk(2, dim)
    return c.output(a * ACTIVATIONS[activation](b))


def cases():
    for activation in ACTIVATIONS:
        yield glu([3, 66], -1, activation)
        yield glu([2, 6, 17], 1, activation)
        yield glu([3, 34], -1, activation, "f16")
        yield glu([3, 72], -1, activation)
    yield glu([2], 0, "sigmoid")
    yield glu([4, 3], 0, "sigmoid")
    yield glu([2, 6, 4], -2, "sigmoid")
    yield glu([2, 3, 2, 8], 3, "silu", "f16")
