"""pack_tokens and pack_rows against concatenation, indexing and the loop one would write."""

import pytest
import torch
from torch import Tensor

from fastregion.ops import pack_rows, pack_tokens

SIZES = [(1,), (5, 3), (7, 0, 4, 9)]


def make_sources(sizes: tuple[int, ...], width: int, backend, dtype=torch.float32) -> list[Tensor]:
    return [torch.randn(size, width).to(backend.device, dtype) for size in sizes]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("width", [1, 67])
def test_rows(backend, dtype, sizes, width, assert_no_worse_than_eager) -> None:
    """Forward bit for bit; the gradient of repeated rows is rounded once."""
    sources = [x.requires_grad_() for x in make_sources(sizes, width, backend, dtype)]
    rows = torch.randint(sum(sizes), (23,), device=backend.device)
    result = pack_rows(sources, rows, backend=backend.name)
    assert torch.equal(result, torch.cat(sources)[rows])

    grad = torch.randn(result.shape).to(backend.device, dtype)
    result.backward(grad)
    plain = torch.zeros(sum(sizes), width, device=backend.device, dtype=dtype)
    plain.index_add_(0, rows, grad)
    exact = torch.zeros(sum(sizes), width, device=backend.device, dtype=torch.float64)
    exact.index_add_(0, rows, grad.double())
    gradient = torch.cat([source.grad for source in sources])
    assert_no_worse_than_eager(gradient, plain, exact)


def test_only_wanted_gradients(backend) -> None:
    first, second = make_sources((3, 4), 5, backend)
    second.requires_grad_()
    rows = torch.tensor([6, 0, 3, 3], device=backend.device)
    pack_rows([first, second], rows, backend=backend.name).sum().backward()
    assert first.grad is None
    assert second.grad[:, 0].tolist() == [2, 0, 0, 1]


def test_layouts(backend) -> None:
    sources = [
        torch.randn(8, 12, device=backend.device)[::2, ::3],
        torch.randn(4, 6, device=backend.device).t(),
        torch.randn(1, 4, device=backend.device).expand(3, 4),
    ]
    rows = torch.arange(26, device=backend.device)[::2] % 13
    result = pack_rows(sources, rows, backend=backend.name)
    assert torch.equal(result, torch.cat(sources)[rows])
    leaf = sources[0].clone().requires_grad_()
    pack_rows([leaf], torch.tensor([3, 1], device=backend.device), backend=backend.name).sum(
        1
    ).sum().backward()  # an expanded gradient
    assert leaf.grad[:, 0].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("total", "width"), [(0, 3), (4, 0)])
def test_empty(backend, total: int, width: int) -> None:
    source = torch.randn(5, width, device=backend.device, requires_grad=True)
    rows = torch.zeros(total, dtype=torch.int64, device=backend.device)
    result = pack_rows([source], rows, backend=backend.name)
    assert result.shape == (total, width)
    result.sum().backward()
    assert not source.grad.any()


def test_prompts_with_placeholders(backend) -> None:
    """Text, 3 image tokens (id 90) and a region's 2 tokens (id 7) in two prompts, by a loop."""
    embedding = torch.randn(20, 6, device=backend.device)
    image = torch.randn(3, 1, 6, device=backend.device)
    region = torch.randn(2, 2, 6, device=backend.device)
    input_ids = [[1, 90, 90, 4, 7, 7, 2], torch.tensor([3, 90, 7, 7])]
    labels = [[-100] * 6 + [2], [-100] * 4]
    packed = pack_tokens(
        input_ids, embedding, {90: image, 7: region}, labels=labels, backend=backend.name
    )
    queues = {90: iter(image.flatten(0, 1)), 7: iter(region.flatten(0, 1))}
    flat = [int(token) for prompt in input_ids for token in prompt]
    expected = torch.stack([next(queues[t]) if t in queues else embedding[t] for t in flat])
    assert torch.equal(packed.embeddings, expected)
    assert packed.cu_seqlens.tolist() == [0, 7, 11]
    assert packed.cu_seqlens.dtype == torch.int32
    assert packed.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]
    assert packed.positions.dtype == torch.int64
    assert packed.labels.tolist() == [-100] * 6 + [2] + [-100] * 4
    for value in packed:
        assert value.device == embedding.device


def test_text_only_and_nothing() -> None:
    embedding = torch.randn(4, 3)
    packed = pack_tokens([[3, 0], []], embedding)
    assert torch.equal(packed.embeddings, embedding[[3, 0]])
    assert packed.cu_seqlens.tolist() == [0, 2, 2]
    assert packed.labels is None
    nothing = pack_tokens([], embedding, labels=[])
    assert nothing.embeddings.shape == (0, 3)
    assert nothing.cu_seqlens.tolist() == [0]
    assert nothing.labels.tolist() == []


def test_gradcheck(backend) -> None:
    if backend.name == "cuda":
        pytest.skip("checked through float32 against the reference")
    embedding = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    def run(embedding: Tensor, tokens: Tensor) -> Tensor:
        ids = [[1, 9, 1], [9, 9, 0]]
        return pack_tokens(ids, embedding, {9: tokens}, backend=backend.name).embeddings

    assert torch.autograd.gradcheck(run, (embedding, tokens))
    (grad,) = torch.autograd.grad(run(embedding, tokens).square().sum(), tokens, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad.sum().backward()


def test_opcheck_and_compile(backend) -> None:
    sources = [x.requires_grad_() for x in make_sources((5, 3), 4, backend)]
    rows = torch.tensor([7, 0, 0, 4], device=backend.device)
    operator = torch.ops.fastregion.pack_tokens.default
    torch.library.opcheck(operator, (sources, rows, backend.name))
    operator = torch.ops.fastregion.pack_tokens_backward.default
    grad = torch.randn(4, 4, device=backend.device)
    torch.library.opcheck(operator, (grad, rows, [5, 3], [1, 0], backend.name))

    def run(first: Tensor, second: Tensor) -> Tensor:
        return pack_rows([first * 2, second], rows, backend=backend.name).square()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*sources), run(*sources))
    grads = torch.autograd.grad(compiled(*sources).sum(), sources)
    expected = torch.autograd.grad(run(*sources).sum(), sources)
    torch.testing.assert_close(grads, expected)


TABLE = torch.zeros(10, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ([[1, 90]], TABLE, {90: TABLE[:2]}),
            ValueError,
            r"90 occurs 1 times .*\[1\] but 2 tokens",
        ),
        (([[1, 10]], TABLE), ValueError, "0 to 9 or placeholders .*, got 10 at place 1"),
        (([[-1]], TABLE), ValueError, "got -1 at place 0"),
        (([[1.5]], TABLE), TypeError, r"input_ids\[0\] must hold integers"),
        (([[[1]]], TABLE), ValueError, r"input_ids\[0\] must be \[L\], got shape \(1, 1\)"),
        (([[1]], TABLE[0]), ValueError, r"embedding must be \[V, D\], got shape \(4,\)"),
        (([[1]], TABLE.int()), TypeError, r"sources\[0\] must be float32.* got int32"),
        (([[9]], TABLE, {9: TABLE[:1, :3]}), ValueError, r"tokens\[9\] must be \[..., 4\], got"),
        (([[9]], TABLE, {9: TABLE[:1].half()}), TypeError, "same dtype, got float32 and float16"),
        (([[9]], TABLE, {9: TABLE[:1].to("meta")}), ValueError, "same device"),
    ],
)
def test_errors(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^pack_tokens: .*{message}"):
        pack_tokens(*arguments)


def test_label_and_row_errors(backend) -> None:
    with pytest.raises(ValueError, match=r"lengths of input_ids \[2\], got \[1\]"):
        pack_tokens([[1, 2]], TABLE, labels=[[1]])
    with pytest.raises(ValueError, match="sources must hold at least one tensor"):
        pack_rows([], torch.zeros(1, dtype=torch.int64))
    with pytest.raises(TypeError, match="rows must be int64"):
        pack_rows([TABLE], torch.zeros(1, dtype=torch.int32))
    if backend.device.type == "cpu":
        for row in (-1, 10):
            with pytest.raises(ValueError, match=f"rows must be 0 to 9 .* got {row}"):
                pack_rows([TABLE], torch.tensor([row]), backend=backend.name)
