"""groupnorm: groupNorm and instanceNorm, y = (x - mean) / sqrt(var + eps) · weight + bias per sample and group of channels.

instanceNorm with `useInputStats=false` takes running_mean and running_var; else `running_*_after` are their new values.
With a residual x + residual is normalized; `sum` and its upstream gradient `dsum` are stored as well.
"""

import torch.nn.functional as F

from fixture import Case


def group_norm(shape, num_groups, affine=True, residual=False, **options):
    c = Case("groupNorm", num_groups=num_groups, **options)
    x = c.normal("x", *shape)
    if residual:
        x = x + c.normal("residual", *shape)
    weight, bias = (c.normal("weight", shape[1]), c.normal("bias", shape[1])) if affine else (None, None)
    y = F.group_norm(x, num_groups, weight, bias, options.get("eps", 1e-5))
    if residual:
        dsum = c.random("dsum", *shape).to(c.stored)
        x.backward(dsum.float(), retain_graph=True)
        c.store("sum", x)
        c.store("dsum", dsum)
    return c.output(y)


def instance_norm(shape, affine=True, running=False, **options):
    c = Case("instanceNorm", **options)
    options.pop("dtype", None)
    x = c.normal("x", *shape)
    weight, bias = (c.normal("weight", shape[1]), c.normal("bias", shape[1])) if affine else (None, None)
    if not running:
        return c.output(F.instance_norm(x, None, None, weight, bias, **options))
    mean = c.constant("running_mean", c.random("mean", shape[1]))
    var = c.constant("running_var", c.random("var", shape[1]).exp())
    c.output(F.instance_norm(x, mean, var, weight, bias, **options))
    c.store("running_mean_after", mean)
    c.store("running_var_after", var)
    return c


def cases():
    for shape, groups in (
        ([3, 4], 2),
        ([2, 6, 17], 3),
        ([2, 6, 3, 5], 1),
        ([2, 6, 3, 5], 6),
        ([1, 3, 9, 11], 3),
        ([2, 3, 2, 3, 2], 1),
    ):
        yield group_norm(shape, groups)
    yield group_norm([2, 6, 17], 2, affine=False)
    yield group_norm([2, 6, 17], 2, eps=0.1)
    yield group_norm([2, 6, 17], 2, dtype="f16")
    yield group_norm([2, 6, 17], 3, residual=True)
    yield group_norm([2, 4, 4, 3], 2, residual=True, affine=False)
    yield group_norm([2, 6, 17], 3, residual=True, dtype="f16")
    for shape in [2, 3, 67], [2, 3, 5, 7]:
        yield instance_norm(shape)
        yield instance_norm(shape, affine=False, eps=0.1)
        yield instance_norm(shape, running=True, momentum=0.3)
        yield instance_norm(shape, running=True, use_input_stats=False)
    yield instance_norm([2, 3, 5, 7], dtype="f16")
