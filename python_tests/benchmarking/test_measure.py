"""The timer. That every case runs and agrees with its peers is the benchmarks' own check."""

import time

import pytest
import torch
from torch import Tensor

from fastregion.benchmarking import CASES, Case, Ways, copy_bandwidth, measure
from fastregion.ops import OPERATORS

CPU = torch.device("cpu")


def case_of(ways: Ways) -> Case:
    return Case(operator="sum", shape="3", dtype="float32", make=lambda device: ways)


def test_a_slower_peer_has_its_ratio() -> None:
    def slow() -> Tensor:
        time.sleep(0.02)
        return torch.ones(3)

    def fast() -> Tensor:
        time.sleep(0.002)
        return torch.ones(3)

    row, ways = measure(
        case_of(Ways(ours=fast, peers={"slow": slow}, bytes=12)), CPU, bandwidth=6000.0, seconds=0.0
    )
    assert ways.ours is fast
    assert 2 < row.ratio("slow") < 20
    assert row.roof_share == pytest.approx(2.0 / row.ours_ms)  # 12 bytes take 2 ms
    assert row.ours_spread >= 0
    assert row.to_json()["peers"][0]["name"] == "slow"


@pytest.mark.parametrize(
    ("ours", "peer", "tolerance", "agrees"),
    [
        (torch.ones(3), torch.ones(3), 0.0, True),
        (torch.ones(3), torch.ones(3) + 1e-3, 0.0, False),
        (torch.ones(3), torch.ones(3) + 1e-3, 1e-2, True),
        (torch.tensor([0.0, 100.0]), torch.tensor([0.5, 100.0]), 1e-2, True),
        (torch.tensor([0.0, 100.0]), torch.tensor([0.5, 100.0]), 1e-3, False),
        (["a", "b"], ["a", "b"], 0.0, True),
        (["a", "b"], ["a"], 0.0, False),
        (["a", "b"], ["a", "c"], 0.0, False),
    ],
)
def test_results_are_compared_first(ours, peer, tolerance: float, agrees: bool) -> None:
    case = case_of(
        Ways(ours=lambda: ours, peers={"peer": lambda: peer}, bytes=1, tolerance=tolerance)
    )
    if agrees:
        measure(case, CPU, bandwidth=1.0, seconds=0.0)
    else:
        with pytest.raises(AssertionError, match="sum, 3, float32: peer has another result"):
            measure(case, CPU, bandwidth=1.0, seconds=0.0)


def test_results_may_be_brought_to_one_form() -> None:
    ways = Ways(
        ours=lambda: b"x", peers={"peer": lambda: "x"}, bytes=1, comparable=lambda value: len(value)
    )
    measure(case_of(ways), CPU, bandwidth=1.0, seconds=0.0)


def test_a_copy_moves_bytes() -> None:
    assert 1e8 < copy_bandwidth(CPU) < 1e13


def test_cases_have_names_of_their_own_and_cover_the_operators() -> None:
    names = [str(case) for case in CASES]
    assert len(set(names)) == len(names)
    timed = {case.operator.split()[0] for case in CASES}
    if "pack_tokens" in timed:
        timed.add("pack_rows")  # what it calls
    assert {name for name, entry in OPERATORS.items() if "bits" not in name} <= timed
