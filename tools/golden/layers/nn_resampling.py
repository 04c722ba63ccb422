"""nn-resampling: interpolate, pixelShuffle, pixelUnshuffle, channelShuffle, unfold, fold."""

import torch.nn.functional as F

from fixture import Case


def interpolate(shape, **options):
    c = Case("interpolate", **options)
    x = c.normal("x", *shape)
    return c.output(F.interpolate(x, **{key: value for key, value in options.items() if key != "dtype"}))


def plain(function, torch_function, shape, **options):
    c = Case(function, **options)
    x = c.normal("x", *shape)
    return c.output(torch_function(x, **options))


def cases():
    yield interpolate([1, 1, 1], size=3)
    for mode in "nearest", "nearest-exact", "area":
        yield interpolate([2, 3, 5], size=7, mode=mode)
        yield interpolate([1, 2, 7, 5], size=[3, 11], mode=mode)
        yield interpolate([1, 1, 3, 4, 5], scale_factor=[2, 1.5, 0.7], mode=mode)
    yield interpolate([1, 2, 9], scale_factor=1.7)
    yield interpolate([1, 2, 9], scale_factor=1.7, recompute_scale_factor=True)
    for mode, shape, size in (
        ("linear", [2, 3, 5], 9),
        ("bilinear", [1, 2, 5, 7], [3, 10]),
        ("bicubic", [1, 2, 5, 7], [3, 10]),
        ("trilinear", [1, 1, 3, 4, 5], [5, 3, 7]),
    ):
        for align_corners in False, True:
            yield interpolate(shape, size=size, mode=mode, align_corners=align_corners)
        yield interpolate(shape, scale_factor=1.3, mode=mode)
        yield interpolate(shape, scale_factor=0.6, mode=mode, align_corners=True)
    yield interpolate([1, 2, 5], scale_factor=1.3, mode="linear", recompute_scale_factor=True)
    yield interpolate([1, 2, 5, 4], size=1, mode="bilinear", align_corners=True)
    for mode in "bilinear", "bicubic":
        yield interpolate([1, 2, 9, 7], size=[4, 10], mode=mode, antialias=True)
        yield interpolate([1, 1, 9, 7], scale_factor=0.4, mode=mode, antialias=True)
    yield interpolate([1, 2, 5, 7], size=[3, 10], mode="bilinear", dtype="f16")
    yield plain("pixelShuffle", F.pixel_shuffle, [2, 12, 3, 2], upscale_factor=2)
    yield plain("pixelShuffle", F.pixel_shuffle, [2, 1, 9, 1, 4], upscale_factor=3)
    yield plain("pixelShuffle", F.pixel_shuffle, [3, 2, 5], upscale_factor=1)
    yield plain("pixelUnshuffle", F.pixel_unshuffle, [2, 3, 6, 4], downscale_factor=2)
    yield plain("pixelUnshuffle", F.pixel_unshuffle, [2, 3, 9], downscale_factor=3)
    yield plain("channelShuffle", F.channel_shuffle, [2, 6, 3, 4], groups=3)
    yield plain("channelShuffle", F.channel_shuffle, [1, 4, 5], groups=2)
    yield plain("unfold", F.unfold, [2, 3, 5, 6], kernel_size=[2, 3])
    yield plain("unfold", F.unfold, [2, 7, 6], kernel_size=2, dilation=[2, 1], padding=[1, 2], stride=[1, 3])
    yield plain("unfold", F.unfold, [1, 1, 1, 1], kernel_size=1)
    yield plain("fold", F.fold, [2, 18, 16], output_size=[5, 6], kernel_size=[2, 3])
    yield plain("fold", F.fold, [8, 21], output_size=[7, 6], kernel_size=2, dilation=[2, 1], padding=[1, 2], stride=[1, 3])
    yield plain("fold", F.fold, [2, 4, 6], output_size=[4, 6], kernel_size=2, stride=2)
