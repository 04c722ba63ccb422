"""pooling: maximum and average over windows. `indices` are PyTorch's, flat in the plane of a channel.

`adaptive…` cases name the output size; in max cases some maxima are tied, and the first of them wins.
"""

import torch.nn.functional as F

from fixture import Case


def pool(name, function, shape, maximum=False, dtype="f32", **options):
    c = Case(name, dtype, **options)
    x = c.random("x", *shape)
    if not maximum:
        return c.output(function(c.leaf("x", x), **options))
    y, indices = function(c.leaf("x", (x * 2).round() / 2), return_indices=True, **options)
    c.output(y)
    c.store("indices", indices)
    return c


def cases():
    for rank, size in (1, [17]), (2, [5, 7]):
        shape = [2, 3, *size]
        for options in (
            {"kernel_size": 2},
            {"kernel_size": 3, "stride": 1},
            {"kernel_size": 3, "stride": 2, "padding": 1},
            {"kernel_size": 3, "stride": 2, "ceil_mode": True},
            {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True},
        ):
            yield pool(f"maxPool{rank}d", getattr(F, f"max_pool{rank}d"), shape, True, **options)
            yield pool(f"avgPool{rank}d", getattr(F, f"avg_pool{rank}d"), shape, **options)
            if "padding" in options:
                yield pool(f"avgPool{rank}d", getattr(F, f"avg_pool{rank}d"), shape, **options, count_include_pad=False)
        yield pool(f"maxPool{rank}d", getattr(F, f"max_pool{rank}d"), shape, True, kernel_size=3, stride=1, dilation=2, padding=1)
        yield pool(f"maxPool{rank}d", getattr(F, f"max_pool{rank}d"), shape, True, "f16", kernel_size=2)
        yield pool(f"avgPool{rank}d", getattr(F, f"avg_pool{rank}d"), shape, dtype="f16", kernel_size=2)
        for n in 1, 3, 5:
            yield pool(f"adaptiveAvgPool{rank}d", getattr(F, f"adaptive_avg_pool{rank}d"), shape, output_size=n)
            yield pool(f"adaptiveMaxPool{rank}d", getattr(F, f"adaptive_max_pool{rank}d"), shape, True, output_size=n)
    shape = [2, 3, 5, 7]
    yield pool("maxPool2d", F.max_pool2d, shape, True, kernel_size=[2, 3], stride=[1, 2], padding=[0, 1])
    yield pool("avgPool2d", F.avg_pool2d, shape, kernel_size=[2, 3], stride=[1, 2], padding=[0, 1])
    yield pool("avgPool2d", F.avg_pool2d, shape, kernel_size=3, divisor_override=5)
    yield pool("adaptiveAvgPool2d", F.adaptive_avg_pool2d, shape, output_size=[2, 5])
    yield pool("adaptiveMaxPool2d", F.adaptive_max_pool2d, shape, True, output_size=[2, 5])
