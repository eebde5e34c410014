"""What only the CPU kernels promise: every instruction set, any number of threads, forks."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from fastregion._native import native_module
from fastregion.ops import (
    SharedPrefix,
    append_kv_,
    cross_attention,
    decode_attention,
    empty_kv,
    gated_residual_norm,
    mask_encode,
    mask_patch_embed,
    mask_resize,
    mask_tiles,
    pack_rows,
    roi_align,
    roi_replay,
)

pytestmark = pytest.mark.skipif(native_module() is None, reason="the native module is not built")


def run_all(backend: str, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
    """Results and gradients of every operator, at sizes that two threads share."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    def with_gradients(result: Tensor, *leaves: Tensor) -> Iterator[Tensor]:
        grad = torch.randn(result.shape, generator=generator).to(dtype)
        yield result.detach()
        yield from torch.autograd.grad(result, leaves, grad)

    tiles = randn(4, 64, 645)
    boxes = torch.rand(9, 2, 2, generator=generator).sort(1).values.flatten(1) * 16
    replayed = roi_replay(tiles, (2, 2), boxes, (8, 8), backend=backend)
    yield from with_gradients(replayed, tiles)
    twice = roi_replay(tiles, (2, 2), boxes.repeat(4, 1), (8, 8), backend=backend)  # copies the map
    yield twice.detach()

    input = randn(2, 133, 16, 19)
    rois = torch.cat((torch.arange(9)[:, None] % 2, boxes), dim=1)
    yield from with_gradients(roi_align(input, rois, (7, 5), backend=backend), input)
    last = input.detach().contiguous(memory_format=torch.channels_last)
    yield roi_align(last, rois, (7, 5), 1.0, 2, True, backend=backend)

    y, x = torch.meshgrid(torch.arange(300), torch.arange(500), indexing="ij")
    disc = (y - 140) ** 2 + (x - 260) ** 2 < 110**2
    masks = torch.stack((disc, torch.rand(300, 500, generator=generator) > 0.5))
    cut = mask_tiles(masks, (3, 4), 112, backend=backend)
    yield cut.unpack(backend=backend)
    yield mask_resize(masks, 150, backend=backend)
    yield mask_resize(masks, 150, "bicubic_wrapped", backend=backend)
    weight, bias = randn(133, 3, 14, 14), randn(133)
    embedded = mask_patch_embed(cut.unpack().flatten(0, 1), weight, bias, backend=backend)
    yield from with_gradients(embedded, weight, bias)

    # The tiles that the disc's outline crosses; the linear layer of the others is torch's.
    grey = cut.unpack().flatten(0, 1)[:3].view(torch.uint8)
    convolutions = [randn(*shape) for shape in ((5, 1, 3, 3), (5,), (6, 5, 3, 3), (6,))]
    features = torch.ops.fastregion.mask_features(grey, 1.0, *convolutions, backend)
    yield from with_gradients(features, *convolutions)
    weight, bias = randn(1500, 784), randn(1500)
    for layout in (weight, weight.t().contiguous().t()):
        with torch.no_grad():
            tokens = mask_encode(grey > 0, *convolutions, layout, bias, backend=backend)
        yield tokens

    sources = [randn(300, 645), randn(700, 645)]
    rows = torch.randint(1000, (2000,), generator=generator)
    yield from with_gradients(pack_rows(sources, rows, backend=backend), *sources)

    x, branch, gate, weight, bias = randn(333, 645), randn(333, 645), *randn(3, 645).unbind()
    for leaves in ((x, branch, gate, weight, bias), (x, branch, gate[:1], weight, bias)):
        y, normed = gated_residual_norm(*leaves, 1e-5, backend=backend)
        yield y.detach()
        yield from with_gradients(normed, *leaves)

    for width in (8, 64, 72):
        with torch.no_grad():
            lengths, of = torch.tensor([700, 33, 9]).int(), torch.tensor([1, 0, 1]).int()
            buffers = [empty_kv(count, 2, 704, width, dtype=dtype) for count in (3, 2)]
            for keys, values in buffers:
                every = len(keys) * 704
                places = torch.arange(every) // 704, torch.arange(every) % 704
                new = randn(every, 2, width), randn(every, 2, width)
                append_kv_(keys, values, *new, *places, backend=backend)
            prefix = SharedPrefix(*buffers[1], torch.tensor([600, 301]).int(), of)
            attended = [
                decode_attention(
                    randn(sum(counts), 6, width),
                    *buffers[0],
                    lengths,
                    cu_seqlens_q=torch.tensor([0, *counts]).cumsum(0).int(),
                    prefix=prefix,
                    backend=backend,
                )
                for counts in ((1, 1, 1), (40, 0, 9))
            ]
        for results in attended:
            yield from results

    # More keys than are worked on at once; later ones raise a query's largest score.
    attended = [randn(2, 67, 4, 72), randn(2, 650, 2, 72), randn(2, 650, 2, 72)]
    with torch.no_grad():
        attended[1][:, 600:] *= 3
    bias = torch.randn(2, 650, generator=generator).requires_grad_()
    out, logsumexp = cross_attention(*attended, bias, causal=True, backend=backend)
    yield logsumexp.detach()
    yield from with_gradients(out, *attended, bias)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512_bf16"])
def test_instruction_sets(isa: str) -> None:
    """In a process of its own, as the choice is made once; a lower set is always available."""
    script = f"""
import sys, torch
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_cpu_kernels import run_all
torch.set_num_threads(1)
for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
    for ours, expected in zip(run_all("cpu", dtype), run_all("reference", dtype), strict=True):
        scale = expected.double().abs().max()
        error = (ours.double() - expected.double()).abs().max()
        eps = {{torch.float32: 2e-5, torch.float64: 1e-12}}.get(dtype) or torch.finfo(dtype).eps
        assert error <= eps * scale, (dtype, expected.shape, error, scale)
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"FASTREGION_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture
def num_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("num_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_change_no_bit(dtype: torch.dtype) -> None:
    torch.set_num_threads(1)
    alone = list(run_all("cpu", dtype))
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for one, many in zip(alone, run_all("cpu", dtype), strict=True):
            assert torch.equal(one, many)


@pytest.mark.usefixtures("num_threads")
def test_calls_from_several_threads() -> None:
    """The memory that decode_attention keeps belongs to the calling thread alone."""
    torch.set_num_threads(2)
    calls = []
    for num_sequences, width in ((3, 8), (40, 64), (130, 64)):  # the last one's is not kept
        cache = empty_kv(num_sequences, 1, 600, width, dtype=torch.float32)
        keys, values = (torch.randn(x.shape) for x in cache)
        lengths = torch.randint(0, 600, (num_sequences,)).int()
        calls.append((torch.randn(num_sequences, 64, width), keys, values, lengths))
    alone = [decode_attention(*call, backend="cpu") for call in calls]

    def run(order: int) -> bool:
        results = [(k, decode_attention(*calls[k], backend="cpu")) for k in [order, 0, 1, 2] * 5]
        return all(
            torch.equal(one, other)
            for k, result in results
            for one, other in zip(result, alone[k], strict=True)
        )

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(run, range(3)))


@pytest.mark.usefixtures("num_threads")
def test_forked_child() -> None:
    """A DataLoader worker is a fork, in which the threads of its parent do not exist.

    The child asks for two threads all the same, and calls nothing of torch that starts threads.
    """
    torch.set_num_threads(2)
    tiles, boxes = torch.randn(4, 256, 700), torch.rand(20, 4) * 32
    masks = torch.rand(4, 600, 600) > 0.5
    source, rows = torch.randn(100, 900), torch.randint(100, (3000,))
    tokens = torch.randn(2, 200, 4, 64)

    def run() -> list[bytes]:
        results = (
            roi_replay(tiles, (2, 2), boxes, (8, 8), backend="cpu"),
            mask_tiles(masks, (2, 2), 512, backend="cpu").words,
            pack_rows([source], rows, backend="cpu"),
            cross_attention(tokens, tokens, tokens, backend="cpu")[0],
        )
        return [result.numpy().tobytes() for result in results]

    expected = run()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang ends the child, not the test run
        os._exit(0 if run() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_tables_of_no_nearest_rule() -> None:
    """Bits are moved by one of two ways: columns used once, or columns repeated."""
    masks = native_module().masks
    words, tiles = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)
    rows, columns = torch.tensor([0]), torch.tensor([0, 0, 2])
    pointers = (tensor.data_ptr() for tensor in (words, tiles, rows, columns))
    params = masks.MaskTilesParams(*pointers, 1, 1, 5, 1, 1, 1, 3, False)
    with pytest.raises(ValueError, match="must not be repeated here and skipped there"):
        masks.mask_tiles(params, 1)
