#!/usr/bin/env python3
"""Writes the PyTorch fixtures of the layers: packages/<layer>/test/<layer>.safetensors.

Each file of layers/ describes one package, but for PACKAGES. A layer without a package is left out.
"""

import argparse
import importlib
import sys
from pathlib import Path

import torch

from fixture import serialize, write

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LAYERS = sorted(file.stem.replace("_", "-") for file in (HERE / "layers").glob("[a-z]*.py"))
MAX_BYTES = 200_000
# Where a file of layers/ is not called as its package; nn has several of them.
PACKAGES = {"elementwise": "math", "multihead": "attention", "transformer": "nn"}
PACKAGES |= {layer: "nn" for layer in LAYERS if layer.startswith("nn-")}


def fixture(layer: str) -> tuple[bytes, int]:
    """The layer's file and the number of its cases."""
    cases = list(importlib.import_module(f"layers.{layer.replace('-', '_')}").cases())
    metadata = {"torch": torch.__version__, "command": f"python3 tools/golden/main.py {layer}"}
    return serialize(cases, metadata), len(cases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", metavar="layer", help=f"default: all of {', '.join(LAYERS)}")
    parser.add_argument("--all", action="store_true", help="compute layers without a package too, and print their sizes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write DIR/<layer>.safetensors, package or not")
    args = parser.parse_args()
    if unknown := set(args.layers) - set(LAYERS):
        parser.error(f"no layer is called {', '.join(sorted(unknown))}; known: {', '.join(LAYERS)}")

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    left_out, too_large, total = [], [], 0
    for layer in args.layers or LAYERS:
        package = ROOT / "packages" / PACKAGES.get(layer, layer)
        wanted = args.out is not None or package.is_dir()
        if not wanted:
            left_out.append(layer)
        if wanted or args.all:
            content, count = fixture(layer)
            target = args.out / f"{layer}.safetensors" if args.out else package / "test" / f"{layer}.safetensors"
            if wanted:
                write(target, content)
            print(f"{layer:15} {count:4} cases {len(content):8,} bytes  {target.name if wanted else 'not written'}")
            total += len(content)
            if len(content) > MAX_BYTES:
                too_large.append(layer)
    print(f"{'total':15} {total:25,} bytes")
    if left_out:
        print(f"left out, as packages/<layer> does not exist: {', '.join(left_out)}")
    if too_large:
        sys.exit(f"larger than {MAX_BYTES:,} bytes: {', '.join(too_large)}")


if __name__ == "__main__":
    main()
