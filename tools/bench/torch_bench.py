#!/usr/bin/env python3
"""PyTorch's side of the benchmarks: the cases of main.ts under the same names, with the sizes of sizes.json.

    python3 torch_bench.py --out torch.json                  everything
    python3 torch_bench.py --only matmul,layernorm           groups, or cases whose names contain one of these

fp32 is fp32: TF32 is off for matmul and cuDNN. f16 is torch.float16, or autocast where the name says so. A number is the
median of several rounds of many repetitions between two CUDA events, after at least 40 ms of the same work; repetitions
rotate among several sets of inputs where one set would stay in the GPU's cache. Without a GPU it runs on the processor at
small sizes, to see that it works.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
ROUND = 40  # ms
DTYPES = {"f32": torch.float32, "f16": torch.float16}


# Timing ------------------------------------------------------------------------------------------


def clock(step, count):
    """Milliseconds of `count` steps, and those that Python took to launch them."""
    if not CUDA:
        start = time.perf_counter()
        for _ in range(count):
            step()
        elapsed = 1e3 * (time.perf_counter() - start)
        return elapsed, elapsed
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start = time.perf_counter()
    first.record()
    for _ in range(count):
        step()
    last.record()
    launched = 1e3 * (time.perf_counter() - start)
    last.synchronize()
    return first.elapsed_time(last), launched


def timed(step, parts=1, host=False):
    """A row's numbers for `step`, in which `parts` repetitions happen; of the host alone where `host` says so."""
    count = 1
    warm = clock(step, count)[0]
    while warm < ROUND:
        count = math.ceil(count * min(8, 1.2 * ROUND / max(warm, 0.1)))
        warm = clock(step, count)[0]
    rounds = [clock(step, count) for _ in range(max(3, min(7, int(300 / warm))))]
    times = [pair[1 if host else 0] / count / parts for pair in rounds]
    launched = statistics.median(pair[1] for pair in rounds) / count / parts
    return {"ms": statistics.median(times), "min": min(times), "max": max(times), "js": launched}


def check(*results):
    for x in results:
        if not torch.isfinite(x.detach().flatten()[:4096]).all():
            raise ValueError("a result is not finite")


def kernel(step, sets=1):
    """Times `step(inputs)`, which returns tensors. `step` is a function that makes a set of inputs and returns the work."""
    work = [step() for _ in range(sets)]
    check(*[x for one in work for x in one()])
    return timed(lambda: [one() for one in work], sets)


def pair(name, setup, sets=1):
    """Two cases. `setup` returns leaves, dy or None, and a function that computes y."""

    def forward():
        _, _, compute = setup()

        def work():
            with torch.no_grad():
                return (compute(),)

        return work

    def both():
        leaves, dy, compute = setup()
        for leaf in leaves:
            leaf.requires_grad_()

        def work():
            y = compute()
            return y, *torch.autograd.grad(y, leaves, dy)

        return work

    yield f"{name} fwd", lambda: kernel(forward, sets)
    yield f"{name} fwd+bwd", lambda: kernel(both, sets)


def randn(*shape, dtype="f32"):
    return torch.randn(*shape, device=DEVICE, dtype=DTYPES[dtype])


def sets_for(size, sizes):
    sets = sizes["sets"]
    return max(1, min(sets["most"], math.ceil(sets["bytes"] / size)))


def autocast(dtype):
    return torch.autocast(DEVICE.type, torch.float16) if dtype == "f16" else nullcontext()


def ids(count, classes):
    return ((torch.arange(1, count + 1, device=DEVICE) * 0x9E3779B1 & 0xFFFFFFFF) >> 8) % classes


# Cases -------------------------------------------------------------------------------------------


def launch_cases(sizes):
    adds = 256

    def eager():
        a, b = torch.ones(4, device=DEVICE, requires_grad=True), torch.ones(4, device=DEVICE)
        return timed(lambda: [torch.add(a, b) for _ in range(adds)], adds, host=True)

    yield "add of 4 elements on the tape, host time", eager


def matmul_cases(sizes):
    def product(dtype, layout, rows, cols, inner):
        def setup():
            a = randn(*((inner, rows) if layout[0] == "t" else (rows, inner)), dtype=dtype)
            b = randn(*((cols, inner) if layout[1] == "t" else (inner, cols)), dtype=dtype)
            a, b = (a.T if layout[0] == "t" else a), (b.T if layout[1] == "t" else b)
            return lambda: (a @ b,)

        return kernel(setup)

    for dtype in DTYPES:
        for n in sizes["squares"]:
            yield f"matmul {dtype} {n}³", partial(product, dtype, "nn", n, n, n)
        for text in sizes["products"]:
            layout, shape = text.split(" ")
            yield f"matmul {dtype} {text}", partial(product, dtype, layout, *map(int, shape.split("×")))


def layer_cases(sizes):
    for shape in sizes["linear"]:
        for dtype in DTYPES:
            yield from linear_cases(shape, dtype, False)
            yield from linear_cases(shape, dtype, True)
    for rows, cols in sizes["layernorm"]:

        def setup(rows=rows, cols=cols):
            x, weight, bias = randn(rows, cols), randn(cols), randn(cols)
            return [x, weight, bias], randn(rows, cols), lambda: F.layer_norm(x, (cols,), weight, bias)

        yield from pair(f"layernorm {rows}×{cols}", setup, sets_for(4 * rows * cols, sizes))
    for rows, classes in sizes["crossEntropy"]:

        def setup(rows=rows, classes=classes):
            logits, target = randn(rows, classes), ids(rows, classes)
            return [logits], None, lambda: F.cross_entropy(logits, target)

        yield from pair(f"cross entropy {rows}×{classes}", setup, sets_for(4 * rows * classes, sizes))
    for shape in sizes["attention"]:
        for dtype in DTYPES:

            def setup(shape=shape, dtype=dtype):
                q, k, v, dy = (randn(*shape, dtype=dtype) for _ in range(4))
                return [q, k, v], dy, lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)

            size = 3 * (2 if dtype == "f16" else 4) * math.prod(shape)
            yield from pair(f"attention causal {dtype} {'×'.join(map(str, shape))}", setup, sets_for(size, sizes))
    for vocabulary, width, count in sizes["embedding"]:

        def setup(vocabulary=vocabulary, width=width, count=count):
            weight, tokens = randn(vocabulary, width), ids(count, vocabulary)
            return [weight], randn(count, width), lambda: F.embedding(tokens, weight)

        yield from pair(f"embedding {vocabulary}×{width}, {count} ids", setup)
    for rows, cols in sizes["pointwise"]:
        for name, function in {"gelu": F.gelu, "dropout": partial(F.dropout, p=0.1)}.items():

            def setup(rows=rows, cols=cols, function=function):
                x = randn(rows, cols)
                return [x], randn(rows, cols), lambda: function(x)

            yield from pair(f"{name} {rows}×{cols}", setup, sets_for(4 * rows * cols, sizes))
    for count, size in sizes["adamw"]:

        def adamw(count=count, size=size):
            params = [nn.Parameter(randn(size)) for _ in range(count)]
            for p in params:
                p.grad = randn(size)
            optimizer = torch.optim.AdamW(params, lr=1e-3, weight_decay=0.01, fused=True)
            optimizer.step()
            check(*params)
            return timed(optimizer.step)

        yield f"adamw {count} tensors of {size}", adamw


def linear_cases(shape, dtype, activate):
    rows, inner, cols = shape

    def setup():
        x, weight, bias = randn(rows, inner), randn(cols, inner), randn(cols)

        def compute():
            with autocast(dtype):
                y = F.linear(x, weight, bias)
                return F.gelu(y) if activate else y

        return [x, weight, bias], randn(rows, cols, dtype=dtype), compute

    name = "linear+gelu" if activate else "linear"
    yield from pair(f"{name} {'autocast f16' if dtype == 'f16' else 'f32'} {rows}×{inner}→{cols}", setup)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(width, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    """The model of examples/gpt."""

    def __init__(self, layers, width, heads, context, vocabulary):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("positions", torch.arange(context), persistent=False)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() == 2:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, tokens):
        return self.lm_head(self.ln_f(self.h(self.wte(tokens) + self.wpe(self.positions))))


def training_cases(sizes):
    def training(config, dtype):
        batch, context, vocabulary = config["batch"], config["context"], config["vocabulary"]
        text = ids(batch * context + 1, vocabulary)
        tokens, targets = text[:-1].view(batch, context), text[1:]
        model = GPT(config["layers"], config["width"], config["heads"], context, vocabulary).to(DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        scaler = torch.amp.GradScaler(DEVICE.type, enabled=dtype == "f16")

        def step():
            optimizer.zero_grad(set_to_none=True)
            with autocast(dtype):
                loss = F.cross_entropy(model(tokens).flatten(0, 1), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss

        check(*[step() for _ in range(5)])
        return timed(step)

    for config in sizes["gpt"]:
        for dtype in DTYPES:
            name = f"gpt {config['layers']}×{config['width']} {'autocast f16' if dtype == 'f16' else 'f32'}"
            yield name, partial(training, config, dtype)


GROUPS = {"launch": launch_cases, "matmul": matmul_cases, "layers": layer_cases, "training": training_cases}


# Command -----------------------------------------------------------------------------------------


def driver():
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="A,B", help="groups, or parts of names")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--small", action="store_true", help="small sizes, as without a GPU")
    parser.add_argument("--list", action="store_true", help="print the names only")
    args = parser.parse_args()

    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    sizes = json.loads(Path(__file__).with_name("sizes.json").read_text())["small" if args.small or not CUDA else "full"]
    only = args.only.split(",") if args.only else None
    rows = []
    for group, cases in GROUPS.items():
        for name, run in cases(sizes):
            if only and not any(text == group or text in name for text in only):
                continue
            if args.list:
                print(name)
                continue
            try:
                row = run()
                print(f"{name:48} {row['ms']:10.4f} ms  {row['min']:.4f} - {row['max']:.4f}  host {row['js']:.4f}", flush=True)
            except Exception as error:  # one case must not keep the others from running
                row = {"error": str(error).splitlines()[0]}
                print(f"{name:48} {row['error']}", flush=True)
            rows.append({"group": group, "name": name, **row})
            if CUDA:
                torch.cuda.empty_cache()
    if args.out:
        measurements = {
            "date": datetime.now(timezone.utc).isoformat(),
            "command": " ".join(Path(argument).name for argument in sys.argv),
            "device": torch.cuda.get_device_name() if CUDA else platform.processor(),
            "driver": driver(),
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "rows": rows,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(measurements, indent=1) + "\n")


if __name__ == "__main__":
    main()
