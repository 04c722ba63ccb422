"""softmax, logSoftmax and softmin over `dim`; `causal` lets row i of the last two dimensions see columns 0 to i only."""

import torch
import torch.nn.functional as F

from fixture import Case

FUNCTIONS = {"softmax": F.softmax, "logSoftmax": F.log_softmax, "softmin": F.softmin}


def softmax(name, shape, dim, scale=1, dtype="f32", **options):
    c = Case(name, dtype, dim=dim, **options)
    x = c.normal("x", *shape, scale=scale)
    if options.get("causal"):
        hidden = float("inf" if name == "softmin" else "-inf")
        x = x.masked_fill(torch.ones(shape[-2:], dtype=torch.bool).triu(1), hidden)
    return c.output(FUNCTIONS[name](x, dim=dim))


def minus_infinity(name):
    """An x of −∞, for softmin +∞, has probability 0."""
    c = Case(name, dim=-1)
    values = c.random("x", 3, 9)
    values[torch.tensor([[0, 0, 1, 2], [3, 8, 0, 5]]).unbind()] = float("inf" if name == "softmin" else "-inf")
    return c.output(FUNCTIONS[name](c.leaf("x", values), dim=-1))


def cases():
    for name in FUNCTIONS:
        for shape, dim in ([1], 0), ([67, 3], -1), ([3, 67], 0), ([2, 3, 5], 1), ([1, 257], 1):
            yield softmax(name, shape, dim)
        yield softmax(name, [3, 65], -1, scale=100)  # exp would overflow
        yield softmax(name, [3, 67], -1, dtype="f16")
        yield softmax(name, [], 0)
        yield softmax(name, [2, 21, 4], -2)
        yield softmax(name, [2, 5, 5], -1, causal=True)
        yield minus_infinity(name)
    yield softmax("softmax", [1, 1025], -1)
    yield softmax("softmax", [3, 7], -1, causal=True)
    yield softmax("logSoftmax", [2, 6, 4], -1, causal=True)
