"""An operator's orders are a value: each change makes another, and they go with the names that they are for."""

from __future__ import annotations

from gateway.control.operator_orders import OperatorOrders


def test_every_order_can_be_taken_back() -> None:
    orders = OperatorOrders().drain("a").drain("b").force("a", "open").force("b", "closed")
    assert orders.drained == {"a", "b"}
    assert orders.forced == {"a": "open", "b": "closed"}
    assert orders.resume("a").resume("b").force("a", None).force("b", None) == OperatorOrders()


def test_an_order_that_is_given_twice_or_taken_back_unasked_changes_nothing() -> None:
    once = OperatorOrders().drain("a").force("a", "open")
    assert once.drain("a").force("a", "open") == once
    assert OperatorOrders().resume("a").force("a", None) == OperatorOrders()
    assert once.force("a", "closed").forced == {"a": "closed"}


def test_what_is_in_force_is_not_changed_by_the_next_order() -> None:
    before = OperatorOrders().force("a", "open")
    before.force("a", "closed").force("b", "open").drain("a")
    assert before == OperatorOrders(forced={"a": "open"})


def test_orders_go_with_their_names() -> None:
    orders = OperatorOrders().drain("a").drain("b").force("a", "open").force("c", "open")
    assert orders.kept({"b", "c"}) == OperatorOrders().drain("b").force("c", "open")
    assert orders.kept(()) == OperatorOrders()
