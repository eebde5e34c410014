"""The cases of ``fastregion bench`` under pytest-benchmark.

    pip install ".[bench]"
    pytest benchmarks/bench_operators.py --benchmark-columns=median,iqr --benchmark-json=rows.json

Each test times ours; what the peers took in turn with it, and the ratios, stand in the row's
``extra_info``. One thread, CPU; shapes, peers and floors are told in ``fastregion.benchmarking``.
"""

from __future__ import annotations

import pytest
import torch

from fastregion.benchmarking import CASES, Case, copy_bandwidth, measure


@pytest.fixture(scope="session")
def bandwidth() -> float:
    torch.set_num_threads(1)
    return copy_bandwidth(torch.device("cpu"))


@pytest.mark.parametrize("case", [case for case in CASES if "cpu" in case.devices], ids=str)
def test_operator(benchmark, case: Case, bandwidth: float) -> None:
    row, ways = measure(case, torch.device("cpu"), bandwidth)
    benchmark.extra_info.update(row.to_json())
    benchmark.group = case.operator
    benchmark.pedantic(ways.ours, rounds=5, warmup_rounds=1)
