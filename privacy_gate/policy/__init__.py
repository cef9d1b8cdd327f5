"""From evidence to a verdict. One rule per file, `pg###_name.py`; adding a rule is adding a file.

contract  what a rule is, and the catalog of all rules
load      policy files and profiles: extends, merge, positions, digest, JSON schema
judge     the decision: pass, fail or inconclusive, with its exit code and headline
waivers   exceptions that people grant: their file, what the policy allows, what they excuse
stored    a report's numbers as evidence, to judge it again by another policy
plan      which rules a number of records can decide, before anything is trained
suites    lists of attacks
"""

from privacy_gate.policy.contract import CATALOG, Cell, Decided, Measured, Policy, Rule, RuleInForce, RuleSettings
from privacy_gate.policy.judge import judge
from privacy_gate.policy.load import PROFILES, notes, resolve, schema
from privacy_gate.policy.plan import decidability
from privacy_gate.policy.suites import suite
from privacy_gate.policy.waivers import Model, read_waivers

__all__ = [
    "CATALOG",
    "PROFILES",
    "Cell",
    "Decided",
    "Measured",
    "Model",
    "Policy",
    "Rule",
    "RuleInForce",
    "RuleSettings",
    "decidability",
    "judge",
    "notes",
    "read_waivers",
    "resolve",
    "schema",
    "suite",
]
