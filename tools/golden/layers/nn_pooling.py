"""nn-pooling: pooling of three dimensions, LPPool, MaxUnpool, FractionalMaxPool. `indices` of a case are those of its y."""

import torch
import torch.nn.functional as F

from fixture import Case


def max_pool(shape, kernel_size, **options):
    c = Case("maxPool3d", kernel_size=kernel_size, **options)
    x = c.normal("x", *shape)
    if options.get("dtype") == "f16":
        options.pop("dtype")
    y, indices = F.max_pool3d(x, kernel_size, **options, return_indices=True)
    c.store("indices", indices)
    return c.output(y)


def avg_pool(shape, kernel_size, **options):
    c = Case("avgPool3d", kernel_size=kernel_size, **options)
    x = c.normal("x", *shape)
    return c.output(F.avg_pool3d(x, kernel_size, **options))


def adaptive(function, shape, output_size):
    c = Case(function, output_size=output_size)
    x = c.normal("x", *shape)
    if function == "adaptiveAvgPool3d":
        return c.output(F.adaptive_avg_pool3d(x, output_size))
    y, indices = F.adaptive_max_pool3d(x, output_size, return_indices=True)
    c.store("indices", indices)
    return c.output(y)


def unpool(rank, shape, kernel_size, stride=None, padding=0, output_size=None):
    options = {"stride": stride, "padding": padding, "output_size": output_size}
    c = Case(f"maxUnpool{rank}d", kernel_size=kernel_size, **{k: v for k, v in options.items() if v})
    pool, inverse = (getattr(F, f"max_{name}pool{rank}d") for name in ("", "un"))
    source = c.random("source", *shape)
    values, indices = pool(source, kernel_size, stride, padding, return_indices=True)
    c.constant("indices", indices)
    x = c.normal("x", *values.shape)
    torch.use_deterministic_algorithms(False)  # each place is written once: the order cannot matter
    y = inverse(x, indices, kernel_size, stride, padding, output_size)
    c.output(y)
    torch.use_deterministic_algorithms(True)
    return c


def lp_pool(rank, shape, norm_type, kernel_size, **options):
    name = "inf" if norm_type == float("inf") else norm_type
    c = Case(f"lpPool{rank}d", norm_type=name, kernel_size=kernel_size, **options)
    x = c.leaf("x", c.random("x", *shape).abs() + 0.1) if norm_type not in (1, 2) else c.normal("x", *shape)
    return c.output(getattr(F, f"lp_pool{rank}d")(x, float(norm_type), kernel_size, **options))


def fractional(rank, shape, kernel_size, batch=True, **options):
    c = Case(f"fractionalMaxPool{rank}d", kernel_size=kernel_size, **options)
    x = c.normal("x", *shape)
    samples_shape = (*(shape[:2] if batch else (1, shape[0])), rank)
    samples = c.constant("randomSamples", torch.rand(samples_shape, generator=torch.Generator().manual_seed(1)))
    pool = getattr(F, f"fractional_max_pool{rank}d")
    y, indices = pool(x, kernel_size, **options, return_indices=True, _random_samples=samples)
    c.store("indices", indices)
    return c.output(y)


def cases():
    yield max_pool([1, 1, 1, 1, 1], 1)
    yield max_pool([2, 3, 5, 6, 7], 2)
    yield max_pool([3, 5, 6, 7], [1, 2, 3], stride=[2, 1, 2])
    yield max_pool([1, 2, 7, 5, 6], 3, stride=2, padding=1)
    yield max_pool([1, 2, 6, 7, 5], 2, stride=3, ceil_mode=True)
    yield max_pool([1, 2, 7, 8, 6], [2, 3, 2], stride=2, padding=[1, 1, 0], dilation=[2, 1, 3], ceil_mode=True)
    yield max_pool([2, 2, 4, 5, 3], 2, dtype="f16")
    yield avg_pool([1, 1, 1, 1, 1], 1)
    yield avg_pool([2, 3, 5, 6, 7], 2)
    yield avg_pool([3, 5, 6, 7], [1, 2, 3], stride=[2, 1, 2])
    yield avg_pool([1, 2, 7, 5, 6], 3, stride=2, padding=1)
    yield avg_pool([1, 2, 7, 5, 6], 3, stride=2, padding=1, count_include_pad=False)
    yield avg_pool([1, 2, 7, 5, 6], 3, stride=2, padding=1, ceil_mode=True)
    yield avg_pool([1, 2, 6, 7, 5], 2, stride=3, ceil_mode=True, divisor_override=5)
    for function in "adaptiveMaxPool3d", "adaptiveAvgPool3d":
        yield adaptive(function, [2, 2, 6, 4, 8], [3, 2, 4])
        yield adaptive(function, [1, 2, 7, 5, 9], [3, 4, 2])
        yield adaptive(function, [2, 5, 3, 4], [7, None, 1])
        yield adaptive(function, [1, 1, 3, 5, 4], 1)
    yield unpool(1, [2, 3, 9], 2)
    yield unpool(1, [3, 9], 2, output_size=[9])
    yield unpool(2, [2, 2, 6, 8], 2)
    yield unpool(2, [2, 7, 9], [2, 3], stride=[2, 3], output_size=[7, 9])
    yield unpool(2, [1, 2, 8, 8], 2, stride=2, padding=1)
    yield unpool(3, [1, 2, 4, 6, 4], 2)
    yield unpool(3, [2, 5, 4, 6], [2, 2, 3], output_size=[5, 4, 6])
    yield lp_pool(1, [2, 3, 9], 2, 3)
    yield lp_pool(1, [3, 10], 1, 3, stride=2, ceil_mode=True)
    yield lp_pool(1, [1, 2, 9], 3, 2, stride=1)
    yield lp_pool(2, [2, 2, 6, 7], 2, 2)
    yield lp_pool(2, [2, 6, 7], 1.5, [2, 3], stride=2, ceil_mode=True)
    yield lp_pool(2, [1, 2, 5, 6], float("inf"), 2)
    yield lp_pool(3, [1, 2, 4, 5, 6], 2, [1, 2, 3], stride=2)
    yield fractional(2, [2, 3, 9, 10], 2, output_size=[5, 6])
    yield fractional(2, [2, 9, 12], [3, 2], batch=False, output_ratio=[0.5, 0.6])
    yield fractional(2, [1, 1, 5, 5], 2, output_size=[1, 4])
    yield fractional(3, [1, 2, 6, 7, 8], 2, output_size=[3, 4, 5])
