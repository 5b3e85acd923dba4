"""`recoach ope`: the value of policies from a log that another policy wrote."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import polars as pl
from cyclopts import Parameter

from recoach.cli.console import console, text_table
from recoach.cli.options import Count, Decimal, Stage, Words, column_names
from recoach.cli.serve import read_snapshot
from recoach.errors import ConfigError, DataError, OffPolicyError
from recoach.experiments.run_folder import RunFolder
from recoach.models.checkpoint import write_atomically
from recoach.ope.evaluate import OffPolicyConfig, difference, evaluate_policy
from recoach.ope.files import is_exposure_log, read_log, read_rewarded_exposures, read_table
from recoach.ope.log import OffPolicyLog, from_frame
from recoach.ope.policies import EvaluatedPolicy, TablePolicy
from recoach.ope.report import OffPolicyReport, sentence
from recoach.ope.served import ServedRun
from recoach.serving.exploration import ServedPolicy


def ope(
    log: Path,
    /,
    *,
    policy: Annotated[list[str], Parameter(consume_multiple=(1, None), negative="")],
    rewards: Path | None = None,
    explore: Decimal | None = None,
    stage: Stage = None,
    logger: str | None = None,
    depth: Count | None = None,
    estimators: Words = None,
    column: Words = None,
    estimated_propensities: bool = False,
    force: bool = False,
    output: Path | None = None,
) -> None:
    """Estimate the value that other policies would have had, from a log of what was shown.

    Where the log does not allow it, the reasons are printed and the exit code is 2.

    Args:
        log: What `recoach serve --exposure-log` wrote, or a table with a row for each shown item
            (.csv, .csv.gz, .parquet, .jsonl).
        policy: Run folders, or tables with item_id, probability and maybe position.
        rewards: A table with impression_id, item_id and reward, for the log of the service.
        explore: Temperature with which the runs would be served. Default: that of the log.
        logger: The run, or table, that wrote the log; it shows what the log cannot support.
        depth: Evaluate only the first positions of each list.
        estimators: Names like dr or clipped_ips(5). Default: all.
        column: NAME=COLUMN for other column names of a table, like reward=click; may be repeated.
        estimated_propensities: The propensities of the table are estimates: add a band.
        force: Print values also where they are refused.
        output: Also write everything to this JSON file.
    """
    if len(set(policy)) < len(policy):
        raise ConfigError("--policy names a policy twice. Give each once.")
    if is_exposure_log(log):
        table, served = _exposures(log, rewards, explore)
        data = from_frame(table)
    else:
        if rewards is not None:
            raise ConfigError("--rewards belongs to the log of the service. Leave it out.")
        data = read_log(log, column_names(column), estimated=estimated_propensities)
        served = ServedPolicy(explore)
    names = [*policy, *([logger] if logger and logger not in policy else [])]
    policies = {name: _open_policy(name, served, stage) for name in names}
    data = _evaluable(data, policies, depth)
    config = OffPolicyConfig(estimators=estimators)
    writer = None if logger is None else policies[logger]
    results = {
        name: _evaluate(data, policies[name], writer, config, force=force) for name in policy
    }
    _show(data, results)
    if output is not None:
        _write(output, data, results)
    refused = [name for name, result in results.items() if result.reasons and not force]
    if refused:
        raise OffPolicyError([f"{log}: no value can be told for {', '.join(refused)}."])


class _Result(NamedTuple):
    """The evaluation of a policy: a report, or the reasons against one."""

    report: OffPolicyReport | None
    reasons: tuple[str, ...]


def _evaluate(
    log: OffPolicyLog,
    policy: EvaluatedPolicy,
    writer: EvaluatedPolicy | None,
    config: OffPolicyConfig,
    *,
    force: bool,
) -> _Result:
    try:
        report = evaluate_policy(log, policy, logging_policy=writer, config=config, force=force)
    except OffPolicyError as error:
        return _Result(None, error.reasons)
    return _Result(report, report.refusals)


def _exposures(
    path: Path, rewards: Path | None, explore: float | None
) -> tuple[pl.DataFrame, ServedPolicy]:
    """Return the rows of an exposure log and the policy by which runs are evaluated."""
    if rewards is None:
        raise ConfigError(
            "The log of the service has no rewards. Give --rewards FILE with impression_id, "
            "item_id and reward."
        )
    frame, notes = read_rewarded_exposures(path, read_table(rewards))
    for note in notes:
        console.print(note)
    logged = sorted(set(frame["policy"].to_list()))
    if explore is None and len(logged) > 1:
        raise ConfigError(
            f"{path} has lists of several policies ({', '.join(logged)}). Give --explore with the "
            "temperature of the policy to evaluate."
        )
    return frame, ServedPolicy.from_name(logged[0]) if explore is None else ServedPolicy(explore)


def _open_policy(name: str, served: ServedPolicy, stage: str | None) -> EvaluatedPolicy:
    path = Path(name)
    if path.is_file():
        table = read_table(path)
        try:
            return TablePolicy(table)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    if not path.exists():
        raise DataError(f"{name}: there is no such file or run folder. Check the path.")
    return ServedRun(read_snapshot(RunFolder(path)), served, stage)


def _evaluable(
    log: OffPolicyLog, policies: Mapping[str, EvaluatedPolicy], depth: int | None
) -> OffPolicyLog:
    """Return the rows that all policies can be evaluated on, with the items of all runs."""
    runs = [policy for policy in policies.values() if isinstance(policy, ServedRun)]
    is_known = np.ones(len(log), dtype=np.bool_)
    for run in runs:
        is_known &= run.known(log)
    if not is_known.all():
        n_rows = int((~is_known).sum())
        console.print(f"{n_rows:,} of {len(log):,} rows are of users that a run does not know.")
        log = log.select(is_known)
    log = log if depth is None else log.top(depth)
    for run in runs:
        log = log.with_items(run.item_ids)
    return log


def _show(log: OffPolicyLog, results: Mapping[str, _Result]) -> None:
    kind = "rows" if log.lists is None else "lists"
    console.print(f"{log.n_lists:,} {kind}, mean reward {log.rewards.sum() / log.n_lists:.4g}")
    for name, result in results.items():
        if result.report is not None:
            console.print(_table(name, result.report))
    for name, (report, reasons) in results.items():
        if report is not None:
            console.print(sentence(report, name, difference(report, report, "logged")))
        else:
            console.print(f"{name}: no value can be told from this log.")
        for reason in (*reasons, *(report.warnings if report else ())):
            console.print(f"- {reason}")
    _compare({name: result.report for name, result in results.items()})


def _compare(reports: Mapping[str, OffPolicyReport | None]) -> None:
    """Print the difference of each further policy to the first one."""
    (first, reference), *others = reports.items()
    for name, report in others:
        if reference is None or report is None or reference.refusals or report.refusals:
            continue
        found = difference(report, reference)
        if found.interval is not None:
            low, high = found.interval
            console.print(
                f"{name} against {first}: {found.value:+.4g} ({report.level:.0%} interval "
                f"{low:+.4g} to {high:+.4g}), {found.verdict}."
            )


def _table(name: str, report: OffPolicyReport) -> Any:  # noqa: ANN401 - a table of rich
    level = f"{report.level:.0%} interval"
    has_band = any(estimate.band for estimate in report.estimates.values())
    more = ["band"] if has_band else []
    table = text_table(name, "value", level, "lower bound", *more)
    for estimator, estimate in report.estimates.items():
        bound = "" if estimate.lower_bound is None else f"{estimate.lower_bound:.4g}"
        cells = [estimator, f"{estimate.value:.4g}", _ends(estimate.interval), bound]
        table.add_row(*cells, *([_ends(estimate.band)] if has_band else []))
    found = report.diagnostics
    if found is not None:
        weights = f"{found.mean_weight:.3f} ± {found.mean_weight_se:.3f}"
        gap = "unknown" if found.support_gap is None else f"{found.support_gap:.2%}"
        table.caption = (
            f"ESS {found.ess:,.0f} of {found.n:,}, mean weight {weights}, largest weight "
            f"{found.max_weight:,.3g} ({found.top_share:.1%} of all), support gap {gap}"
        )
    return table


def _ends(interval: tuple[float, float] | None) -> str:
    return "none" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"


def _write(path: Path, log: OffPolicyLog, results: Mapping[str, _Result]) -> None:
    values = {
        "decisions": log.n_lists,
        "rows": len(log),
        "policies": {
            name: {"refusals": reasons} if report is None else report.to_dict()
            for name, (report, reasons) in results.items()
        },
    }
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())
    console.print(f"{path} written")
