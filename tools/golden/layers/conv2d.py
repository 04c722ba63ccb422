"""conv2d: y = activation(convolution(x, weight) + bias)."""

from layers._convolution import convolution


def conv(size, channels, filters, kernel, batch=(2,), **options):
    return convolution("conv2d", "Conv2d", batch, size, channels, filters, kernel, **options)


def cases():
    yield conv([1, 1], 1, 1, 1)
    yield conv([5, 7], 3, 5, 1)
    yield conv([5, 7], 3, 5, 3)
    yield conv([3, 5], 17, 4, 3, padding=1)
    yield conv([11, 13], 3, 4, 7, stride=2, padding=3)
    yield conv([5, 7], 3, 5, 3, batch=[])
    yield conv([5, 7], 3, 5, 3, bias=False)
    yield conv([5, 7], 3, 5, [2, 3], stride=[3, 1], padding=[0, 2], dilation=[1, 2])
    yield conv([5, 7], 3, 5, [4, 3], padding="same")
    yield conv([5, 7], 3, 5, 3, padding="valid")
    yield conv([7, 8], 3, 5, 3, padding=2, dilation=2, stride=2)
    yield conv([5, 7], 6, 4, 3, groups=2)
    yield conv([5, 7], 6, 6, 3, padding=1, groups=6)
    yield conv([5, 7], 4, 8, 3, padding=1, groups=4)
    for mode in "reflect", "replicate", "circular":
        yield conv([5, 7], 3, 4, 3, padding=[1, 2], padding_mode=mode)
        yield conv([5, 7], 3, 4, [2, 4], padding="same", padding_mode=mode)
    yield conv([6, 7], 10, 12, 3, stride=2, padding=1)
    yield conv([4, 6], 9, 11, 1, padding_mode="reflect")
    yield conv([5, 4], 9, 10, 3, padding="same", padding_mode="circular", activation="relu")
    yield conv([5, 7], 3, 5, 3, activation="relu")
    yield conv([5, 7], 3, 5, 3, dtype="f16")
    yield conv([5, 7], 6, 4, 3, stride=2, padding=1, groups=2, activation="relu", dtype="f16")
