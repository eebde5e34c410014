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


def _worker(rank: int, average: SharedAverage, results: torch.Tensor) -> None:
    parameters = [torch.full((3,), float(rank))]
    for _ in range(5):
        average.exchange(parameters)
    average.settle(parameters)
    results[rank] = parameters[0]


def test_processes_end_with_the_same_weights() -> None:
    results = torch.full((2, 3), -1.0).share_memory_()
    average = SharedAverage(3, processes=2)
    torch.multiprocessing.spawn(_worker, args=(average, results), nprocs=2)
    assert torch.equal(results[0], results[1])
    assert 0.0 < results[0, 0] < 1.0
