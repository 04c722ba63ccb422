"""nn-convolution: conv3d and convTranspose3d; `paddingMode` is that of torch.nn.Conv3d."""

import torch
import torch.nn.functional as F

from fixture import Case


def convolution(function, shape, weight_shape, bias=True, **options):
    c = Case(function, **options)
    x = c.normal("x", *shape)
    weight = c.normal("weight", *weight_shape, scale=0.3)
    groups = options.get("groups", 1)
    transposed = function == "convTranspose3d"
    channels = weight_shape[1] * groups if transposed else weight_shape[0]
    arguments = {key: value for key, value in options.items() if key not in ("dtype", "padding_mode")}
    bias = c.normal("bias", channels) if bias else None
    if "padding_mode" in options:
        size = weight_shape[1] * groups
        module = torch.nn.Conv3d(size, channels, weight_shape[2:], bias=True, padding_mode=options["padding_mode"], **arguments)
        return c.output(module._conv_forward(x, weight, bias))
    return c.output((F.conv_transpose3d if transposed else F.conv3d)(x, weight, bias, **arguments))


def cases():
    conv = lambda *shapes, **options: convolution("conv3d", *shapes, **options)
    yield conv([1, 1, 1, 1, 1], [1, 1, 1, 1, 1])
    yield conv([2, 3, 5, 6, 4], [4, 3, 3, 2, 1])
    yield conv([3, 5, 6, 4], [2, 3, 2, 2, 2], bias=False)
    yield conv([1, 4, 6, 5, 7], [6, 2, 3, 3, 3], stride=[2, 1, 3], padding=[1, 2, 0], groups=2)
    yield conv([1, 2, 7, 6, 5], [2, 2, 2, 3, 2], dilation=[2, 1, 3], padding=1)
    yield conv([1, 3, 4, 5, 4], [3, 1, 2, 2, 2], groups=3)
    yield conv([1, 2, 4, 5, 6], [2, 2, 3, 2, 4], padding="same")
    yield conv([1, 2, 4, 5, 6], [2, 2, 2, 2, 2], padding="valid")
    for mode in "reflect", "replicate", "circular":
        yield conv([1, 2, 4, 5, 3], [2, 2, 2, 3, 2], padding=[1, 2, 1], padding_mode=mode)
    yield conv([1, 2, 3, 4, 3], [2, 2, 2, 2, 2], dtype="f16")
    up = lambda *shapes, **options: convolution("convTranspose3d", *shapes, **options)
    yield up([1, 1, 1, 1, 1], [1, 1, 1, 1, 1])
    yield up([2, 3, 2, 3, 4], [3, 2, 3, 2, 1])
    yield up([3, 2, 3, 4], [3, 2, 2, 2, 2], bias=False)
    yield up([1, 4, 3, 4, 3], [4, 3, 3, 3, 3], stride=[2, 1, 3], padding=[1, 2, 0], output_padding=[1, 0, 2], groups=2)
    yield up([1, 2, 3, 4, 3], [2, 2, 2, 3, 2], dilation=[2, 1, 3], padding=1)
    yield up([1, 2, 4, 4, 4], [2, 1, 1, 2, 1], padding=[1, 1, 0])
    yield up([1, 2, 3, 2, 3], [2, 2, 2, 2, 2], stride=2)
    yield up([1, 2, 3, 2, 3], [2, 2, 2, 2, 2], stride=2, dtype="f16")
