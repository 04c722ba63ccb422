"""math: elementwise and row, whose functions packages/math/test has as WGSL; here each is a few lines of PyTorch."""

import torch
import torch.nn.functional as F

from fixture import Case


def swish2(x, beta):
    return x * torch.sigmoid(beta * x)


def affine(x, scale, shift):
    return x * scale + shift


def chain(x, a, b, c):
    return torch.tanh(x * a + b) * torch.sigmoid(x) + c


def softmax(x):
    return x.softmax(-1)


def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], eps=1e-3) * weight + bias


def cross_entropy(x, target):
    return -(x.log_softmax(-1) * target).sum(-1)


def spread(x):
    """The distance of each element from its row's largest, over the row's standard deviation."""
    return (x.amax(-1, keepdim=True) - x) / (x.var(-1, keepdim=True, unbiased=False) + 0.1).sqrt()


def running_mean(x):
    return x.cumsum(-1) / torch.arange(1, x.shape[-1] + 1)


def causal(q, k, v):
    """Attention without a softmax along a row of numbers: what was seen so far, weighted by exp(k)."""
    e = (k - k.amax(-1, keepdim=True)).exp()
    return torch.sigmoid(q) * (e * v).cumsum(-1) / e.cumsum(-1)


def case(function, shapes, dtype="f32", **options):
    name = function.__name__.split("_")
    c = Case(name[0] + "".join(part.title() for part in name[1:]), dtype, **options)
    inputs = [c.normal(key, *shape) for key, shape in shapes.items()]
    return c.output(function(*inputs))


def cases():
    yield case(swish2, {"x": [3, 67], "beta": []})
    yield case(swish2, {"x": [4, 1], "beta": [1, 5]})
    yield case(swish2, {"x": [5, 1], "beta": [8]}, "f16")
    yield case(affine, {"x": [2, 3, 4, 8], "scale": [1, 3, 1, 1], "shift": [2, 1, 4, 1]})
    yield case(chain, {"x": [9, 12], "a": [12], "b": [9, 1], "c": []})
    yield case(softmax, {"x": [3, 67]})
    yield case(layer_norm, {"x": [2, 3, 7], "weight": [7], "bias": [3, 1]})
    yield case(layer_norm, {"x": [4, 16], "weight": [16], "bias": [16]}, "f16")
    yield case(cross_entropy, {"x": [5, 12], "target": [5, 12]}, perRow=True)
    yield case(spread, {"x": [3, 33]})
    yield case(running_mean, {"x": [2, 3, 37]})
    yield case(causal, {"q": [3, 33], "k": [3, 33], "v": [33]})
