import subprocess
import sys
from pathlib import Path

import torch

from fastregion.training.averaging import SharedAverage


def test_exchange_meets_in_the_middle() -> None:
    average = SharedAverage(6, processes=1)
    first = [torch.full((2, 2), 1.0), torch.full((2,), 4.0)]
    second = [torch.full((2, 2), 3.0), torch.full((2,), 0.0)]
    average.exchange(first)  # nothing was there: unchanged
    assert torch.equal(first[0], torch.full((2, 2), 1.0))
    average.exchange(second)
    assert torch.equal(second[0], torch.full((2, 2), 2.0))
    assert torch.equal(second[1], torch.full((2,), 2.0))
    average.settle(first)
    assert torch.equal(first[0], torch.full((2, 2), 1.5))


SCRIPT = """
import torch
from fastregion.training.averaging import SharedAverage

def worker(rank, average, results):
    parameters = [torch.full((3,), float(rank))]
    for _ in range(5):
        average.exchange(parameters)
    average.settle(parameters)
    results[rank] = parameters[0]

if __name__ == "__main__":
    results = torch.full((2, 3), -1.0).share_memory_()
    average = SharedAverage(3, processes=2)
    torch.multiprocessing.spawn(worker, args=(average, results), nprocs=2)
    print(*results.flatten().tolist())
"""


def test_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    # A file of its own, because spawned processes import the worker anew.
    file = tmp_path / "exchange.py"
    file.write_text(SCRIPT)
    result = subprocess.run([sys.executable, file], capture_output=True, text=True, check=True)
    values = [float(word) for word in result.stdout.split()]
    assert values[:3] == values[3:]
    assert 0.0 < values[0] < 1.0
