"""Regular expressions of others: what is refused before it is compiled, and what stops while it matches."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irnet_convert.errors import PolicyError
from irnet_convert.patterns import MAX_REPEATS, Patience, problem_of
from irnet_convert.policy import LayerInfo, Policy, Rule


@pytest.mark.parametrize(
    "pattern",
    [
        r"layer\d\.\d+\.conv1", "a{3}", r"(a|b){2,5}", r"\{x\}", "a{,7}b{3,}", "(?:a)(?=b)(?!c)(?<=d)(?<!e)",
        "", "(?P<x>a)(?<y>b)", "(?i)conv", "[{}]", r"(\w+)\.\1", "a{1000}",
    ],
)  # fmt: skip
def test_what_is_taken(pattern: str) -> None:
    assert problem_of(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("a{4000000000}", "no counted repeat"),
        ("a{1001}", "multiply to 1,001"),
        ("((a{11}){11}){11}", "multiply to 1,331"),
        ("a{2,999}b{2}", "multiply to 1,998"),
        ("a{,2000}", "multiply to 2,000"),
        ("(?:conv){e<=3}", "no counted repeat"),
        (r"\p{Lu}", "no counted repeat"),
        ("(?R)?x", "group"),
        (r"(\w(?1)?)+", "group"),
        ("(?P<a>x(?&a))", "group"),
        ("(?P>a)", "group"),
        ("(?(1)a|b)", "group"),
        ("(?|a|b)", "group"),
        ("(?>a+)", "group"),
        ("(?#x)", "group"),
        ("(?b)a", "group"),
        ("(", "missing"),
        ("[a", "unterminated"),
        ("*", "nothing to repeat"),
        ("a" * 501, "longer than 500"),
        ("(abcdefghijklmnopqrstuvwxyz){1000}", "34,000"),
    ],
)
def test_what_is_not_taken(pattern: str, problem: str) -> None:
    assert problem in (problem_of(pattern) or "taken")
    with pytest.raises(PolicyError, match=re.escape(problem)):
        Rule(action="keep", name=f"re:{pattern}")


@settings(deadline=None, max_examples=150)
@given(st.text(st.sampled_from("a(){}[]|?*+.\\,0129<>=!:PR&i"), max_size=20), st.text("a.b1", max_size=20))
def test_what_is_taken_matches_or_stops(pattern: str, text: str) -> None:
    if problem_of(pattern) is None:
        matched = Patience().matches(pattern, text)
        if not re.search(r"[*+?}][+]|\[[^\]]*\[|\\[pPKGRXLmMhHNQ]|&&|--|\|\||~~", pattern):
            try:  # where re reads it as regex does, it says the same
                expected = re.fullmatch(pattern, text)
            except (re.error, OverflowError):
                return
            assert matched == (expected is not None)


SLOW = r"(a|aa)+$b?c"  # each further a takes 1.6 times as long


def test_the_time_is_that_of_all_of_a_policy_s_rules() -> None:
    def layer(length: int) -> LayerInfo:
        return LayerInfo(paths=("a" * length,), kinds=("Conv2d",), in_channels=1, out_channels=1)

    def decide_all(policy: Policy) -> None:
        for length in range(15, 60):
            policy.decide(layer(length))

    with pytest.raises(PolicyError, match=r"took more than 0\.5 s"):
        decide_all(Policy([Rule(action="keep", name=f"re:{SLOW}"), Rule(action="binarize")]))
    many = Policy([*(Rule(action="keep", optional=True, name=f"re:{SLOW}{'b?' * n}") for n in range(60))])
    with pytest.raises(PolicyError, match=r"took more than 0\.5 s"):  # none of them alone
        many.decide(layer(26))


def test_ordinary_matches_cost_no_patience() -> None:
    patience = Patience()
    for number in range(2000):
        assert patience.matches(r"layer\d+\.(conv|bn)\d", f"layer{number}.conv1")
    assert patience.spent < 0.1
    assert MAX_REPEATS == 1000
