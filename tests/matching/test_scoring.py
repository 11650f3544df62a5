"""Each rule of doubt, and each constant of scoring, decides something: one decision each that is another one otherwise."""

import pytest
from scoring import ELSEWHERE, NAMES, decided, decided_with, decided_without, read, rules

CASES, CONSTANTS, RULES = read()


@pytest.mark.parametrize("constant", NAMES)
def test_a_constant_of_scoring_decides_something(constant):
    one = CONSTANTS[constant]
    case, slot = CASES[one["case"]], one["slot"]
    assert decided(case).get(slot) == one["decided"]
    assert decided_with(constant, one["factor"], case).get(slot) == one["otherwise"] != one["decided"]


@pytest.mark.parametrize("rule", [rule for rule in rules() if rule not in ELSEWHERE])
def test_a_rule_of_doubt_doubts_what_no_other_rule_does(rule):
    one = RULES[rule]
    case, slot = CASES[one["case"]], one["slot"]
    assert decided(case)[slot] == one["decided"]
    assert one["decided"][1] == "doubt"
    assert decided_without(rule, case).get(slot) == one["otherwise"] != one["decided"]
