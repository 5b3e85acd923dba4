"""Off-policy evaluation: the value of a policy from a log that another policy wrote."""

from recoach.ope.evaluate import difference, evaluate_policy
from recoach.ope.log import OffPolicyLog
from recoach.ope.policies import FunctionPolicy, TablePolicy
from recoach.ope.report import OffPolicyReport
from recoach.ope.reward_models import ItemMeans

__all__ = [
    "FunctionPolicy",
    "ItemMeans",
    "OffPolicyLog",
    "OffPolicyReport",
    "TablePolicy",
    "difference",
    "evaluate_policy",
]
