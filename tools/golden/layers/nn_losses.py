"""nn-losses: the losses of torch.nn beside those of `losses`. y is the loss; integer targets are I32."""

import torch
import torch.nn.functional as F

from fixture import Case


def signs(c, *shape):
    return torch.where(c.random("signs", *shape) < 0, -1.0, 1.0)


def reductions(make, **options):
    for reduction in "mean", "sum", "none":
        yield make(reduction=reduction, **options)


def margin_ranking(shape=(7,), other=None, **options):
    c = Case("marginRankingLoss", **options)
    x1, x2 = c.normal("x1", *shape), c.normal("x2", *(other or shape))
    return c.output(F.margin_ranking_loss(x1, x2, c.constant("target", signs(c, *shape)), **options))


def hinge(shape=(3, 5), **options):
    c = Case("hingeEmbeddingLoss", **options)
    x = c.normal("x", *shape)
    return c.output(F.hinge_embedding_loss(x, c.constant("target", signs(c, *shape)), **options))


def soft_margin(shape=(3, 5), scale=1, **options):
    c = Case("softMarginLoss", scale=scale, **options)
    x = c.normal("x", *shape, scale=scale)
    target = c.constant("target", signs(c, *shape))
    return c.output(F.soft_margin_loss(x, target, **{k: v for k, v in options.items() if k != "dtype"}))


def poisson(shape=(3, 5), **options):
    c = Case("poissonNLLLoss", **options)
    log_input = options.get("log_input", True)
    x = c.normal("x", *shape) if log_input else c.leaf("x", c.random("x", *shape).abs() + 0.1)
    # Stirling's formula has no gradient at 0 in PyTorch
    target = (c.constant if options.get("full") else c.leaf)("target", (c.random("target", *shape).abs() * 3).round())
    return c.output(F.poisson_nll_loss(x, target, **options))


def gaussian(shape=(3, 5), var=None, small=False, **options):
    c = Case("gaussianNLLLoss", **options)
    x, target = c.normal("x", *shape), c.normal("target", *shape)
    variance = c.leaf("variance", c.random("variance", *(shape if var is None else var)).abs() * (1e-3 if small else 1) + 1e-4)
    return c.output(F.gaussian_nll_loss(x, target, variance, **options))


def multi_margin(shape=(4, 5), weight=False, **options):
    c = Case("multiMarginLoss", **options)
    x = c.normal("x", *shape)
    target = torch.arange(shape[0]) % shape[1] if len(shape) == 2 else torch.tensor(2)
    c.constant("target", target.int())
    weight = c.constant("weight", c.random("weight", shape[-1]).abs() + 0.2) if weight else None
    return c.output(F.multi_margin_loss(x, target, weight=weight, **options))


def multi_label_margin(shape, target, **options):
    c = Case("multiLabelMarginLoss", **options)
    x = c.normal("x", *shape)
    target = torch.tensor(target)
    c.constant("target", target.int())
    return c.output(F.multilabel_margin_loss(x, target, **options))


def multi_label_soft_margin(shape=(4, 5), weight=False, **options):
    c = Case("multiLabelSoftMarginLoss", **options)
    x = c.normal("x", *shape)
    target = c.constant("target", (c.random("target", *shape) > 0).float())
    weight = c.constant("weight", c.random("weight", shape[-1]).abs() + 0.2) if weight else None
    return c.output(F.multilabel_soft_margin_loss(x, target, weight, **options))


def triplet(shape=(4, 5), **options):
    c = Case("tripletMarginLoss", **options)
    p = float(options.get("p", 2))
    tensors = [c.normal(name, *shape) for name in ("anchor", "positive", "negative")]
    return c.output(F.triplet_margin_loss(*tensors, **{**options, "p": p}))


def triplet_with_distance(shape=(4, 5), **options):
    c = Case("tripletMarginWithDistanceLoss", **options)
    tensors = [c.normal(name, *shape) for name in ("anchor", "positive", "negative")]
    return c.output(F.triplet_margin_with_distance_loss(*tensors, **options))


def ctc(T, N, C, S, input_lengths, target_lengths, flat=False, raw=False, **options):
    c = Case("ctcLoss", input_lengths=input_lengths, target_lengths=target_lengths, **options)
    shape = (T, C) if N is None else (T, N, C)
    logits = c.normal("logProbs" if raw else "logits", *shape)
    generator = torch.Generator().manual_seed(T)
    blank = options.get("blank", 0)
    targets = torch.randint(0, C - 1, (S,) if N is None else (N, S), generator=generator)
    targets = torch.where(targets >= blank, targets + 1, targets)
    if flat:
        targets = torch.cat([row[:length] for row, length in zip(targets, target_lengths)])
    c.constant("targets", targets.int())
    log_probs = logits if raw else logits.log_softmax(-1)
    lengths = (torch.tensor(input_lengths), torch.tensor(target_lengths))
    return c.output(F.ctc_loss(log_probs, targets, *lengths, **options))


def cases():
    yield from reductions(margin_ranking)
    yield margin_ranking(margin=0.5)
    yield margin_ranking((3, 5), (1, 5), margin=0.5)
    yield from reductions(hinge)
    yield hinge(margin=0.3)
    yield from reductions(soft_margin)
    yield soft_margin(scale=10)
    yield soft_margin(dtype="f16")
    yield from reductions(poisson)
    yield poisson(full=True)
    yield poisson(log_input=False, eps=1e-3)
    yield poisson(log_input=False, full=True, reduction="none")
    yield from reductions(gaussian)
    yield gaussian(full=True)
    yield gaussian(small=True, eps=1e-3)
    yield gaussian(var=(3,))
    yield gaussian(var=(3, 1), reduction="none")
    yield from reductions(multi_margin)
    yield multi_margin(p=2, margin=0.7)
    yield multi_margin(weight=True, p=2)
    yield multi_margin(weight=True, reduction="none")
    yield multi_margin((5,))
    yield multi_margin((5,), reduction="none")
    labels = [[3, 0, -1, 1], [1, -1, 2, 3], [-1, 0, 1, 2], [0, 1, 2, 3]]
    for reduction in "mean", "sum", "none":
        yield multi_label_margin((4, 4), labels, reduction=reduction)
    yield multi_label_margin((4,), labels[0])
    yield from reductions(multi_label_soft_margin)
    yield multi_label_soft_margin(weight=True)
    yield multi_label_soft_margin((5,))
    yield multi_label_soft_margin((2, 3, 4), reduction="none")
    yield from reductions(triplet)
    yield triplet(margin=0.3, swap=True)
    yield triplet(p=1, eps=1e-3)
    yield triplet(p=3)
    yield triplet((5,))
    yield from reductions(triplet_with_distance)
    yield triplet_with_distance(swap=True, margin=2.0)
    for reduction in "mean", "sum", "none":
        yield ctc(9, 3, 5, 4, [9, 8, 7], [4, 2, 1], reduction=reduction)
    yield ctc(21, 2, 4, 3, [21, 17], [3, 0], blank=2)
    yield ctc(9, 3, 5, 4, [9, 8, 7], [4, 2, 3], flat=True)
    yield ctc(7, None, 5, 3, 7, 3)
    yield ctc(7, None, 5, 3, 7, 3, reduction="none")
    yield ctc(7, 2, 5, 3, [6, 7], [3, 2], raw=True)
    yield ctc(5, 3, 4, 4, [5, 2, 5], [2, 4, 1], zero_infinity=True, reduction="none")
    yield ctc(1, 1, 3, 1, [1], [1])
