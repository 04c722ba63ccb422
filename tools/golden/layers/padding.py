"""padding: torch.nn.functional.pad, the last axis first."""

import torch.nn.functional as F

from fixture import Case


def pad(shape, padding, **options):
    c = Case("pad", padding=padding, **options)
    return c.output(F.pad(c.normal("x", *shape), padding, **options))


def cases():
    for mode in "constant", "reflect", "replicate", "circular":
        for shape, padding in (
            ([2, 3, 67], [5, 3]),
            ([2, 3, 7], [6, 0]),
            ([3, 5, 7], [1, 2, 0, 3]) if mode == "constant" else ([1, 3, 5, 7], [1, 2, 0, 3]),
            ([2, 1, 4, 3], [2, 1, 3, 3]),
            ([1, 2, 3, 4, 5], [1, 2, 2, 1, 0, 2]),
        ):
            yield pad(shape, padding, mode=mode)
    yield pad([3, 5], [1, 2], value=0.5)
    yield pad([2, 5, 7], [-1, 2, 3, -2], value=-1.5)
    yield pad([2, 3], [0, 0])
