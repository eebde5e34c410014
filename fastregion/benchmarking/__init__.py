"""Operators timed side by side with what they replace (floor 5).

``fastregion bench`` prints the table; ``benchmarks/`` runs the same cases under pytest-benchmark.
A case names an operator and a shape; its data, the call and its peers are made when it is run. The
peers are plain torch written from the definitions of the published systems ("published"), and
torchvision, pycocotools and pycocoevalcap where they are installed.

The case of the caption metrics imports ``fastregion.evaluation``, a room of the same floor, because
it times what that room computes; evaluation does not import benchmarking.
"""

from fastregion.benchmarking.cases import CASES
from fastregion.benchmarking.measure import Case, Row, Ways, copy_bandwidth, measure

__all__ = ["CASES", "Case", "Row", "Ways", "copy_bandwidth", "measure"]
