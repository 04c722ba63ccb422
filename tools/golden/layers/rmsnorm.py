"""rmsnorm: y = x / sqrt(mean(x²) + eps) · weight over the normalized shape.

Without eps PyTorch takes the machine epsilon of the type that it computes in: of float32, in f16 cases too.
With a residual x + residual is normalized; `sum` and its upstream gradient `dsum` are stored as well.
"""

import torch.nn.functional as F

from fixture import Case


def rms_norm(shape, rank=1, weight=True, residual=False, scale=1, **options):
    normalized = shape[-rank:]
    c = Case("rmsNorm", normalized_shape=normalized, **options)
    x = c.normal("x", *shape, scale=scale)
    if residual:
        x = x + c.normal("residual", *shape)
    weight = c.normal("weight", *normalized) if weight else None
    y = F.rms_norm(x, normalized, weight, options.get("eps"))
    if residual:
        dsum = c.random("dsum", *shape).to(c.stored)
        x.backward(dsum.float(), retain_graph=True)
        c.store("sum", x)
        c.store("dsum", dsum)
    return c.output(y)


def cases():
    for shape in [1], [5, 1], [67, 3], [2, 3, 67], [2, 257]:
        yield rms_norm(shape)
    yield rms_norm([3, 5, 17], rank=2)
    yield rms_norm([3, 67], weight=False)
    yield rms_norm([1, 1025], weight=False)
    yield rms_norm([3, 64], scale=1e-4)  # a mean square far below eps
    yield rms_norm([3, 67], eps=0.1)
    yield rms_norm([3, 67], eps=1e-5, dtype="f16")
    yield rms_norm([3, 67], eps=1e-5, weight=False, dtype="f16")
    yield rms_norm([3, 64], scale=1e-3, dtype="f16")
    yield rms_norm([3, 67], residual=True)
    yield rms_norm([2, 4, 16], rank=2, weight=False, residual=True)
    yield rms_norm([3, 64], eps=1e-5, residual=True, dtype="f16")
