"""layernorm: y = (x - mean) / sqrt(var + eps) · weight + bias over the normalized shape.

With a residual x + residual is normalized; `sum` and its upstream gradient `dsum` are stored as well.
"""

import torch.nn.functional as F

from fixture import Case


def layer_norm(shape, rank=1, weight=True, bias=True, residual=False, scale=1, shift=0, **options):
    normalized = shape[-rank:]
    c = Case("layerNorm", normalized_shape=normalized, **options)
    x = c.normal("x", *shape, scale=scale, shift=shift)
    if residual:
        x = x + c.normal("residual", *shape)
    weight = c.normal("weight", *normalized) if weight else None
    bias = c.normal("bias", *normalized) if bias else None
    y = F.layer_norm(x, normalized, weight, bias, options.get("eps", 1e-5))
    if residual:
        dsum = c.random("dsum", *shape).to(c.stored)
        x.backward(dsum.float(), retain_graph=True)
        c.store("sum", x)
        c.store("dsum", dsum)
    return c.output(y)


def cases():
    yield layer_norm([1], eps=0.1)
    yield layer_norm([5, 1], eps=0.1)
    yield layer_norm([1, 3])
    yield layer_norm([67, 3])
    yield layer_norm([2, 3, 67])
    yield layer_norm([1, 1025], bias=False)
    yield layer_norm([3, 5, 17], rank=2)
    yield layer_norm([3, 67], rank=2)
    yield layer_norm([2, 3, 5, 7], rank=3)
    for dtype in "f32", "f16":
        for rank in (1, 2) if dtype == "f32" else (1,):
            yield layer_norm([2, 5, 17], rank, bias=False, dtype=dtype)
            yield layer_norm([2, 5, 17], rank, weight=False, bias=False, dtype=dtype)
            yield layer_norm([2, 5, 17], rank, eps=0.1, dtype=dtype)
        yield layer_norm([1, 257], dtype=dtype)
    yield layer_norm([2, 67], shift=30)  # a mean far above the deviation
    yield layer_norm([2, 64], scale=1e-4)  # a variance far below eps
    yield layer_norm([3, 67], residual=True)
    yield layer_norm([2, 4, 16], rank=2, weight=False, bias=False, residual=True)
    yield layer_norm([3, 64], residual=True, dtype="f16")
