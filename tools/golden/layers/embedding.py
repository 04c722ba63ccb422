"""embedding: y = weight[x]. `weight_after` is the weight once max_norm has shortened the rows that x names."""

import torch
import torch.nn.functional as F

from fixture import Case


def embedding(ids, rows, width, dtype="f32", **options):
    """`ids` is a shape, or the very ids."""
    c = Case("embedding", dtype, **options)
    generator = torch.Generator().manual_seed(rows * width)
    x = c.constant("x", ids if isinstance(ids, torch.Tensor) else torch.randint(rows, ids, generator=generator))
    weight = c.normal("weight", rows, width)
    if "max_norm" not in options:
        return c.output(F.embedding(x, weight, **options))
    renormalised = weight.detach().clone()  # max_norm writes into the weight
    F.embedding(x, renormalised, **options)
    c.output(F.embedding(x, weight, **options))
    c.store("weight_after", renormalised)
    return c


def cases():
    repeated = torch.tensor([[3, 0, 3, 3], [0, 6, 3, 2]])
    yield embedding([], 3, 5)
    yield embedding([1], 1, 1)
    yield embedding([67], 5, 3)
    yield embedding([2, 3, 5], 17, 9)
    yield embedding([7], 257, 3)
    yield embedding([2], 3, 257)
    yield embedding(torch.full([257], 1), 3, 4)
    for dtype in "f32", "f16":
        yield embedding(repeated, 7, 67, dtype)
        for options in {"padding_idx": 3}, {"padding_idx": 0}, {"padding_idx": -1}, {"scale_grad_by_freq": True}:
            yield embedding(repeated, 7, 20, dtype, **options)
    yield embedding(repeated, 7, 20, padding_idx=3, scale_grad_by_freq=True)
    yield embedding(repeated, 7, 20, max_norm=2.0)
    yield embedding(repeated, 7, 20, max_norm=3.0, norm_type=1.0)
