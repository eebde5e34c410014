from __future__ import annotations

from fastregion.evaluation.benchmarks.base import Item, Prediction
from fastregion.evaluation.benchmarks.notes import (
    Published,
    contradictions,
    count_note,
    judged_items,
    listed,
    predicted_items,
)

PUBLISHED = {
    "m": (Published(where="the paper", values={"a": 12.3, "b": 45.0}, scale=100, digits=1),)
}


def said(model: str) -> dict[str, Prediction]:
    return {"1": Prediction(item="1", text="x", model=model)}


def test_contradictions_compare_printed_digits() -> None:
    table = {"a": 0.12349, "b": 0.45}
    assert contradictions(said("m"), table, PUBLISHED) == []
    assert contradictions(said("m"), {**table, "b": 0.451}, PUBLISHED) == [
        "m: the paper has a 12.3, b 45.0; these answers give a 12.3, b 45.1"
    ]
    assert contradictions(said("other"), {**table, "b": 0.451}, PUBLISHED) == []
    assert contradictions(said("m"), {"a": 0.123}, PUBLISHED) == []  # b is not in the table


def test_items_that_are_left_out_are_named() -> None:
    items = [Item(id=str(k)) for k in range(8)]
    notes: list[str] = []
    assert predicted_items(items, said("m"), notes) == [items[1]]
    answers = {("1", "a"): "x", ("1", "b"): "y", ("2", "a"): "z"}
    assert judged_items(items[1:3], answers, lambda _: ["a", "b"], notes) == [items[1]]
    assert notes == [
        "7 of 8 items have no prediction and are left out: 0, 2, 3, 4, 5, ...",
        "1 of 2 items lack answers of the judge and are left out: 2",
    ]
    assert listed(["a", "b"]) == "a, b"


def test_other_counts_than_published_are_told() -> None:
    notes: list[str] = []
    assert count_note([Item(id="1")], 1, "regions", notes)
    assert not count_note([Item(id="1")], 2, "regions", notes)
    assert notes == ["scored on 1 regions; the published benchmark has 2"]
