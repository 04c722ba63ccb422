"""math: functions of numbers at their seams, far out on both sides, and at random points between; functions of rows.

Functions of several numbers take their arguments by name, in order. Those of rows work on the last axis; a loss of a row
stands there once, and its gradient is that of the row.
"""

import torch
import torch.nn.functional as F

from fixture import Case

# Thresholds of the functions, 20 and the next number above (softplus), where exp of a float overflows or vanishes.
MAGNITUDES = [0, 1e-6, 1e-3, 0.25, 0.5, 1, 1.5, 2, 3, 5, 6, 10, 15, 20, 20.000002, 50, 89, 104, 1e3, 1e4]
SMALL = [m for m in MAGNITUDES if m <= 20]

ACTIVATIONS = [
    ("relu", F.relu, {}),
    ("squaredRelu", lambda x: F.relu(x).square(), {}),
    ("relu6", F.relu6, {}),
    ("sigmoid", torch.sigmoid, {}),
    ("logSigmoid", F.logsigmoid, {}),
    ("tanh", torch.tanh, {}),
    ("gelu", F.gelu, {}),
    ("geluTanh", lambda x: F.gelu(x, approximate="tanh"), {}),
    ("silu", F.silu, {}),
    ("hardsigmoid", F.hardsigmoid, {}),
    ("hardswish", F.hardswish, {}),
    ("selu", F.selu, {}),
    ("mish", F.mish, {}),
    ("softsign", F.softsign, {}),
    ("tanhshrink", F.tanhshrink, {}),
    ("leakyRelu", F.leaky_relu, {}, {"negative_slope": 0.2}, {"negative_slope": -0.5}, {"negative_slope": 0.0}),
    ("elu", F.elu, {}, {"alpha": 0.5}, {"alpha": -1.0}),
    ("celu", F.celu, {}, {"alpha": 0.5}, {"alpha": 2.0}),
    ("hardtanh", F.hardtanh, {}, {"min_val": -0.5, "max_val": 2.0}, {"min_val": 1.0, "max_val": 1.0}),
    ("softplus", F.softplus, {}, {"beta": 2.0, "threshold": 5.0}, {"beta": 0.5}, {"beta": -1.0}),
    ("hardshrink", F.hardshrink, {}, {"lambd": 1.0}, {"lambd": 0.0}, {"lambd": -1.0}),
    ("softshrink", F.softshrink, {}, {"lambd": 1.0}, {"lambd": 0.0}),
    ("threshold", F.threshold, {"threshold": 0.5, "value": -2.0}, {"threshold": 0.0, "value": 0.0}),
    ("softcap", lambda x, cap: cap * torch.tanh(x / cap), {"cap": 30.0}, {"cap": 0.5}),
]

NUMERICS = [
    ("accurateExp", torch.exp, lambda m: m <= 50),
    ("expm1", torch.expm1, lambda m: m <= 50),
    ("log1p", torch.log1p, None),
    ("stableSoftplus", lambda x: -F.logsigmoid(-x), lambda m: True),
    ("erf", torch.erf, lambda m: True),
    ("erfc", torch.erfc, lambda m: m <= 6),
    ("erfinv", torch.erfinv, None),
    ("normalCdf", torch.special.ndtr, lambda m: True),
]

PAIRS = [
    ("logAddExp", torch.logaddexp, ("a", "b")),
    ("glu", lambda a, b: a * torch.sigmoid(b), ("a", "b")),
    ("swiglu", lambda a, b: a * F.silu(b), ("a", "b")),
    ("geglu", lambda a, b: a * F.gelu(b), ("a", "b")),
    ("reglu", lambda a, b: a * F.relu(b), ("a", "b")),
    ("prelu", lambda x, weight: torch.where(x > 0, x, weight * x), ("x", "weight")),
    ("l1Loss", lambda x, t: F.l1_loss(x, t, reduction="none"), ("x", "expected")),
    ("squaredLoss", lambda x, t: F.mse_loss(x, t, reduction="none"), ("x", "expected")),
]

OTHERS = [
    ("smoothL1Loss", lambda x, t, beta: F.smooth_l1_loss(x, t, reduction="none", beta=beta), ("beta",), (1.0, 0.25)),
    ("huberLoss", lambda x, t, delta: F.huber_loss(x, t, reduction="none", delta=delta), ("delta",), (1.0, 0.25)),
]


def points(c, magnitudes, count):
    both = torch.tensor([*magnitudes, *(-m for m in magnitudes)], dtype=torch.float32)  # -0 too
    return torch.cat([both, c.random("x", count - len(both)) * 3])


def activations():
    for name, function, *variants in ACTIVATIONS:
        for options in variants:
            c = Case(name, **options)
            x = c.leaf("x", points(c, MAGNITUDES, 61))
            yield c.output(function(x, **options))
    for name, function, wanted in NUMERICS:
        c = Case(name)
        if name == "log1p":
            x = c.leaf("x", torch.cat([torch.tensor([0.0, 1e-6, -1e-6, 0.4, -0.4, 1e4, 1e30]), c.random("x", 54).exp() - 0.999]))
        elif name == "erfinv":
            x = c.leaf("x", torch.cat([torch.tensor([0.0, 1e-6, -1e-6, 0.9999, -0.9999]), c.random("x", 56).tanh() * 0.999]))
        else:
            x = c.leaf("x", points(c, [m for m in MAGNITUDES if wanted(m)], 61))
        yield c.output(function(x))


def several():
    for name, function, names in PAIRS:
        c = Case(name)
        # both alike, one far above the other, both anywhere
        x = c.leaf(names[0], points(c, SMALL, 61))
        other = torch.cat([x.detach()[:20], c.random("other", 41) * 2])
        yield c.output(function(x, c.leaf(names[1], other)))
    for name, function, (key,), values in OTHERS:
        for value in values:
            c = Case(name, **{key: value})
            # at the seam, on both sides of it, for either sign
            expected = c.random("expected", 61)
            steps = torch.tensor([0.0, value, -value, 2 * value, -2 * value, value / 2, -value / 2] * 3)
            expected[:21] = (expected[:21] * 64).round() / 64
            x = torch.cat([expected[:21] + steps, c.random("x", 40) * 2])
            yield c.output(function(c.leaf("x", x), c.leaf("expected", expected), value))
    c = Case("standardize")
    x, mean, inv, weight, bias = (c.normal(key, 31) for key in ("x", "mean", "invStd", "weight", "bias"))
    yield c.output(torch.addcmul(bias, (x - mean) * inv, weight))
    c = Case("updateEma")
    old, new, momentum = c.normal("old", 31), c.normal("new_", 31), c.leaf("momentum", c.random("momentum", 31).sigmoid())
    yield c.output(torch.lerp(old, new, momentum))


def rows():
    for name, function in [
        ("softmax", lambda x: F.softmax(x, -1)),
        ("softmin", lambda x: F.softmin(x, -1)),
        ("logSoftmax", lambda x: F.log_softmax(x, -1)),
    ]:
        c = Case(name)
        yield c.output(function(c.normal("x", 3, 7, scale=3)))
    c = Case("logSumExp")
    yield c.output(torch.logsumexp(c.normal("x", 3, 7, scale=3, shift=90), -1))
    c = Case("nllLoss")
    x = c.leaf("logProbability", F.log_softmax(c.random("x", 3, 7), -1))
    target = torch.tensor([2, 0, 6])
    c.constant("probability", F.one_hot(target, 7).float())
    yield c.output(F.nll_loss(x, target, reduction="none"))
    c = Case("crossEntropy")
    x = c.normal("logit", 3, 7, scale=3)
    yield c.output(F.cross_entropy(x, c.constant("probability", c.random("p", 3, 7).softmax(-1)), reduction="none"))
    for eps in (1e-5, 0.1):
        c = Case("meanAndInvStd", eps=eps)
        x = c.normal("x", 3, 7, scale=2, shift=5)
        yield c.output(torch.stack([x.mean(-1), (x.var(-1, unbiased=False) + eps).rsqrt()], -1))
    # a running state that is not empty, as batch norm's second batch
    c = Case("updateWelford")
    state, x = c.leaf("state", torch.tensor([[4.0, 100.5, 3.0], [1.0, -2.0, 0.0], [7.0, 0.25, 9.0]])), c.normal("x", 3, shift=2)
    count = state[:, 0] + 1
    mean = (state[:, 0] * state[:, 1] + x) / count
    yield c.output(torch.stack([count, mean, state[:, 2] + (x - state[:, 1]) * (x - mean)], -1))
    c = Case("accumLinear")
    accumulator, a, b = c.normal("accumulator", 3), c.normal("a", 3, 4), c.normal("b", 3, 4)
    yield c.output(accumulator + torch.linalg.vecdot(a, b))


def cases():
    yield from activations()
    yield from several()
    yield from rows()
