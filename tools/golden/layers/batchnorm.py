"""batchnorm: y = activation((x - mean) / sqrt(var + eps) · weight + bias + residual), statistics per channel.

`training=false` takes running_mean and running_var; else `running_*_after` are their new values. `momentum=null` averages
over the batches seen, of which `num_batches_tracked` came before this one.
"""

import torch
import torch.nn.functional as F

from fixture import Case


def batch_norm(shape, training=True, affine=True, track=True, residual=False, eps=1e-5, momentum=0.1, **options):
    """`options`: activation and dtype."""
    c = Case("batchNorm", training=training, eps=eps, momentum=momentum, **options)
    channels = shape[1]
    x = c.normal("x", *shape, shift=1)
    weight, bias = (c.normal("weight", channels), c.normal("bias", channels)) if affine else (None, None)
    mean = var = None
    if track:
        mean = c.constant("running_mean", c.random("mean", channels))
        var = c.constant("running_var", c.random("var", channels).exp())
        if momentum is None:
            momentum = 1 / (c.constant("num_batches_tracked", torch.tensor(3)).item() + 1)
    y = F.batch_norm(x, mean, var, weight, bias, training, momentum or 0.0, eps)
    if residual:
        y = y + c.normal("residual", *shape)
    c.output(F.relu(y) if options.get("activation") == "relu" else y)
    if track and training:
        c.store("running_mean_after", mean)
        c.store("running_var_after", var)
    return c


def cases():
    for training in True, False:
        for shape in [67, 3], [2, 3, 67], [3, 5, 2, 3], [2, 3, 2, 3, 5], [3, 5, 4, 6], [2, 1]:
            yield batch_norm(shape, training)
        yield batch_norm([3, 5, 7], training, affine=False)
        yield batch_norm([3, 5, 7], training, eps=0.1, momentum=0.3)
        yield batch_norm([3, 5, 7], training, activation="relu")
        yield batch_norm([3, 5, 7], training, residual=True, activation="relu")
        yield batch_norm([3, 5, 7], training, dtype="f16")
        yield batch_norm([3, 5, 7], training, residual=True, activation="relu", dtype="f16")
    yield batch_norm([3, 5, 7], momentum=None)
    yield batch_norm([3, 5, 7], track=False)
