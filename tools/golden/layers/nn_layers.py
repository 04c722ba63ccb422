"""nn-layers: what is small: prelu, rrelu, threshold, softmax2d, bilinear, cosineSimilarity, pairwiseDistance, localResponseNorm,
instanceNorm3d, embeddingBag, adaptiveLogSoftmax (y: the log-probabilities of the targets, or the loss, or of all classes)."""

import torch
import torch.nn.functional as F

from fixture import Case


def prelu(shape, count, **options):
    c = Case("prelu", **options)
    x = c.normal("x", *shape)
    return c.output(F.prelu(x, c.normal("weight", count)))


def cosine(shape1, shape2, **options):
    c = Case("cosineSimilarity", **options)
    x1, x2 = c.normal("x1", *shape1), c.normal("x2", *shape2)
    return c.output(F.cosine_similarity(x1, x2, **{k: v for k, v in options.items() if k != "dtype"}))


def distance(shape1, shape2, **options):
    c = Case("pairwiseDistance", **options)
    x1, x2 = c.normal("x1", *shape1), c.normal("x2", *shape2)
    return c.output(F.pairwise_distance(x1, x2, **{**options, "p": float(options.get("p", 2))}))


def bilinear(lead, in1, in2, out, bias=True, **options):
    c = Case("bilinear", **options)
    x1, x2 = c.normal("x1", *lead, in1), c.normal("x2", *lead, in2)
    weight = c.normal("weight", out, in1, in2, scale=0.3)
    return c.output(F.bilinear(x1, x2, weight, c.normal("bias", out) if bias else None))


def plain(name, function, shape, **options):
    c = Case(name, **options)
    return c.output(function(c.normal("x", *shape), **options))


def bag(ids, num=7, dim=3, offsets=None, weights=False, **options):
    c = Case("embeddingBag", **({"offsets": offsets} if offsets else {}), **options)
    ids = torch.tensor(ids)
    weight = c.normal("weight", num, dim)
    c.constant("ids", ids.int())
    weights = c.normal("perSampleWeights", *ids.shape) if weights else None
    offsets = torch.tensor(offsets) if offsets else None
    return c.output(F.embedding_bag(ids, weight, offsets, per_sample_weights=weights, **options))


def adaptive(result, head_bias=False, batch=True, **options):
    c = Case("adaptiveLogSoftmax", result=result, head_bias=head_bias, batch=batch, **options)
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(16, 12, [3, 7], head_bias=head_bias, **options)
    parameters = c.parameters(module)
    shape = (6, 16) if batch else (16,)
    x = c.normal("x", *shape)
    target = torch.tensor([0, 4, 11, 7, 2, 6]) if batch else torch.tensor(8)
    c.constant("target", target.int())
    if result == "logProb":
        y = torch.func.functional_call(LogProb(module), {f"module.{k}": v for k, v in parameters.items()}, (x,))
    else:
        y = getattr(torch.func.functional_call(module, parameters, (x, target)), result)
    return c.output(y)


class LogProb(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module.log_prob(x)


def linear_cross_entropy(bias=False, **options):
    c = Case("linearCrossEntropyLoss", bias=bias, **options)
    x = c.normal("x", 5, 6)
    weight = c.normal("linear.weight", 7, 6)
    b = c.normal("linear.bias", 7) if bias else None
    target = torch.tensor([0, 6, 3, 2, 3])
    c.constant("target", target.int())
    return c.output(F.cross_entropy(F.linear(x, weight, b), target, **options))


def instance_norm(shape, affine):
    c = Case("instanceNorm3d")
    x = c.normal("x", *shape)
    weight, bias = (c.normal(name, shape[-4]) if affine else None for name in ("weight", "bias"))
    return c.output(F.instance_norm(x if len(shape) == 5 else x[None], weight=weight, bias=bias).reshape(shape))


def cases():
    yield prelu([1], 1)
    yield prelu([2, 3, 5], 1)
    yield prelu([2, 3, 5], 3)
    yield prelu([4, 3], 3)
    yield prelu([2, 3, 2, 2], 3, dtype="f16")
    yield plain("rrelu", F.rrelu, [3, 5], lower=0.1, upper=0.5)
    yield plain("threshold", F.threshold, [3, 67], threshold=0.3, value=-2.0)
    yield plain("softmax2d", lambda x: F.softmax(x, -3), [2, 3, 2, 5])
    yield bilinear([1], 1, 1, 1)
    yield bilinear([5], 3, 7, 4)
    yield bilinear([2, 3], 4, 2, 5, bias=False)
    yield bilinear([], 4, 2, 5)
    yield cosine([5, 7], [5, 7])
    yield cosine([2, 3, 4], [2, 3, 4], dim=-1)
    yield cosine([2, 3, 4], [3, 1], dim=0)
    yield cosine([5, 3], [5, 3], eps=2.0)
    yield cosine([5, 7], [5, 7], dtype="f16")
    for p in 0.5, 1, 2, 3, 4:
        yield distance([5, 7], [5, 7], p=p)
    yield distance([5, 7], [5, 7], eps=1e-3, keepdim=True)
    yield distance([2, 1, 7], [3, 7])
    yield distance([7], [7])
    for size in 1, 2, 3, 5:
        yield plain("localResponseNorm", F.local_response_norm, [2, 4, 3, 2], size=size, alpha=0.3)
    yield plain("localResponseNorm", F.local_response_norm, [2, 7, 5], size=9, alpha=0.5, beta=0.5, k=2.0)
    yield plain("localResponseNorm", F.local_response_norm, [1, 3, 2, 2, 2], size=2)
    yield instance_norm([2, 3, 2, 3, 4], True)
    yield instance_norm([3, 2, 3, 4], False)
    table = [[1, 2, 4, 5], [4, 3, 2, 6], [0, 0, 1, 4]]
    line = [1, 2, 4, 5, 4, 3, 2, 6, 0]
    for mode in "sum", "mean", "max":
        yield bag(table, mode=mode)
        yield bag(line, offsets=[0, 2, 2, 7], mode=mode)
        yield bag(line, offsets=[0, 4, 9], mode=mode, include_last_offset=True)
        yield bag(table, mode=mode, padding_idx=4)
        yield bag([[4, 4], [1, 4]], mode=mode, padding_idx=-3)
    yield bag(table, mode="sum", weights=True)
    yield bag(line, offsets=[0, 3, 4], mode="sum", weights=True)
    for result in "output", "loss", "logProb":
        yield adaptive(result)
    yield adaptive("output", head_bias=True, div_value=2.0)
    yield adaptive("output", batch=False)
    yield linear_cross_entropy()
    yield linear_cross_entropy(bias=True, label_smoothing=0.1)
    yield linear_cross_entropy(ignore_index=3, reduction="sum")
