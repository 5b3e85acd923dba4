"""Measure Recoach on a GPU, without peers: `python benchmarks/gpu.py FOLDER [--only TASK …]`.

FOLDER contains the Toys log as `log.inter`. The programs run one after another on a GPU that is
otherwise idle. The results are written to `gpu.json`; `table.py` copies them into README.md. Tasks
left out by `--only` keep their results, and so does a task that fails, which is printed.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from bench import Bench

HERE = Path(__file__).resolve().parent
TASKS = {
    "softmax_kernels": ("gpu_steps", {}),
    "softmax_adam": ("gpu_steps", {}),
    "sasrec_epoch": ("recoach_run", {"steps": 60}),
    "plain_epoch": ("recoach_run", {"steps": 30}),
    "grpo_step": ("recoach_run", {}),
    "graphed_step": ("gpu_steps", {}),
    "lightgcn_epoch": ("recoach_run", {}),
    "rank": ("recoach_run", {}),
    "softmax_peak": ("recoach_run", {}),
    "large": ("scale", {}),
    "paper": ("scale", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=list(TASKS), choices=TASKS)
    args = parser.parse_args()
    folder, path = args.folder.resolve(), HERE / "gpu.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(folder, Path(scratch), rounds=1)
        (Path(scratch) / "toys").symlink_to(folder)
        for task in args.only:
            program, options = TASKS[task]
            try:
                results[task] = bench.run(program, task, "toys", **options)
            except subprocess.CalledProcessError as error:
                print(f"{task} failed: {error}", flush=True)
                continue
            print(json.dumps(results[task]), flush=True)
            path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
