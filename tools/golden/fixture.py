"""A case: one call of a function with its inputs, output, upstream gradient and every gradient; and the file that cases go into.

Everything is computed on the CPU in float32. A case with dtype="f16" rounds its inputs and dy to float16, stores them as
such, and still computes in float32: what its y and gradients differ by from a float16 kernel's is that kernel's rounding.
"""

import json
import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

compact = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.int32: "I32", torch.bool: "BOOL"}


class Case:
    """`function` and `options` name the case and seed its random numbers; options are spelt as in PyTorch."""

    def __init__(self, function: str, dtype: str = "f32", **options):
        self.function = function
        self.options = options if dtype == "f32" else {**options, "dtype": dtype}
        self.stored = torch.float16 if dtype == "f16" else torch.float32
        self.inputs: dict[str, Tensor] = {}
        self.tensors: dict[str, Tensor] = {}

    @property
    def name(self) -> str:
        """function, then key=value for every input's shape and every option: the values are JSON without spaces."""
        shapes = {key: list(tensor.shape) for key, tensor in self.inputs.items()}
        options = {re.sub(r"_(\w)", lambda m: m[1].upper(), key): value for key, value in self.options.items()}
        pairs = {**shapes, **options}.items()
        return " ".join([self.function, *(f"{key}={compact(value)}" for key, value in pairs)])

    def random(self, name: str, *shape: int) -> Tensor:
        """Standard normal numbers that depend on this case and this tensor alone: new cases leave the old ones as they are."""
        seed = zlib.crc32(f"{self.function} {self.options} {name} {shape}".encode())
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def normal(self, name: str, *shape: int, scale: float = 1, shift: float = 0) -> Tensor:
        """A random input that receives a gradient."""
        return self.leaf(name, self.random(name, *shape) * scale + shift)

    def leaf(self, name: str, values: Tensor) -> Tensor:
        """An input of these values that receives a gradient."""
        self.store(name, values.to(self.stored))
        self.inputs[name] = values.to(self.stored).float().requires_grad_()
        return self.inputs[name]

    def constant(self, name: str, values: Tensor) -> Tensor:
        """An input without gradient: indices, masks, weights of classes. Floats are rounded as in `leaf`."""
        self.inputs[name] = values.to(self.stored).float() if values.is_floating_point() else values
        self.store(name, values.to(self.stored) if values.is_floating_point() else values)
        return self.inputs[name]

    def parameters(self, module: torch.nn.Module) -> dict[str, Tensor]:
        """A random input for every parameter of `module`, scaled so that outputs stay near 1."""
        return {
            name: self.normal(name, *p.shape, scale=p[0].numel() ** -0.5 if p.dim() > 1 else 1)
            for name, p in module.named_parameters()
        }

    def store(self, name: str, values: Tensor) -> None:
        """Adds a tensor to the case as it is; 64-bit integers become 32-bit."""
        values = values.detach().clone(memory_format=torch.contiguous_format)
        if values.isnan().any():
            raise ValueError(f"{self.name}: {name} has a NaN")
        self.tensors[name] = values.int() if values.dtype == torch.int64 else values

    def output(self, y: Tensor) -> "Case":
        """Stores y, a random upstream gradient dy, and the gradient d<input> of every leaf."""
        dy = self.random("dy", *y.shape).to(self.stored)
        y.backward(dy.float())
        self.store("y", y)
        self.store("dy", dy)
        for name, leaf in self.inputs.items():
            if leaf.grad is not None:
                self.store(f"d{name}", leaf.grad)
        return self


def serialize(cases: Iterable[Case], metadata: dict[str, str]) -> bytes:
    """The cases as one safetensors file of tensors `<case>/<name>`: the same bytes for the same values."""
    tensors: dict[str, Tensor] = {}
    for case in cases:
        for name, tensor in case.tensors.items():
            path = f"{case.name}/{name}"
            if path in tensors:
                raise ValueError(f'two cases are called "{case.name}"')
            tensors[path] = tensor
    # Wide elements first: every tensor then starts at a multiple of its element's size.
    order = sorted(tensors, key=lambda path: -tensors[path].element_size())
    data = [tensors[path].numpy().tobytes() for path in order]
    header: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for path, chunk in zip(order, data, strict=True):
        tensor = tensors[path]
        header[path] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(chunk)]}
        at += len(chunk)
    text = compact(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *data])


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
