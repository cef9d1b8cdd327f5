"""From evidence to a verdict. One rule per file, `pg###_name.py`; adding a rule is adding a file.

contract  what a rule is, and the catalog of all rules
load      policy files and profiles: extends, merge, positions, digest, JSON schema
judge     the decision: pass, fail or inconclusive, with its exit code and headline
plan      which rules a number of records can decide, before anything is trained
suites    lists of attacks
"""

from privacy_gate.policy.contract import CATALOG, Cell, Decided, Measured, Policy, Rule, RuleInForce, RuleSettings
from privacy_gate.policy.judge import judge
from privacy_gate.policy.load import PROFILES, resolve, schema
from privacy_gate.policy.plan import decidability
from privacy_gate.policy.suites import suite

__all__ = [
    "CATALOG",
    "PROFILES",
    "Cell",
    "Decided",
    "Measured",
    "Policy",
    "Rule",
    "RuleInForce",
    "RuleSettings",
    "decidability",
    "judge",
    "resolve",
    "schema",
    "suite",
]
