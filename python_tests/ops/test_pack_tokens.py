"""pack_tokens against the loop one would write."""

import doctest
import sys

import pytest
import torch
from torch import Tensor

from fastregion.ops import pack_tokens


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


def test_tokens_that_are_in_place_already(backend) -> None:
    embedding = torch.randn(20, 6, device=backend.device)
    image = torch.randn(3, 6, device=backend.device)
    region = torch.randn(2, 6, device=backend.device)
    input_ids = [[1, 90, 90, 4, 7, 7, 2], [3, 90, 5]]
    whole = pack_tokens(input_ids, embedding, {90: image, 7: region}, backend=backend.name)
    out = torch.full((10, 6), 0.5, device=backend.device)
    out[[1, 2, 8]] = image
    packed = pack_tokens(input_ids, embedding, {90: None, 7: region}, out=out, backend=backend.name)
    assert packed.embeddings is out
    assert torch.equal(out, whole.embeddings)
    assert packed.cu_seqlens.tolist() == whole.cu_seqlens.tolist()
    assert packed.positions.tolist() == whole.positions.tolist()
    everything = torch.full((10, 6), 0.5, device=backend.device)
    tokens = {90: image, 7: region}
    pack_tokens(input_ids, embedding, tokens, out=everything, backend=backend.name)
    assert torch.equal(everything, whole.embeddings)


def test_the_example_of_the_documentation() -> None:
    results = doctest.testmod(sys.modules[pack_tokens.__module__])
    assert results.attempted > 0
    assert results.failed == 0


def test_placeholders_in_any_order(backend) -> None:
    """Inside and outside the vocabulary, interleaved, over several prompts, by a loop."""
    embedding = torch.randn(30, 4, device=backend.device)
    placeholders = [-5, 3, 4, 29, 1000]
    ids = [[int(x) for x in torch.randint(30, (length,))] for length in (40, 0, 23)]
    for prompt in ids[::2]:
        for place in range(0, len(prompt), 2):
            prompt[place] = placeholders[int(torch.randint(5, ()))]
    flat = [token for prompt in ids for token in prompt]
    tokens = {
        placeholder: torch.randn(flat.count(placeholder), 4, device=backend.device)
        for placeholder in reversed(placeholders)
    }
    queues = {placeholder: iter(rows) for placeholder, rows in tokens.items()}
    expected = [next(queues[t]) if t in queues else embedding[t] for t in flat]
    packed = pack_tokens(ids, embedding, tokens, backend=backend.name)
    assert torch.equal(packed.embeddings, torch.stack(expected))
    assert packed.cu_seqlens.tolist() == [0, 40, 40, 63]


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
        (([[1]], TABLE.int()), TypeError, "embedding must be float32.* got int32"),
        (([[9]], TABLE, {9: TABLE[:1, :3]}), ValueError, r"tokens\[9\] must be \[..., 4\], got"),
        (
            ([[9]], TABLE, {9: TABLE[:1].half()}),
            TypeError,
            r"embedding and tokens\[9\] must .* got float32 and float16",
        ),
        (([[9]], TABLE, {9: TABLE[:1].to("meta")}), ValueError, "same device"),
        (([[9]], TABLE, {9: None}), ValueError, r"tokens\[9\] is None, .* out was not given"),
    ],
)
def test_errors(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^pack_tokens: .*{message}"):
        pack_tokens(*arguments)


def test_label_errors() -> None:
    with pytest.raises(ValueError, match=r"lengths of input_ids \[2\], got \[1\]"):
        pack_tokens([[1, 2]], TABLE, labels=[[1]])
