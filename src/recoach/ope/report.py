"""The result of an off-policy evaluation: estimates, diagnostics and what can be said."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from recoach.ope.diagnostics import Diagnostics
from recoach.ope.estimators import Floats


class Estimate(NamedTuple):
    """An estimate of the value of a policy: mean reward of a row, or of a list."""

    value: float
    interval: tuple[float, float] | None
    """Ends of the bootstrap interval; None where one weight is too large for it to be right."""
    resampled: Floats
    """float64[samples], the values on bootstrap resamples."""
    lower_bound: float | None = None
    """Empirical-Bernstein lower bound; only of `clipped_ips`."""
    band: tuple[float, float] | None = None
    """Smallest and largest value over corrections of estimated propensities; only with these."""


@dataclass(frozen=True, slots=True)
class OffPolicyReport:
    """What a log says of a policy."""

    estimates: Mapping[str, Estimate]
    """By name of the estimator; "logged" is the value of the policy that wrote the log."""
    diagnostics: Diagnostics | None
    """None for a log without propensities."""
    main: str
    """The estimate to read first: "dr", or "cascade_dr" for lists."""
    refusals: tuple[str, ...]
    """Why the values are not to be trusted; not empty only if the evaluation was forced."""
    warnings: tuple[str, ...]
    bounds: tuple[float, float] | None
    """Lower and upper bound of the value where the policy shows what was never shown."""
    level: float

    @property
    def value(self) -> float:
        """The value of the main estimate."""
        return self.estimates[self.main].value

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the main estimate."""
        return self.estimates[self.main].interval

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: everything but the resampled values; nan is None."""
        return {
            "main": self.main,
            "level": self.level,
            "estimates": {
                name: {
                    "value": _finite(estimate.value),
                    "interval": estimate.interval,
                    "lower_bound": estimate.lower_bound,
                    "band": estimate.band,
                }
                for name, estimate in self.estimates.items()
            },
            "bounds": self.bounds,
            "diagnostics": None if self.diagnostics is None else self.diagnostics._asdict(),
            "warnings": self.warnings,
            "refusals": self.refusals,
        }


class Difference(NamedTuple):
    """The difference of two values on the same resamples."""

    value: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """The first value is "better", "worse", or there is "no difference" that can be seen."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "no difference"
        return "better" if self.interval[0] > 0 else "worse"


def sentence(report: OffPolicyReport, name: str, against_log: Difference) -> str:
    """Return what can be said of a policy.

    Args:
        report: its evaluation.
        name: of the policy.
        against_log: its value minus that of the policy that wrote the log.
    """
    value, logged = report.estimates[report.main], report.estimates["logged"].value
    if report.refusals:
        return f"{name}: no value can be told from this log ({report.main} {value.value:.4g})."
    interval = "no interval" if value.interval is None else _interval(value.interval, report.level)
    verdicts = {
        "better": "better than the policy that wrote the log",
        "worse": "worse than the policy that wrote the log",
        "no difference": "not distinguishable from the policy that wrote the log",
    }
    return (
        f"{name}: {value.value:.4g} ({interval}, {report.main}), "
        f"{verdicts[against_log.verdict]} ({logged:.4g})."
    )


def _interval(interval: tuple[float, float], level: float) -> str:
    low, high = interval
    return f"{level:.0%} interval {low:.4g} to {high:.4g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
