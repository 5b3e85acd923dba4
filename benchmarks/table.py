"""Write what `results.json` holds into README.md, between its marks; draw the growth plot."""

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
}
PACKAGES = {
    "recbole": "recbole",
    "rectools": "rectools",
    "replay": "replay-rec",
    "pyg": "torch-geometric",
    "pandas": "pandas",
    "implicit": "implicit",
}
"""The package that a row's peer is a version of, by the first word of its name."""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _verdict(row: dict) -> str:
    if row["bar"] is None:
        return "–"
    bar = f"{row['bar']:.2g}"
    if row.get("verdict"):
        return f"≥ {bar}, {row['verdict']}"
    return f"≥ {bar}" if row["ratio"] >= row["bar"] else f"≥ {bar}, **missed**"


def rows_table(results: dict) -> str:
    """Return every row: ratios above 1 are in our favour."""
    lines = [
        "| work | peer | ours | theirs | ratio | bar | |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for rows in results["rows"].values():
        for row in rows:
            peer = PEERS.get(row["peer"], row["peer"])
            package = PACKAGES.get(row["peer"].split(",")[0].lower(), "")
            version = row["versions"].get(package)
            peer += f" ({version})" if version else ""
            ours, theirs = (f"{_number(row[side])} {row['unit']}" for side in ("ours", "theirs"))
            ratio = f"{row['ratio']:.2g}" if row["ratio"] < 10 else f"{row['ratio']:.0f}"
            cells = (row["work"], peer, ours, theirs, ratio, _verdict(row), row["note"])
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def growth_table(results: dict) -> str:
    """Return log-log slopes and peak memory along each axis."""
    lines = [
        "| grows ×16 | from | slope of an epoch | slope of ranking | peak memory |",
        "|---|---:|---:|---:|---:|",
    ]
    for axis, found in results.get("growth", {}).items():
        peaks = found["peak_mib"]
        lines.append(
            f"| {axis} | {found['sizes'][0]:,} | {found['epoch_slope']:.2f} | "
            f"{found['rank_slope']:.2f} | {peaks[0]:,} → {peaks[-1]:,} MiB |"
        )
    return "\n".join(lines) + "\n"


def large_table(results: dict) -> str:
    """Return the figures of a million items and the quality of the stratified estimator."""
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
        lines += [f"| peak memory of all of it | {large['peak_mib']:,} MiB |", ""]
    if quality:
        lines += [
            f"| Toys, {quality['items']:,} items | validation NDCG@10, the base and each epoch | |",
            "|---|---|---:|",
        ]
        for name, found in quality.items():
            if isinstance(found, dict) and "seconds" in found:
                values = " ".join(f"{v:.4f}" for v in found["ndcg@10 from the base on"])
                lines.append(f"| {name} | {values} | {found['seconds']:.0f} s |")
    return "\n".join(lines) + "\n"


def paper_table(results: dict, digits: int = 2) -> str:
    """Return what the paper's budget would cost here: 200 epochs, then 1,000 of GRPO."""
    lines = [
        "| | base: steps, seconds each | GRPO: steps, seconds each | hours |",
        "|---|---:|---:|---:|",
    ]
    for name, cell in results.get("paper", {}).get("cells", {}).items():
        parts = [(cell[f"{stage}_steps"], cell[f"{stage}_step_s"]) for stage in ("base", "grpo")]
        hours = sum(steps * seconds for steps, seconds in parts) / 3600
        shown = " | ".join(f"{steps:,} × {seconds:.{digits}f}" for steps, seconds in parts)
        title = name.replace("/", ", ").replace("_", " ")
        lines.append(f"| {title} | {shown} | {hours:,.{max(0, digits - 3)}f} |")
    return "\n".join(lines) + "\n"


def gpu_table(found: dict) -> str:
    """Return our own figures on a GPU, absolute."""
    if not found:
        return ""
    versions = found["sasrec_epoch"]["versions"]
    epoch, plain = (
        found[f"{name}_epoch"]["positions_per_epoch"] / found[f"{name}_epoch"]["seconds_per_epoch"]
        for name in ("sasrec", "plain")
    )
    steps = found["grpo_step"]
    lines = [
        f"One {versions['gpu']}, torch {versions['torch']}; Toys.",
        "",
        "| work | |",
        "|---|---:|",
        f"| SASRec, positions trained (the plain loop) | {epoch:,.0f} /s ({plain:,.0f} /s) |",
        f"| LightGCN, epoch | {found['lightgcn_epoch']['seconds_per_epoch']:.2f} s |",
        f"| rank all users | {1e3 * found['rank']['seconds']:.0f} ms |",
    ]
    names = {
        "cross_entropy": "cross-entropy step, 512 states",
        "exact": "GRPO step, exact",
        "exact_kl": "GRPO step, exact, with the KL to the reference",
        "sampled": "GRPO step, sampled, G=4096",
        "plain": "plain sampled step",
    }
    lines += [f"| {title} | {1e3 * steps[name]:.1f} ms |" for name, title in names.items()]
    for shape, peak in found["softmax_peak"].items():
        if "x" in shape:
            states, items = shape.split("x")
            lines.append(
                f"| catalogue softmax, {states} states × {items} items | {peak['ms']:.2f} ms, "
                f"{100 * peak['share']:.0f} % of its products' own speed |"
            )
    large = found["large"]
    for key, title in {
        "cross_entropy_step_s": "1,000,000 items: cross-entropy step, 512 states",
        "stratified_step_s": "1,000,000 items: GRPO step, stratified, 8,192 draws",
        "exact_step_s": "1,000,000 items: GRPO step, exact",
        "rank_4096_users_s": "1,000,000 items: full ranking of 4,096 users",
    }.items():
        lines.append(f"| {title} | {1e3 * large[key]:.0f} ms |")
    lines += [f"| 1,000,000 items: peak memory of the card | {large['peak_gpu_mib']:,} MiB |", ""]
    lines += ["The paper's budget there, and a whole column of its Table 3:", ""]
    return "\n".join(lines) + "\n" + paper_table(found, digits=4)


def write(results: dict) -> None:
    """Put the tables between the marks of README.md."""
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
    """Draw seconds and memory against size, both axes logarithmic."""
    mpl.rcParams["svg.hashsalt"] = "growth"
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {
        "epoch_s": "epoch, s",
        "rank_s": "ranking all users, s",
        "peak_mib": "peak memory, MiB",
    }
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        for axis, found in growth.items():
            scale = [size / found["sizes"][0] for size in found["sizes"]]
            panel.loglog(scale, found[key], marker="o", label=axis)
        panel.set(title=title, xlabel="size, times the smallest", xticks=scale)
        panel.set_xticklabels([f"{s:.0f}" for s in scale])
        panel.minorticks_off()
    panels[0].legend(frameon=False)
    figure.savefig(HERE / "growth.svg", metadata={"Date": None})


if __name__ == "__main__":
    write(json.loads((HERE / "results.json").read_text()))
