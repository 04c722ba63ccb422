"""How a case is timed: see measure.ts."""

import math
import statistics
import time
from contextlib import nullcontext

import torch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
ROUND = 40  # ms
REST, RAMP = 150, 500  # ms of rest after which a GPU may have lowered its clock, and of work until it has raised it again
busy = -math.inf  # when the GPU last had work to be timed
DTYPES = {"f32": torch.float32, "f16": torch.float16}


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
    """A row's numbers for `step`, in which `parts` repetitions happen; of the host alone where `host` says so. Three
    rounds, and up to seven where they differ by more than 1 %."""
    global busy
    start = 1e3 * time.perf_counter()
    ramp = RAMP if CUDA and not host and start - busy > REST else 0
    count = 1
    warm = clock(step, count)[0]
    while warm < ROUND or 1e3 * time.perf_counter() - start < ramp:
        count = math.ceil(count * max(1, min(8, 1.2 * ROUND / max(warm, 0.1))))
        warm = clock(step, count)[0]
    most = max(3, min(7, int(300 / warm)))
    times, launches = [], []
    while len(times) < 3 or (len(times) < most and max(times) > 1.01 * min(times)):
        elapsed, launched = clock(step, count)
        times.append((launched if host else elapsed) / count / parts)
        launches.append(launched / count / parts)
    busy = 1e3 * time.perf_counter()
    return {"ms": statistics.median(times), "min": min(times), "max": max(times), "js": statistics.median(launches)}


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
    """Names and functions of two cases. `setup` returns leaves, dy or None, and a function that computes y; where that
    returns a tuple, dy is one."""

    def forward():
        _, _, compute = setup()

        def work():
            with torch.no_grad():
                y = compute()
            return y if isinstance(y, tuple) else (y,)

        return work

    def both():
        leaves, dy, compute = setup()
        for leaf in leaves:
            leaf.requires_grad_()

        def work():
            y = compute()
            return *(y if isinstance(y, tuple) else (y,)), *torch.autograd.grad(y, leaves, dy)

        return work

    yield f"{name} fwd", lambda: kernel(forward, sets)
    yield f"{name} fwd+bwd", lambda: kernel(both, sets)


def randn(*shape, dtype="f32"):
    return torch.randn(*shape, device=DEVICE, dtype=DTYPES[dtype])


def sets_for(size, sizes):
    """How many sets of inputs, of `size` bytes each, do not fit in the cache."""
    sets = sizes["sets"]
    return max(1, min(sets["most"], math.ceil(sets["bytes"] / size)))


def autocast(dtype):
    return torch.autocast(DEVICE.type, torch.float16) if dtype == "f16" else nullcontext()


def precision(dtype):
    return "autocast f16" if dtype == "f16" else "f32"


def ids(count, classes):
    return ((torch.arange(1, count + 1, device=DEVICE) * 0x9E3779B1 & 0xFFFFFFFF) >> 8) % classes


def times(shape):
    return "×".join(map(str, shape))
