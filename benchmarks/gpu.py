"""Measure our own rows on a GPU: `python benchmarks/gpu.py FOLDER`.

FOLDER holds Toys as `log.inter`. Absolute figures, one program after the other on a card that does
nothing else; they are written to `gpu.json`, and `table.py` puts them into the page.
"""

import json
import sys
import tempfile
from pathlib import Path

from run import Bench

HERE = Path(__file__).resolve().parent
WORKS = {
    "sasrec_epoch": ("ours", {"steps": 60}),
    "plain_epoch": ("ours", {"steps": 30}),
    "lightgcn_epoch": ("ours", {}),
    "rank": ("ours", {}),
    "grpo_step": ("ours", {}),
    "softmax_peak": ("ours", {}),
    "large": ("scale", {}),
    "paper": ("scale", {}),
}


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(folder, Path(scratch), rounds=1)
        (Path(scratch) / "toys").symlink_to(folder)
        for work, (program, options) in WORKS.items():
            found[work] = bench.run(program, work, "toys", **options)
            print(json.dumps(found[work]), flush=True)
            (HERE / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
