"""conv1d: y = activation(convolution(x, weight) + bias)."""

from layers._convolution import convolution


def conv(size, channels, filters, kernel, batch=(2,), **options):
    return convolution("conv1d", "Conv1d", batch, [size], channels, filters, kernel, **options)


def cases():
    yield conv(1, 1, 1, 1)
    yield conv(67, 3, 2, 3)
    yield conv(67, 1, 3, 8, stride=5)
    yield conv(9, 17, 20, 3, padding=1)
    yield conv(17, 3, 5, 3, batch=[])
    yield conv(17, 3, 5, 3, bias=False)
    yield conv(17, 3, 5, 4, padding="same")
    yield conv(17, 3, 5, 4, padding="valid")
    yield conv(17, 3, 5, 3, padding=4, dilation=3, stride=2)
    yield conv(17, 6, 4, 3, groups=2)
    yield conv(17, 6, 6, 3, padding=1, groups=6)
    yield conv(17, 6, 12, 3, padding=1, groups=6)
    for mode in "reflect", "replicate", "circular":
        yield conv(9, 3, 5, 5, padding=2, padding_mode=mode)
        yield conv(9, 3, 5, 4, padding="same", padding_mode=mode)
    yield conv(17, 3, 5, 3, activation="relu")
    yield conv(17, 3, 5, 3, dtype="f16")
    yield conv(17, 6, 4, 3, stride=2, padding=1, groups=2, activation="relu", dtype="f16")
