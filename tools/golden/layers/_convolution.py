"""A convolution by PyTorch's module of this name: y = activation(convolution(x, weight) + bias)."""

import torch
import torch.nn.functional as F

from fixture import Case


def convolution(function, module, batch, size, channels, filters, kernel, activation=None, dtype="f32", **options):
    """`batch` and `size` are lists: without a batch x is [channels, ...size]."""
    layer = getattr(torch.nn, module)(channels, filters, kernel, **options)
    c = Case(function, dtype, **options, **({"activation": activation} if activation else {}))
    x = c.normal("x", *batch, channels, *size)
    y = torch.func.functional_call(layer, c.parameters(layer), (x,))
    return c.output(F.relu(y) if activation == "relu" else y)
