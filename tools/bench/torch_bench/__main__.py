"""PyTorch's side of the benchmarks: the cases of main.ts under the same names, with the sizes of sizes.json.

    python3 torch_bench --out torch.json                  everything
    python3 torch_bench --only 'matmul|^softmax'          groups, layers or cases whose name matches

fp32 is fp32: TF32 is off for matmul and cuDNN. f16 is torch.float16, or autocast where the name says so. A number is the
median of several rounds of many repetitions between two CUDA events, after at least 40 ms of the same work, or half a second
where the GPU has rested; repetitions rotate among several sets of inputs where one set would stay in the GPU's cache. Without
a GPU it runs on the processor at small sizes, to see that it works.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import kernels
import layers
import torch
import training
from measure import CUDA

GROUPS = {
    "launch": kernels.launch,
    "memory": kernels.memory,
    "matmul": kernels.matmul,
    "layers": layers.cases,
    "training": training.cases,
}


def driver():
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return ""


def chosen(sizes, only):
    """Group, layer, name and function of the cases that `only` asks for, by any of its names."""
    for group, cases in GROUPS.items():
        for layer, name, run in cases(sizes):
            if not only or any(re.search(only, text) for text in (group, layer, name) if text):
                yield group, layer, name, run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="REGEX", help="groups, layers or cases whose name matches")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    parser.add_argument("--small", action="store_true", help="small sizes, as without a GPU")
    parser.add_argument("--list", action="store_true", help="print the names only")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN try its algorithms; off is PyTorch's default")
    args = parser.parse_args()

    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    sizes = json.loads(Path(__file__).parent.with_name("sizes.json").read_text())["small" if args.small or not CUDA else "full"]
    measurements = {
        "date": datetime.now(timezone.utc).isoformat(),
        "command": " ".join(Path(argument).name for argument in sys.argv),
        "device": torch.cuda.get_device_name() if CUDA else platform.processor(),
        "driver": driver(),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "rows": [],
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    for group, layer, name, run in chosen(sizes, args.only):
        if args.list:
            print(name)
            continue
        try:
            row = run()
            print(f"{name:60} {row['ms']:10.4f} ms  {row['min']:.4f} - {row['max']:.4f}  host {row['js']:.4f}", flush=True)
        except Exception as error:  # one case must not keep the others from running
            row = {"error": str(error).splitlines()[0]}
            print(f"{name:60} {row['error']}", flush=True)
        measurements["rows"].append({"group": group, **({"layer": layer} if layer else {}), "name": name, **row})
        if args.out:  # after each case, as main.ts does
            args.out.write_text(json.dumps(measurements, indent=1) + "\n")
        if CUDA:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
