"""The layers: forward without the tape, and forward with backward. A function for each package, which yields cases."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from measure import DEVICE, DTYPES, autocast, check, ids, pair, precision, randn, sets_for, timed, times
from torch import nn


def cases(sizes):
    for layer, function in LAYERS.items():
        for name, run in function(sizes):
            yield layer, name, run


def linear(sizes):
    def setup(dtype, activate, rows, inner, cols):
        x, weight, bias = randn(rows, inner), randn(cols, inner), randn(cols)

        def compute():
            with autocast(dtype):
                y = F.linear(x, weight, bias)
                return F.gelu(y) if activate else y

        return [x, weight, bias], randn(rows, cols, dtype=dtype), compute

    for rows, inner, cols in sizes["linear"]:
        for dtype in DTYPES:
            for name, activate in {"linear": False, "linear+gelu": True}.items():
                title = f"{name} {precision(dtype)} {rows}×{inner}→{cols}"
                yield from pair(title, partial(setup, dtype, activate, rows, inner, cols))


def convolution(function, size, weight_shape, title, sizes, **options):
    """f16 is autocast: parameters and x are f32, as dx, dW and db are."""

    def setup(dtype):
        x, weight, bias = randn(*size["shape"]), randn(*weight_shape), randn(size["filters"])

        def compute():
            with autocast(dtype):
                return function(x, weight, bias, **options)

        with torch.no_grad():
            dy = torch.randn_like(compute())
        return [x, weight, bias], dy, compute

    with torch.device("meta"):
        out = function(torch.empty(size["shape"]), torch.empty(weight_shape), **options).numel()
    sets = sets_for(4 * max(math.prod(size["shape"]), out), sizes)
    for dtype in DTYPES:
        yield from pair(title.format(precision(dtype)), partial(setup, dtype), sets)


def conv1d(sizes):
    for size in sizes["conv1d"]:
        shape, filters, kernel = size["shape"], size["filters"], size["kernel"]
        title = f"conv1d {{}} {times(shape)}, {kernel}→{filters}"
        yield from convolution(F.conv1d, size, [filters, shape[1], kernel], title, sizes, padding=size["padding"])


def conv2d(sizes):
    for size in sizes["conv2d"]:
        shape, filters, kernel, stride, groups = (size[key] for key in ("shape", "filters", "kernel", "stride", "groups"))
        name = "conv2d depthwise" if groups > 1 and groups == shape[1] else "conv2d"
        window = f"{kernel}×{kernel}" + (f" s{stride}" if stride > 1 else "")
        title = f"{name} {{}} {times(shape)}, {window}→{filters}"
        options = {"stride": stride, "padding": size["padding"], "groups": groups}
        yield from convolution(F.conv2d, size, [filters, shape[1] // groups, kernel, kernel], title, sizes, **options)


def conv_transpose(sizes):
    for size in sizes["convTranspose2d"]:
        shape, filters, kernel, stride = (size[key] for key in ("shape", "filters", "kernel", "stride"))
        title = f"convtranspose2d {{}} {times(shape)}, {kernel}×{kernel} s{stride}→{filters}"
        options = {"stride": stride, "padding": size["padding"]}
        yield from convolution(F.conv_transpose2d, size, [shape[1], filters, kernel, kernel], title, sizes, **options)


def attention(sizes):
    """The boolean masks of a window and of the variant "mask" are made once, before anything is timed."""

    def below(length):
        return torch.ones(length, length, dtype=torch.bool, device=DEVICE).tril()

    def mask_of(length):
        query, key = torch.arange(length, device=DEVICE)[:, None], torch.arange(length, device=DEVICE)
        return (key <= query) & ((key == query) | ((query + key) % 8 != 7))

    def setup(shape, dtype, kv_heads, options):
        batch, heads, length, dim = shape
        q, dy = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype)
        k, v = (randn(batch, kv_heads or heads, length, dim, dtype=dtype) for _ in range(2))
        options = options(length)
        return [q, k, v], dy, lambda: F.scaled_dot_product_attention(q, k, v, **options)

    def attention_pair(name, shape, dtype, options, kv_heads=None):
        size = 3 * (2 if dtype == "f16" else 4) * math.prod(shape)
        yield from pair(f"{name} {dtype} {times(shape)}", partial(setup, shape, dtype, kv_heads, options), sets_for(size, sizes))

    def causal(length):
        return {"is_causal": True}

    for shape in sizes["attention"]:
        for dtype in DTYPES:
            yield from attention_pair("attention causal", shape, dtype, causal)
    for shape in sizes["attentionF16"]:
        yield from attention_pair("attention causal", shape, "f16", causal)
    for size in sizes["attentionVariants"]:
        shape, window, kv_heads = size["shape"], size["window"], size["kvHeads"]
        variants = {
            "attention causal dropout": (lambda length: {"is_causal": True, "dropout_p": 0.1}, None),
            f"attention causal window {window}": (
                lambda length, window=window: {"attn_mask": below(length) & ~below(length).tril(-window)},
                None,
            ),
            "attention mask": (lambda length: {"attn_mask": mask_of(length)}, None),
            f"attention causal gqa {kv_heads}": (lambda length: {"is_causal": True, "enable_gqa": True}, kv_heads),
        }
        for name, (options, heads) in variants.items():
            for dtype in DTYPES:
                yield from attention_pair(name, shape, dtype, options, heads)
    yield from multihead(sizes)
    yield from rotary(sizes)


def multihead(sizes):
    def setup(dtype, batch, length, width, heads):
        x = randn(batch, length, width)
        layer = nn.MultiheadAttention(width, heads, batch_first=True, device=DEVICE)

        def compute():
            with autocast(dtype):
                return layer(x, x, x, need_weights=False)[0]

        return [x, *layer.parameters()], randn(batch, length, width, dtype=dtype), compute

    for shape in sizes["multiheadAttention"]:
        for dtype in DTYPES:
            name = f"multihead attention {precision(dtype)} {times(shape[:3])}, {shape[3]} heads"
            yield from pair(name, partial(setup, dtype, *shape))


def rotary(sizes):
    """PyTorch has no such function: what Llama's implementations do, with cosines and sines made once."""

    def setup(shape, dtype):
        x, dim = randn(*shape, dtype=dtype), shape[-1]
        frequencies = 10000 ** (-torch.arange(0, dim, 2, device=DEVICE, dtype=torch.float64) / dim)
        angles = torch.outer(torch.arange(shape[-2], device=DEVICE), frequencies).repeat(1, 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)

        def compute():
            a, b = x.chunk(2, dim=-1)
            return x * cos + torch.cat((-b, a), dim=-1) * sin

        return [x], randn(*shape, dtype=dtype), compute

    for shape in sizes["rotary"]:
        for dtype in DTYPES:
            size = (2 if dtype == "f16" else 4) * math.prod(shape)
            yield from pair(f"rotary {dtype} {times(shape)}", partial(setup, shape, dtype), sets_for(size, sizes))


def batchnorm(sizes):
    """In training. f16 is that of x; parameters and statistics are f32."""

    def setup(shape, dtype, block):
        x, dy = randn(*shape, dtype=dtype), randn(*shape, dtype=dtype)
        residual = randn(*shape, dtype=dtype) if block else None
        weight, bias = randn(shape[1]), randn(shape[1])
        mean, var = torch.zeros(shape[1], device=DEVICE), torch.ones(shape[1], device=DEVICE)

        def compute():
            y = F.batch_norm(x, mean, var, weight, bias, training=True)
            return F.relu(y + residual) if block else y

        return [x, *([residual] if block else []), weight, bias], dy, compute

    for shape in sizes["batchnorm"]:
        for dtype in DTYPES:
            for name, block in {"batchnorm2d": False, "batchnorm2d+residual+relu": True}.items():
                title = f"{name}{' f16' if dtype == 'f16' else ''} {times(shape)}"
                size = (2 if dtype == "f16" else 4) * math.prod(shape)
                yield from pair(title, partial(setup, shape, dtype, block), sets_for(size, sizes))


def groupnorm(sizes):
    def setup(shape, groups):
        x, weight, bias = randn(*shape), randn(shape[1]), randn(shape[1])
        return [x, weight, bias], randn(*shape), lambda: F.group_norm(x, groups, weight, bias)

    for size in sizes["groupnorm"]:
        shape, groups = size["shape"], size["groups"]
        yield from pair(f"groupnorm {groups} groups {times(shape)}", partial(setup, shape, groups), sets_for(4 * math.prod(shape), sizes))


def norm(name, function, parameters, sizes):
    """`function(x, parameters)`; with a residual both the sum and its normalisation are returned and get a gradient."""

    def setup(rows, cols, add):
        x, weights = randn(rows, cols), [randn(cols) for _ in range(parameters)]
        residual = randn(rows, cols) if add else None
        dy = (randn(rows, cols), randn(rows, cols)) if add else randn(rows, cols)

        def compute():
            if not add:
                return function(x, cols, *weights)
            total = x + residual
            return function(total, cols, *weights), total

        return [x, *weights], dy, compute

    for rows, cols in sizes[name]:
        yield from pair(f"{name} {rows}×{cols}", partial(setup, rows, cols, False), sets_for(4 * rows * cols, sizes))
    for rows, cols in sizes["residual"]:
        yield from pair(f"{name}+residual {rows}×{cols}", partial(setup, rows, cols, True), sets_for(8 * rows * cols, sizes))


def layernorm(sizes):
    yield from norm("layernorm", lambda x, cols, weight, bias: F.layer_norm(x, (cols,), weight, bias), 2, sizes)


def rmsnorm(sizes):
    yield from norm("rmsnorm", lambda x, cols, weight: F.rms_norm(x, (cols,), weight, 1e-6), 1, sizes)


def elementwise(name, function, shape, sizes, dtype="f32"):
    def setup():
        x = randn(*shape, dtype=dtype)
        with torch.no_grad():
            dy = torch.randn_like(function(x))
        return [x], dy, lambda: function(x)

    yield from pair(name, setup, sets_for((2 if dtype == "f16" else 4) * math.prod(shape), sizes))


def softmax(sizes):
    for name, function, key in (("softmax", F.softmax, "softmax"), ("logsoftmax", F.log_softmax, "logSoftmax")):
        for size in sizes[key]:
            shape, dim = size["shape"], size["dim"]
            title = f"{name}{'' if dim == -1 else f' dim {dim} of'} {times(shape)}"
            yield from elementwise(title, partial(function, dim=dim), shape, sizes)


def activations(sizes):
    for rows, cols in sizes["pointwise"]:
        yield from elementwise(f"gelu {rows}×{cols}", F.gelu, (rows, cols), sizes)
        yield from elementwise(f"gelu f16 {rows}×{cols}", F.gelu, (rows, cols), sizes, "f16")
        yield from elementwise(f"gelu+dropout {rows}×{cols}", lambda x: F.dropout(F.gelu(x), 0.1), (rows, cols), sizes)
        yield from elementwise(f"relu {rows}×{cols}", F.relu, (rows, cols), sizes)


def math_(sizes):
    """A chain of six operations, as PyTorch runs it: a kernel for each."""

    def setup(dtype, rows, cols):
        x, dy = randn(rows, cols, dtype=dtype), randn(rows, cols, dtype=dtype)
        a, b, c = (randn(cols, dtype=dtype) for _ in range(3))
        return [x, a, b, c], dy, lambda: torch.tanh(x * a + b) * torch.sigmoid(x) + c

    for rows, cols in sizes["elementwise"]:
        for dtype in DTYPES:
            sets = sets_for((2 if dtype == "f16" else 4) * rows * cols, sizes)
            yield from pair(f"elementwise chain of 6 {dtype} {rows}×{cols}", partial(setup, dtype, rows, cols), sets)


def dropout(sizes):
    for rows, cols in sizes["pointwise"]:
        yield from elementwise(f"dropout {rows}×{cols}", partial(F.dropout, p=0.1), (rows, cols), sizes)


def glu(sizes):
    def swiglu(x):
        a, b = x.chunk(2, dim=-1)
        return a * F.silu(b)

    for rows, cols in sizes["glu"]:
        for name, function in {"glu": F.glu, "swiglu": swiglu}.items():
            yield from elementwise(f"{name} {rows}×{cols}→{cols // 2}", function, (rows, cols), sizes)


def embedding(sizes):
    def setup(vocabulary, width, count):
        weight, tokens = randn(vocabulary, width), ids(count, vocabulary)
        return [weight], randn(count, width), lambda: F.embedding(tokens, weight)

    for vocabulary, width, count in sizes["embedding"]:
        yield from pair(f"embedding {vocabulary}×{width}, {count} ids", partial(setup, vocabulary, width, count))


def pooling(sizes):
    for size in sizes["maxPool2d"]:
        shape, kernel, stride, padding = (size[key] for key in ("shape", "kernel", "stride", "padding"))
        function = partial(F.max_pool2d, kernel_size=kernel, stride=stride, padding=padding)
        yield from elementwise(f"maxpool2d {times(shape)}, {kernel}×{kernel} s{stride}", function, shape, sizes)
    for size in sizes["avgPool2d"]:
        shape, kernel = size["shape"], size["kernel"]
        function = partial(F.avg_pool2d, kernel_size=kernel)
        yield from elementwise(f"avgpool2d {times(shape)}, {kernel}×{kernel}", function, shape, sizes)
    for shape in sizes["adaptiveAvgPool2d"]:
        function = partial(F.adaptive_avg_pool2d, output_size=1)
        yield from elementwise(f"adaptiveavgpool2d {times(shape)}→1", function, shape, sizes)


def padding(sizes):
    for shape in sizes["pad"]:
        for mode in ("constant", "reflect"):
            function = partial(F.pad, pad=(1, 1, 1, 1), mode=mode)
            yield from elementwise(f"pad {mode} {times(shape)} by 1", function, shape, sizes)


def losses(sizes):
    def cross_entropy(rows, classes):
        logits, target = randn(rows, classes), ids(rows, classes)
        return [logits], None, lambda: F.cross_entropy(logits, target)

    def linear_cross_entropy(dtype, rows, inner, classes):
        x, weight, target = randn(rows, inner), randn(classes, inner) / math.sqrt(inner), ids(rows, classes)

        def compute():
            with autocast(dtype):
                return F.cross_entropy(F.linear(x, weight), target)

        return [x, weight], None, compute

    def element_loss(function, draw, shape):
        x, target = randn(*shape), draw(*shape, device=DEVICE)
        return [x], None, lambda: function(x, target)

    for rows, classes in sizes["crossEntropy"]:
        setup = partial(cross_entropy, rows, classes)
        yield from pair(f"cross entropy {rows}×{classes}", setup, sets_for(4 * rows * classes, sizes))
    for rows, inner, classes in sizes["linearCrossEntropy"]:
        for dtype in DTYPES:
            name = f"linear+cross entropy {precision(dtype)} {rows}×{inner}→{classes}"
            yield from pair(name, partial(linear_cross_entropy, dtype, rows, inner, classes))
    for shape in sizes["pointwise"]:
        for name, function, draw in (
            ("mse", F.mse_loss, torch.randn),
            ("smooth l1", F.smooth_l1_loss, torch.randn),
            ("bce with logits", F.binary_cross_entropy_with_logits, torch.rand),
        ):
            setup = partial(element_loss, function, draw, shape)
            yield from pair(f"{name} {times(shape)}", setup, sets_for(8 * math.prod(shape), sizes))


def optim(sizes):
    def adamw(count, size):
        params = [nn.Parameter(randn(size)) for _ in range(count)]
        for p in params:
            p.grad = randn(size)
        optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=0.01, fused=True)
        optimizer.step()
        check(*params)
        return timed(optimizer.step)

    for count, size in sizes["adamw"]:
        yield f"adamw {count} tensors of {size}", partial(adamw, count, size)


LAYERS = {
    "linear": linear,
    "conv1d": conv1d,
    "conv2d": conv2d,
    "conv-transpose": conv_transpose,
    "attention": attention,
    "batchnorm": batchnorm,
    "groupnorm": groupnorm,
    "layernorm": layernorm,
    "rmsnorm": rmsnorm,
    "softmax": softmax,
    "activations": activations,
    "math": math_,
    "glu": glu,
    "dropout": dropout,
    "embedding": embedding,
    "pooling": pooling,
    "padding": padding,
    "losses": losses,
    "optim": optim,
}
