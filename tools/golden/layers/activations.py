"""activations: y = f(x) at the boundaries of every piece of f, far out on both sides, and at random points between."""

import torch
import torch.nn.functional as F

from fixture import Case

# Thresholds of the functions, 20 and the next number above (softplus), where exp of a float overflows or vanishes (88.7, 104).
MAGNITUDES = [0, 1e-6, 1e-3, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 5, 6, 10, 20, 20.000002, 30, 50, 88, 89, 104, 1e3, 1e4]

FUNCTIONS = [
    ("relu", F.relu, {}),
    ("relu6", F.relu6, {}),
    ("leakyRelu", F.leaky_relu, {}, {"negative_slope": 0.2}, {"negative_slope": -0.5}, {"negative_slope": 0.0}),
    ("elu", F.elu, {}, {"alpha": 0.5}),
    ("celu", F.celu, {}, {"alpha": 0.5}, {"alpha": 2.0}),
    ("selu", F.selu, {}),
    ("gelu", F.gelu, {}, {"approximate": "tanh"}),
    ("silu", F.silu, {}),
    ("mish", F.mish, {}),
    ("sigmoid", torch.sigmoid, {}),
    ("logSigmoid", F.logsigmoid, {}),
    ("tanh", torch.tanh, {}),
    ("hardsigmoid", F.hardsigmoid, {}),
    ("hardswish", F.hardswish, {}),
    ("hardtanh", F.hardtanh, {}, {"min_val": -0.5, "max_val": 2.0}, {"min_val": 1.0, "max_val": 3.0}),
    ("softplus", F.softplus, {}, {"beta": 2.0, "threshold": 5.0}, {"beta": 0.5}),
    ("softsign", F.softsign, {}),
    ("tanhshrink", F.tanhshrink, {}),
    ("hardshrink", F.hardshrink, {}, {"lambd": 1.0}, {"lambd": 0.0}),
    ("softshrink", F.softshrink, {}, {"lambd": 1.0}, {"lambd": 0.0}),
    ("squaredRelu", lambda x: F.relu(x).square(), {}),
]


def activation(name, function, dtype="f32", **options):
    c = Case(name, dtype, **options)
    magnitudes = torch.tensor([m for m in MAGNITUDES if dtype == "f32" or m <= 104])
    points = torch.cat([magnitudes, -magnitudes])  # -0 too
    x = c.leaf("x", torch.cat([points, c.random("x", (97 if dtype == "f32" else 67) - len(points)) * 3]))
    return c.output(function(x, **options))


def cases():
    for name, function, *variants in FUNCTIONS:
        for options in variants:
            yield activation(name, function, **options)
        yield activation(name, function, "f16")
    yield activation("gelu", F.gelu, "f16", approximate="tanh")
