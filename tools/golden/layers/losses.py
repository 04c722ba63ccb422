"""losses, each with its reductions. `weight` and `pos_weight` are constants; targets that are numbers receive a gradient."""

import torch
import torch.nn.functional as F

from fixture import Case

REDUCTIONS = "mean", "sum", "none"


def cross_entropy(shape, weight=False, probabilities=False, ignored=(), scale=1, **options):
    """x [classes] or [batch, classes, ...]; a target of class ids is x's shape without its classes."""
    c = Case("crossEntropy", **options)
    options.pop("dtype", None)
    x = c.normal("x", *shape, scale=scale)
    at = min(1, len(shape) - 1)
    classes = shape[at]
    if probabilities:
        target = c.leaf("target", c.random("target", *shape).softmax(at))
    else:
        target = ids(c, shape[:at] + shape[at + 1 :], classes, ignored, options.get("ignore_index"))
    weights = c.constant("weight", c.random("weight", classes).abs() + 0.1) if weight else None
    return c.output(F.cross_entropy(x, target, weights, **options))


def nll(shape, weight=False, ignored=(), **options):
    """x holds log-probabilities."""
    c = Case("nll", **options)
    options.pop("dtype", None)
    at = min(1, len(shape) - 1)
    x = c.leaf("x", c.random("x", *shape).log_softmax(at))
    target = ids(c, shape[:at] + shape[at + 1 :], shape[at], ignored, options.get("ignore_index"))
    weights = c.constant("weight", c.random("weight", shape[at]).abs() + 0.1) if weight else None
    return c.output(F.nll_loss(x, target, weights, **options))


def ids(c, shape, classes, ignored, ignore_index):
    """Class ids; at the flat positions `ignored` stands ignore_index, by default -100."""
    target = torch.randint(classes, shape, generator=torch.Generator().manual_seed(classes))
    for position in ignored:
        target.view(-1)[position] = -100 if ignore_index is None else ignore_index
    return c.constant("target", target)


def elementwise(name, function, shape, **options):
    """Losses of x and target alone. The first differences are exactly 0, ±1/2 and ±1: the boundaries of their pieces."""
    c = Case(name, **options)
    options.pop("dtype", None)
    differences = c.random("x", *shape) * 2
    boundary = torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0])[: differences.numel()]
    differences.view(-1)[: len(boundary)] = boundary
    target = (c.random("target", *shape) * 64).round() / 64  # a sum with these boundaries is exact
    x = c.leaf("x", target + differences)
    return c.output(function(x, c.leaf("target", target), **options))


def bce(shape, weight=False, **options):
    """x and target in [0, 1], both ends among them: PyTorch cuts log at -100."""
    c = Case("bce", **options)
    x = c.random("x", *shape).sigmoid()
    target = c.random("target", *shape).sigmoid()
    x.view(-1)[:4] = torch.tensor([0.0, 1.0, 0.0, 1.0])[: x.numel()]
    target.view(-1)[:4] = torch.tensor([0.0, 1.0, 1.0, 0.0])[: x.numel()]
    x, target = c.leaf("x", x), c.leaf("target", target)
    weights = c.constant("weight", c.random("weight", shape[-1]).abs() + 0.1) if weight else None
    return c.output(F.binary_cross_entropy(x, target, weights, **options))


def bce_with_logits(shape, weight=False, pos_weight=False, **options):
    c = Case("bceWithLogits", **options)
    options.pop("dtype", None)
    x = c.random("x", *shape) * 3
    x.view(-1)[:5] = torch.tensor([0.0, 100.0, -100.0, 1e4, -1e4])[: x.numel()]
    x, target = c.leaf("x", x), c.leaf("target", c.random("target", *shape).sigmoid())
    weights = c.constant("weight", c.random("weight", shape[-1]).abs() + 0.1) if weight else None
    positive = c.constant("pos_weight", c.random("pos_weight", shape[-1]).abs() + 0.1) if pos_weight else None
    return c.output(F.binary_cross_entropy_with_logits(x, target, weights, pos_weight=positive, **options))


def kl_div(shape, **options):
    """x holds log-probabilities, target probabilities or (log_target) their logarithms; one probability is 0."""
    c = Case("klDiv", **options)
    x = c.leaf("x", c.random("x", *shape).log_softmax(-1))
    target = c.random("target", *shape)
    if options.get("log_target"):
        target = target.log_softmax(-1)
    else:
        target[0, 0] = float("-inf")
        target = target.softmax(-1)
    # With log 0 the gradient to a target of 0 is infinite: such a target is a constant.
    target = c.leaf("target", target) if options.get("log_target") else c.constant("target", target)
    return c.output(F.kl_div(x, target, **options))


def cosine_embedding(shape, **options):
    c = Case("cosineEmbedding", **options)
    x1, x2 = c.normal("x1", *shape), c.normal("x2", *shape, shift=0.3)
    sign = torch.where(torch.arange(shape[0]) % 2 == 0, 1.0, -1.0) if len(shape) > 1 else torch.tensor(-1.0)
    return c.output(F.cosine_embedding_loss(x1, x2, c.constant("target", sign), **options))


def cases():
    yield cross_entropy([1, 1])
    yield cross_entropy([5])
    yield cross_entropy([67, 3])
    yield cross_entropy([1, 1000])
    yield cross_entropy([3, 67], scale=50)  # exp would overflow
    yield cross_entropy([2, 5, 3, 7])
    yield cross_entropy([2, 5, 7], weight=True, ignored=[0, 13], label_smoothing=0.1)
    yield cross_entropy([2, 257], dtype="f16")
    yield cross_entropy([7, 17], weight=True, ignored=[2], label_smoothing=0.1, dtype="f16")
    for reduction in REDUCTIONS:
        yield cross_entropy([3, 17], reduction=reduction)
        yield cross_entropy([7, 17], ignored=[1, 5], reduction=reduction)
        yield cross_entropy([7, 17], ignored=[1, 5], ignore_index=3, reduction=reduction)
        yield cross_entropy([7, 17], label_smoothing=0.1, reduction=reduction)
        yield cross_entropy([7, 19], label_smoothing=0.1, ignored=[0], reduction=reduction)
        yield cross_entropy([7, 17], weight=True, reduction=reduction)
        yield cross_entropy([7, 19], weight=True, label_smoothing=0.2, ignore_index=0, ignored=[6], reduction=reduction)
        yield cross_entropy([5, 17], probabilities=True, reduction=reduction)
        yield cross_entropy([5, 17], probabilities=True, weight=True, label_smoothing=0.1, reduction=reduction)
        yield cross_entropy([2, 5, 3], probabilities=True, reduction=reduction)

        yield nll([7, 17], reduction=reduction)
        yield nll([7, 17], weight=True, ignored=[1], reduction=reduction)
        yield nll([2, 5, 3], ignore_index=2, ignored=[4], reduction=reduction)

        for name, function in ("mse", F.mse_loss), ("l1", F.l1_loss), ("smoothL1", F.smooth_l1_loss), ("huber", F.huber_loss):
            yield elementwise(name, function, [3, 17], reduction=reduction)
        yield elementwise("smoothL1", F.smooth_l1_loss, [17], beta=0.5, reduction=reduction)
        yield elementwise("huber", F.huber_loss, [17], delta=0.5, reduction=reduction)
        yield bce([3, 17], reduction=reduction)
        yield bce([3, 17], weight=True, reduction=reduction)
        yield bce_with_logits([3, 17], reduction=reduction)
        yield bce_with_logits([3, 17], weight=True, pos_weight=True, reduction=reduction)
        yield cosine_embedding([4, 7], reduction=reduction)
        yield cosine_embedding([4, 7], margin=0.2, reduction=reduction)
    yield elementwise("smoothL1", F.smooth_l1_loss, [17], beta=0.0)
    for name, function in ("mse", F.mse_loss), ("l1", F.l1_loss), ("smoothL1", F.smooth_l1_loss), ("huber", F.huber_loss):
        yield elementwise(name, function, [1])
        yield elementwise(name, function, [3, 17], dtype="f16")
    yield nll([5])
    yield bce([1])
    yield bce_with_logits([1])
    yield bce_with_logits([3, 17], pos_weight=True, dtype="f16")
    yield cosine_embedding([67])
    for reduction in (*REDUCTIONS, "batchmean"):
        yield kl_div([3, 17], reduction=reduction)
        yield kl_div([3, 17], log_target=True, reduction=reduction)
