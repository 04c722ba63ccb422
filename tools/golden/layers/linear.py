"""linear: y = activation(x weightᵀ + bias)."""

import torch.nn.functional as F

from fixture import Case

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "geluTanh": lambda x: F.gelu(x, approximate="tanh")}


def linear(shape, features, bias=True, activation=None, dtype="f32"):
    c = Case("linear", dtype, **({"activation": activation} if activation else {}))
    x = c.normal("x", *shape)
    weight = c.normal("weight", features, shape[-1], scale=shape[-1] ** -0.5)
    y = F.linear(x, weight, c.normal("bias", features) if bias else None)
    return c.output(ACTIVATIONS[activation](y) if activation else y)


def cases():
    for shape, features in ([1], 1), ([67], 3), ([1, 1], 5), ([3, 67], 1), ([9, 67], 17), ([1, 257], 3):
        yield linear(shape, features)
    yield linear([67], 3, bias=False)
    yield linear([9, 67], 17, dtype="f16")
    for dtype in "f32", "f16":
        for bias in True, False:
            yield linear([2, 3, 17], 20, bias, dtype=dtype)
        for activation in ACTIVATIONS:
            yield linear([5, 17], 20, True, activation, dtype)
    for activation in ACTIVATIONS:
        yield linear([5, 17], 20, False, activation)
        yield linear([17], 3, True, activation)
    yield linear([2, 2, 67], 3, True, "gelu")
