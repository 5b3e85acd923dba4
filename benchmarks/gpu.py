"""Measure Recoach on a GPU, without peers: `python benchmarks/gpu.py FOLDER`.

FOLDER contains the Toys log as `log.inter`. The programs run one after another on a GPU that is
otherwise idle. The results are written to `gpu.json`; `table.py` copies them into README.md.
"""

import json
import sys
import tempfile
from pathlib import Path

from run import Bench

HERE = Path(__file__).resolve().parent
TASKS = {
    "sasrec_epoch": ("recoach_run", {"steps": 60}),
    "plain_epoch": ("recoach_run", {"steps": 30}),
    "lightgcn_epoch": ("recoach_run", {}),
    "rank": ("recoach_run", {}),
    "grpo_step": ("recoach_run", {}),
    "softmax_peak": ("recoach_run", {}),
    "large": ("scale", {}),
    "paper": ("scale", {}),
}


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(folder, Path(scratch), rounds=1)
        (Path(scratch) / "toys").symlink_to(folder)
        for task, (program, options) in TASKS.items():
            results[task] = bench.run(program, task, "toys", **options)
            print(json.dumps(results[task]), flush=True)
            (HERE / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
