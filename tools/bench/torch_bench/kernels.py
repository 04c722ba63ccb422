"""Launches, a copy, and matrix products: layer or None, name and function of each case."""

from functools import partial

import torch
from measure import DEVICE, DTYPES, kernel, randn, timed


def launch(sizes):
    adds = 256

    def eager():
        a, b = torch.ones(4, device=DEVICE, requires_grad=True), torch.ones(4, device=DEVICE)
        return timed(lambda: [torch.add(a, b) for _ in range(adds)], adds, host=True)

    yield None, "add of 4 elements on the tape, host time", eager


def memory(sizes):
    def copy(mebibytes):
        x = randn(mebibytes * 2**18)
        y = torch.empty_like(x)
        return timed(lambda: y.copy_(x))

    for mebibytes in sizes["copy"]:
        yield None, f"copy {mebibytes} MiB", partial(copy, mebibytes)


def matmul(sizes):
    def product(dtype, layout, rows, cols, inner):
        def setup():
            a = randn(*((inner, rows) if layout[0] == "t" else (rows, inner)), dtype=dtype)
            b = randn(*((cols, inner) if layout[1] == "t" else (inner, cols)), dtype=dtype)
            a, b = (a.T if layout[0] == "t" else a), (b.T if layout[1] == "t" else b)
            return lambda: (a @ b,)

        return kernel(setup)

    for dtype in DTYPES:
        for n in sizes["squares"]:
            yield "core", f"matmul {dtype} {n}³", partial(product, dtype, "nn", n, n, n)
        for text in sizes["products"]:
            layout, shape = text.split(" ")
            yield "core", f"matmul {dtype} {text}", partial(product, dtype, layout, *map(int, shape.split("×")))
