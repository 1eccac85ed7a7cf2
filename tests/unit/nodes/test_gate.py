"""One-shot tokens of the convert button."""

from __future__ import annotations

from nvfp4_studio.nodes.gate import ConversionGate


def test_a_token_is_good_once_and_for_its_node() -> None:
    gate = ConversionGate()
    token = gate.issue("1:2:5")
    assert gate.spend(token, "1:2:5")
    assert not gate.spend(token, "1:2:5")


def test_a_token_shown_by_another_node_is_spent_and_refused() -> None:
    gate = ConversionGate()
    token = gate.issue("5")
    assert not gate.spend(token, "6")
    assert not gate.spend(token, "5")


def test_what_is_no_token_is_refused() -> None:
    gate = ConversionGate()
    gate.issue("5")
    for value in (None, 7, "", "guessed", ["x"], {"a": 1}):
        assert not gate.spend(value, "5")


def test_the_oldest_token_is_forgotten_first() -> None:
    gate = ConversionGate(capacity=2)
    first, second, third = (gate.issue("5") for _ in range(3))
    assert not gate.spend(first, "5")
    assert gate.spend(second, "5") and gate.spend(third, "5")


def test_tokens_differ() -> None:
    gate = ConversionGate()
    assert len({gate.issue("5") for _ in range(100)}) == 100
