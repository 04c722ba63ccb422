"""core: matmul, y = a @ b + bias, where transposeA and transposeB say that the last two dimensions are stored swapped."""

from fixture import Case


def matmul(a_shape, b_shape, transpose_a=False, transpose_b=False, bias=False, dtype="f32"):
    """A product of these stored shapes; only the transposes that are made appear in the name."""
    c = Case("matmul", dtype, **({"transpose_a": True} if transpose_a else {}), **({"transpose_b": True} if transpose_b else {}))
    a = c.normal("a", *a_shape, scale=a_shape[-1] ** -0.5)
    b = c.normal("b", *b_shape)
    y = (a.mT if transpose_a else a) @ (b.mT if transpose_b else b)
    return c.output(y + c.normal("bias", y.shape[-1]) if bias else y)


def cases():
    yield matmul([1, 1], [1, 1])
    yield matmul([1, 257], [257, 3])
    yield matmul([257, 1], [1, 3])
    yield matmul([67], [67])
    yield matmul([67], [67, 3])
    yield matmul([3, 67], [67])
    yield matmul([2, 3, 5, 7], [2, 3, 7, 4])
    yield matmul([5, 7], [2, 7, 3])
    yield matmul([5, 7], [2, 3, 7], transpose_b=True)
    for dtype, m, k, n in ("f32", 17, 33, 9), ("f16", 9, 17, 5):
        yield matmul([m, k], [k, n], dtype=dtype)
        yield matmul([k, m], [k, n], transpose_a=True, dtype=dtype)
        yield matmul([m, k], [n, k], transpose_b=True, dtype=dtype)
        yield matmul([k, m], [n, k], True, True, dtype=dtype)
        yield matmul([3, 67], [67, 5], bias=True, dtype=dtype)
        yield matmul([2, 3, 17], [17, 5], bias=True, dtype=dtype)
        yield matmul([2, 17, 3], [2, 5, 17], True, True, dtype=dtype)
