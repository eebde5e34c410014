"""Operators timed side by side with what they replace (floor 5).

``fastregion bench`` prints the table; ``benchmarks/`` runs the same cases under pytest-benchmark.
A case names an operator and a shape; its data, the call and its peers are made when it is run. The
peers are plain torch written from the definitions of the published systems ("published"), and
torchvision and pycocotools where they are installed.
"""

from fastregion.benchmarking.cases import CASES
from fastregion.benchmarking.measure import Case, Row, Ways, copy_bandwidth, measure

__all__ = ["CASES", "Case", "Row", "Ways", "copy_bandwidth", "measure"]
