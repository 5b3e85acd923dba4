"""Write the tables of `results.json` and `gpu.json` into README.md, and draw the growth plot."""

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
GPU = HERE / "gpu.json"
BEGIN, END = "<!-- rows: written by `make bench` -->\n", "<!-- end of rows -->"
PEERS = {
    "recbole": "RecBole",
    "rectools": "RecTools",
    "replay": "RePlay",
    "pyg": "PyG",
    "pandas": "pandas",
    "obp": "Open Bandit Pipeline",
}
PACKAGES = {
    "recbole": "recbole",
    "rectools": "rectools",
    "replay": "replay-rec",
    "pyg": "torch-geometric",
    "pandas": "pandas",
    "implicit": "implicit",
    "obp": "sb-obp",
}
"""Package whose version is printed, by the lower-case name of the peer."""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _verdict(row: dict) -> str:
    if row["bar"] is None:
        return "–"
    target = f"{row['bar']:.2g}"
    if row.get("verdict"):
        return f"≥ {target}, {row['verdict']}"
    return f"≥ {target}" if row["ratio"] >= row["bar"] else f"≥ {target}, **missed**"


def _note(row: dict) -> str:
    """Return the note of a row with the load of the machine, which earlier rows do not have."""
    if "load" not in row:
        return row["note"]
    rounds = "one round" if row["rounds"] == 1 else f"{row['rounds']} rounds"
    return "; ".join(filter(None, (row["note"], f"{rounds}, load {row['load']:.1f}")))


def rows_table(results: dict) -> str:
    """Return the table of all comparisons; above a ratio of 1 Recoach is better."""
    lines = [
        "| task | peer | Recoach | peer's value | ratio | target | |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for rows in results["rows"].values():
        for row in rows:
            peer = PEERS.get(row["peer"], row["peer"])
            package = PACKAGES.get(row["peer"].split(",")[0].lower(), "")
            version = row["versions"].get(package)
            peer += f" ({version})" if version else ""
            ours, theirs = (f"{_number(row[key])} {row['unit']}" for key in ("ours", "theirs"))
            ratio = f"{row['ratio']:.2g}" if row["ratio"] < 10 else f"{row['ratio']:.0f}"
            cells = (row["work"], peer, ours, theirs, ratio, _verdict(row), _note(row))
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def growth_table(results: dict) -> str:
    """Return log-log slopes and peak memory along each axis."""
    lines = [
        "| axis, grows ×16 | from | slope, epoch | slope, ranking | peak memory |",
        "|---|---:|---:|---:|---:|",
    ]
    for axis, series in results.get("growth", {}).items():
        peaks = series["peak_mib"]
        lines.append(
            f"| {axis} | {series['sizes'][0]:,} | {series['epoch_slope']:.2f} | "
            f"{series['rank_slope']:.2f} | {peaks[0]:,} → {peaks[-1]:,} MiB |"
        )
    return "\n".join(lines) + "\n"


def large_table(results: dict) -> str:
    """Return the tables on a catalogue of a million items and on the stratified estimator."""
    large, quality = results.get("large"), results.get("stratified")
    lines = []
    if large:
        lines += ["| SASRec, d = 64, 1,000,000 items | |", "|---|---:|"]
        names = {
            "cross_entropy_step_s": "cross-entropy step, 512 states",
            "stratified_step_s": "GRPO step, stratified, 8,192 draws",
            "exact_step_s": "GRPO step, exact",
            "rank_4096_users_s": "full ranking of 4,096 users",
        }
        lines += [f"| {title} | {large[key]:.2f} s |" for key, title in names.items()]
        lines += [f"| peak memory of all tasks | {large['peak_mib']:,} MiB |", ""]
    if quality:
        lines += [
            f"| Toys, {quality['items']:,} items | validation NDCG@10: base, then each epoch | |",
            "|---|---|---:|",
        ]
        for name, curve in quality.items():
            if isinstance(curve, dict) and "seconds" in curve:
                values = " ".join(f"{v:.4f}" for v in curve["ndcg@10 from the base on"])
                lines.append(f"| {name} | {values} | {curve['seconds']:.0f} s |")
    return "\n".join(lines) + "\n"


def paper_table(results: dict, digits: int = 2) -> str:
    """Return the estimated hours of the paper's budget: 200 epochs, then 1,000 of GRPO."""
    lines = [
        "| | base: steps × seconds | GRPO: steps × seconds | hours |",
        "|---|---:|---:|---:|",
    ]
    for name, cell in results.get("paper", {}).get("cells", {}).items():
        stages = [(cell[f"{stage}_steps"], cell[f"{stage}_step_s"]) for stage in ("base", "grpo")]
        hours = sum(steps * seconds for steps, seconds in stages) / 3600
        columns = " | ".join(f"{steps:,} × {seconds:.{digits}f}" for steps, seconds in stages)
        title = name.replace("/", ", ").replace("_", " ")
        lines.append(f"| {title} | {columns} | {hours:,.{max(0, digits - 3)}f} |")
    return "\n".join(lines) + "\n"


def gpu_table(results: dict) -> str:
    """Return the measurements of Recoach on a GPU."""
    if not results:
        return ""
    versions = results["sasrec_epoch"]["versions"]
    epoch, plain = (
        results[f"{name}_epoch"]["positions_per_epoch"]
        / results[f"{name}_epoch"]["seconds_per_epoch"]
        for name in ("sasrec", "plain")
    )
    steps = results["grpo_step"]
    lines = [
        f"One {versions['gpu']}, torch {versions['torch']}; Toys.",
        *_before_kernels(results),
        "",
        "| task | |",
        "|---|---:|",
        f"| SASRec, positions trained (the plain loop) | {epoch:,.0f} /s ({plain:,.0f} /s) |",
        f"| LightGCN, epoch | {results['lightgcn_epoch']['seconds_per_epoch']:.2f} s |",
        f"| rank all users | {1e3 * results['rank']['seconds']:.0f} ms |",
    ]
    names = {
        "cross_entropy": "cross-entropy step, 512 states",
        "exact": "GRPO step, exact",
        "exact_kl": "GRPO step, exact, with the KL to the reference",
        "sampled": "GRPO step, sampled, G=4096",
        "plain": "plain sampled step",
    }
    lines += [f"| {title} | {1e3 * steps[name]:.1f} ms |" for name, title in names.items()]
    for shape, peak in results["softmax_peak"].items():
        if "x" in shape:
            states, items = shape.split("x")
            lines.append(
                f"| catalogue softmax, {states} states × {items} items | {peak['ms']:.2f} ms, "
                f"{100 * peak['share']:.0f} % of the speed of its matrix products |"
            )
    large = results["large"]
    for key, title in {
        "cross_entropy_step_s": "1,000,000 items: cross-entropy step, 512 states",
        "stratified_step_s": "1,000,000 items: GRPO step, stratified, 8,192 draws",
        "exact_step_s": "1,000,000 items: GRPO step, exact",
        "rank_4096_users_s": "1,000,000 items: full ranking of 4,096 users",
    }.items():
        lines.append(f"| {title} | {1e3 * large[key]:.0f} ms |")
    lines += [f"| 1,000,000 items: peak GPU memory | {large['peak_gpu_mib']:,} MiB |"]
    lines += [*_fused_rows(results), ""]
    lines += ["The paper's budget on this GPU, for the cells of its Table 3:", ""]
    return "\n".join(lines) + "\n" + paper_table(results, digits=4)


def _before_kernels(results: dict) -> list[str]:
    if "softmax_kernels" in results:
        return []
    return [
        "All figures were measured with the blockwise softmax; the fused kernels have not been run "
        "on a GPU."
    ]


def _fused_rows(results: dict) -> list[str]:
    """Return the rows of the fused kernels and of CUDA graphs, which may not have been run."""
    kernels = results.get("softmax_kernels", {})
    rows = {}
    for states, items in ((512, 12_000), (2048, 26_000)):
        measured = kernels.get(f"{states}x{items}")
        rows[f"fused softmax, {states} states × {items} items (blockwise; target: 50 %)"] = (
            f"{measured['ms']:.2f} ms ({measured['blockwise_ms']:.2f} ms), "
            f"{100 * measured['share']:.0f} % of the speed of its matrix products"
            if measured
            else None
        )
    adam, graphs = results.get("softmax_adam"), results.get("graphed_step")
    rows["fused softmax and Adam, 512 states × 1,000,000 items (target: 2 ms)"] = (
        f"{adam['ms']:.2f} ms" if adam else None
    )
    rows["SASRec, positions of one batch of 128 histories, with CUDA graphs (without)"] = (
        f"{graphs['graphs']:,.0f} /s ({graphs['eager']:,.0f} /s)" if graphs else None
    )
    return [
        f"| {title} | {value or 'not run: no GPU was at hand'} |" for title, value in rows.items()
    ]


def write(results: dict) -> None:
    """Replace the text between the markers in README.md by the tables."""
    path = HERE / "README.md"
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    tables = "\n".join(
        (
            rows_table(results),
            "### Growth\n",
            growth_table(results),
            "![growth](growth.svg)\n",
            "### Large catalogues\n",
            large_table(results),
            "### The paper's budget\n",
            paper_table(results),
            "### On a GPU\n",
            gpu_table(json.loads(GPU.read_text()) if GPU.exists() else {}),
        )
    )
    path.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}")


def draw(growth: dict) -> None:
    """Draw seconds and memory against size on logarithmic axes."""
    mpl.rcParams["svg.hashsalt"] = "growth"
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {
        "epoch_s": "epoch, s",
        "rank_s": "ranking all users, s",
        "peak_mib": "peak memory, MiB",
    }
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        for axis, series in growth.items():
            scale = [size / series["sizes"][0] for size in series["sizes"]]
            panel.loglog(scale, series[key], marker="o", label=axis)
        panel.set(title=title, xlabel="size relative to the smallest", xticks=scale)
        panel.set_xticklabels([f"{s:.0f}" for s in scale])
        panel.minorticks_off()
    panels[0].legend(frameon=False)
    figure.savefig(HERE / "growth.svg", metadata={"Date": None})


if __name__ == "__main__":
    write(json.loads((HERE / "results.json").read_text()))
