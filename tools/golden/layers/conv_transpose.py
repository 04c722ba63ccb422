"""conv-transpose: convTranspose1d and convTranspose2d, the gradient of a convolution as a layer."""

from layers._convolution import convolution


def conv(size, channels, filters, kernel, batch=(2,), **options):
    rank = len(size)
    return convolution(f"convTranspose{rank}d", f"ConvTranspose{rank}d", batch, size, channels, filters, kernel, **options)


def cases():
    for size in [7], [2, 3]:
        yield conv([1 for _ in size], 1, 1, 1)
        yield conv(size, 3, 5, 3)
        yield conv(size, 3, 5, 4, stride=2, padding=1)
        yield conv(size, 3, 5, 3, batch=[], bias=False)
        yield conv(size, 3, 5, 3, stride=3, padding=1, output_padding=2)
        yield conv(size, 3, 5, 3, stride=2, dilation=2, output_padding=1)
        yield conv(size, 6, 4, 3, stride=2, groups=2)
        yield conv(size, 6, 6, 3, padding=1, groups=6)
        yield conv(size, 3, 5, 4, stride=2, padding=1, dtype="f16")
    yield conv([3, 5], 3, 4, [3, 2], stride=[1, 3], padding=[2, 0], output_padding=[0, 1])
