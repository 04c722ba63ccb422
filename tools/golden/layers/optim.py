"""optim: AdamW over several steps and groups, and the clipping of gradients by their norm.

adamW: `param.<i>` before; `grad.<i>` [steps, ...] and `lr` [steps, groups], given; `after.<i>` [steps, ...] after every step;
`exp_avg.<i>` and `exp_avg_sq.<i>` at the end. The option `groups` lists the parameters of each group and its weightDecay;
`maxNorm` clips all gradients of a step together before it.
clipGradNorm: `grad.<i>` before, `clipped.<i>` after, `norm` before.
"""

import torch

from fixture import Case

SHAPES = [3, 5], [257], [1], [17]
STEPS = 10


def adamw(groups=(((0, 1, 2, 3), 0.01),), max_norm=None, factors=None, **options):
    """`groups`: parameters and weight decay of each; `factors`: what the learning rate is multiplied by at each step."""
    named = {"groups": [{"params": params, "weightDecay": decay} for params, decay in groups]}
    if max_norm is not None:
        named["max_norm"] = max_norm
    c = Case("adamW", **named, **options)
    for i, shape in enumerate(SHAPES):
        c.store(f"param.{i}", c.random(f"param.{i}", *shape))
    grads = [c.random(f"grad.{i}", STEPS, *shape) * 10 ** (-i) for i, shape in enumerate(SHAPES)]  # of several magnitudes
    rates = torch.tensor([[1e-2 / (g + 1) * f for g in range(len(groups))] for f in factors or [1] * STEPS], dtype=torch.float64)
    c.store("lr", rates)
    params = [torch.nn.Parameter(c.tensors[f"param.{i}"].clone()) for i in range(len(SHAPES))]
    optimizer = torch.optim.AdamW(
        [{"params": [params[i] for i in members], "weight_decay": decay} for members, decay in groups], foreach=False, **options
    )
    after = [[] for _ in params]
    for step in range(STEPS):
        for group, lr in zip(optimizer.param_groups, rates[step].tolist(), strict=True):
            group["lr"] = lr
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad[step].clone()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, max_norm, foreach=False)
        optimizer.step()
        for history, p in zip(after, params, strict=True):
            history.append(p.detach().clone())
    for i, p in enumerate(params):
        c.store(f"grad.{i}", grads[i])
        c.store(f"after.{i}", torch.stack(after[i]))
        for key, value in optimizer.state[p].items():
            if key != "step":
                c.store(f"{key}.{i}", value)
    return c


def clip(scale=1.0, **options):
    c = Case("clipGradNorm", **options)
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for i, p in enumerate(params):
        p.grad = c.random(f"grad.{i}", *p.shape) * scale
        c.store(f"grad.{i}", p.grad)
    c.store("norm", torch.nn.utils.clip_grad_norm_(params, foreach=False, **options))
    for i, p in enumerate(params):
        c.store(f"clipped.{i}", p.grad)
    return c


def cases():
    two_groups = ((0, 3), 0.1), ((1, 2), 0.0)
    warmup_and_decay = [0.25, 0.5, 0.75, 1, 1, 0.8, 0.6, 0.4, 0.2, 0]
    yield adamw()
    yield adamw(two_groups, factors=warmup_and_decay)
    yield adamw(two_groups, max_norm=1.0, factors=warmup_and_decay, betas=(0.9, 0.95), eps=1e-6)
    yield clip(max_norm=1.0)
    yield clip(max_norm=1000.0)  # already short enough
    yield clip(0.0, max_norm=2.0)  # all gradients 0
    yield clip(max_norm=0.5, norm_type=1.0)
