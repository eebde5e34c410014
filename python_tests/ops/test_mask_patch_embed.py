"""mask_patch_embed against torch's convolution, on every backend."""

import pytest
import torch
from torch import Tensor

from fastregion.ops import BitMasks, mask_patch_embed

# (height, width) of a tile, kernel size, input channels, output channels
SHAPES = [
    ((1, 1), 1, 1, 1),
    ((9, 14), 4, 3, 5),
    ((28, 42), 14, 3, 70),
    ((64, 130), 64, 1, 8),
    ((20, 140), 7, 2, 33),
]


def make_tiles(height: int, width: int) -> Tensor:
    """Noise of several densities, empty, full, a disc, a ring, stripes, single pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = ((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2
    full = torch.ones(height, width, dtype=torch.bool)
    noise = [torch.rand(height, width) < density for density in (0.02, 0.5, 0.97)]
    corners = (y % 13 == 0) & (x % 11 == 10)
    stripes = (x // 3) % 2 == 0
    disc, ring = radius < 0.15, (radius > 0.1) & (radius < 0.2)
    return torch.stack((*noise, ~full, full, disc, ring, ~disc, stripes, corners))


def eager(tiles: Tensor, weight: Tensor, bias: Tensor | None, add_to: Tensor | None) -> Tensor:
    """Plain torch, all input channels equal, in the dtype of the weight."""
    planes = tiles[:, None].expand(-1, weight.shape[1], -1, -1).to(weight.dtype)
    out = torch.nn.functional.conv2d(planes, weight, bias, stride=weight.shape[-1])
    out = out.flatten(2).transpose(1, 2)
    return out if add_to is None else out + add_to


@pytest.mark.parametrize(("size", "kernel", "inputs", "channels"), SHAPES)
@pytest.mark.parametrize("extras", [(), ("bias",), ("add_to",), ("bias", "add_to")], ids=str)
def test_forward_and_backward(
    backend, dtype, size, kernel, inputs, channels, extras, assert_no_worse_than_eager
) -> None:
    tiles = make_tiles(*size).to(backend.device)
    patches = (size[0] // kernel) * (size[1] // kernel)
    parameters = {
        "weight": torch.randn(channels, inputs, kernel, kernel),
        "bias": torch.randn(channels) if "bias" in extras else None,
        "add_to": torch.randn(len(tiles), patches, channels) if "add_to" in extras else None,
    }
    parameters = {
        name: None if value is None else value.to(backend.device, dtype)
        for name, value in parameters.items()
    }

    def leaves(as_dtype: torch.dtype) -> dict[str, Tensor | None]:
        return {
            name: None if value is None else value.to(as_dtype, copy=True).requires_grad_()
            for name, value in parameters.items()
        }

    ours, plain, exact = leaves(dtype), leaves(dtype), leaves(torch.float64)
    result = mask_patch_embed(tiles, **ours, backend=backend.name)
    expected, truth = eager(tiles, **plain), eager(tiles, **exact)
    magnitude = eager(tiles, *(None if x is None else x.detach().abs() for x in exact.values()))
    assert_no_worse_than_eager(result, expected, truth, magnitude)

    grad = torch.randn(truth.shape).to(backend.device, dtype)
    for out in (result, expected, truth):
        out.backward(grad.to(out.dtype))
    # The gradient passes through prefix sums along k rows and k columns; their rounding errors are
    # independent, so they grow like the root of k.
    total = kernel**0.5 * grad.abs().double().sum((0, 1))
    for name, value in parameters.items():
        if value is not None:
            grads = (leaf[name].grad for leaf in (ours, plain, exact))
            assert_no_worse_than_eager(*grads, total)


def test_boundary_patches_by_hand(backend) -> None:
    """One pixel, a row, a column, an L: sums that can be read off the weight."""
    weight = torch.arange(32.0, device=backend.device).view(2, 1, 4, 4)
    tiles = torch.zeros(4, 4, 4, dtype=torch.bool, device=backend.device)
    tiles[0, 1, 2] = True
    tiles[1, 3] = True
    tiles[2, :, 0] = True
    tiles[3, 0] = tiles[3, :, 0] = True
    result = mask_patch_embed(tiles, weight, backend=backend.name)[:, 0, 0]
    assert result.tolist() == [6, 12 + 13 + 14 + 15, 0 + 4 + 8 + 12, 0 + 1 + 2 + 3 + 4 + 8 + 12]


def test_packed_strided_and_twice(backend) -> None:
    tiles = make_tiles(28, 42).to(backend.device)
    weight = torch.randn(4, 4, 3, 9, device=backend.device).permute(3, 2, 0, 1)
    tokens = torch.randn(20, 77, 9, device=backend.device)[::2]
    patches = torch.randn(10, 9, 70, device=backend.device).transpose(1, 2)
    for add_to in (tokens[:, :70], patches):
        result = mask_patch_embed(tiles, weight, None, add_to, backend=backend.name)
        again = mask_patch_embed(
            BitMasks.pack(tiles),
            weight.contiguous(),
            None,
            add_to.contiguous(),
            backend=backend.name,
        )
        assert torch.equal(result, again)
    assert torch.equal(tokens[:, :70], tokens.clone()[:, :70])


def test_add_to_is_left_unchanged(backend) -> None:
    tiles = make_tiles(8, 8).to(backend.device)
    add_to = torch.randn(10, 4, 3, device=backend.device)
    before = add_to.clone()
    mask_patch_embed(tiles, torch.randn(3, 1, 4, 4, device=backend.device), add_to=add_to)
    assert torch.equal(add_to, before)


@pytest.mark.parametrize(
    ("num_tiles", "side", "channels"),
    [(0, 8, 3), (2, 8, 0), (2, 3, 3)],
    ids=["no tiles", "no channels", "smaller than a patch"],
)
def test_empty(backend, num_tiles: int, side: int, channels: int) -> None:
    tiles = torch.ones(num_tiles, side, side, dtype=torch.bool, device=backend.device)
    weight = torch.randn(channels, 2, 4, 4, device=backend.device, requires_grad=True)
    bias = torch.randn(channels, device=backend.device, requires_grad=True)
    result = mask_patch_embed(tiles, weight, bias, backend=backend.name)
    assert result.shape == (num_tiles, (side // 4) ** 2, channels)
    result.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    assert torch.equal(bias.grad, torch.zeros_like(bias))


def test_kernels_beyond_a_word() -> None:
    """More than 64 pixels run on the reference; a forced kernel says so."""
    tiles, weight = torch.rand(1, 70, 70) > 0.5, torch.randn(2, 1, 70, 70)
    torch.testing.assert_close(
        mask_patch_embed(tiles, weight), eager(tiles, weight, None, None), rtol=1e-4, atol=1e-3
    )
    with pytest.raises(NotImplementedError, match="at most 64 pixels, got 70"):
        mask_patch_embed(tiles, weight, backend="cpu")


def test_gradcheck(backend) -> None:
    if backend.name == "cuda":
        pytest.skip("checked through float32 against the reference")
    tiles = make_tiles(6, 9)[:6]
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    add_to = torch.randn(6, 6, 3, dtype=torch.float64, requires_grad=True)

    def run(*parameters: Tensor) -> Tensor:
        return mask_patch_embed(tiles, *parameters, backend=backend.name)

    assert torch.autograd.gradcheck(run, (weight, bias, add_to))
    assert torch.autograd.gradgradcheck(run, (weight, bias, add_to))


def test_opcheck_and_compile(backend) -> None:
    tiles = make_tiles(9, 14).to(backend.device)
    weight = torch.randn(5, 1, 4, 4, device=backend.device, requires_grad=True)
    bias = torch.randn(5, device=backend.device, requires_grad=True)
    words = BitMasks.pack(tiles).words
    operator = torch.ops.fastregion.mask_patch_embed.default
    torch.library.opcheck(operator, (words, 14, weight, bias, None, backend.name))
    grad = torch.randn(10, 6, 5, device=backend.device, requires_grad=True)
    operator = torch.ops.fastregion.mask_patch_embed_backward.default
    torch.library.opcheck(operator, (grad, words, 14, 1, 4, backend.name))

    def run(tiles: Tensor, weight: Tensor) -> Tensor:
        return mask_patch_embed(tiles, weight, bias, backend=backend.name).square().sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tiles, weight), run(tiles, weight))
    (grad,) = torch.autograd.grad(compiled(tiles, weight), weight)
    (expected,) = torch.autograd.grad(run(tiles, weight), weight)
    torch.testing.assert_close(grad, expected)


def test_autocast_changes_nothing() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = mask_patch_embed(make_tiles(8, 8), torch.randn(3, 1, 4, 4))
    assert result.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tiles": torch.zeros(2, 8, 8)}, NotImplementedError, "binary .* got float32; grey masks"),
        ({"tiles": torch.zeros(2, 8, 8).byte()}, TypeError, "got uint8; say what is inside"),
        ({"tiles": torch.zeros(8, 8).bool()}, ValueError, r"tiles must be \[T, H, W\], got .*8, 8"),
        ({"weight": torch.zeros(3, 1, 4, 5)}, ValueError, r"\[C, ch, k, k\] .* got .*3, 1, 4, 5"),
        ({"weight": torch.zeros(3, 0, 4, 4)}, ValueError, "ch and k at least 1"),
        ({"weight": torch.zeros(3, 1, 4, 4).int()}, TypeError, "weight must be .* got int32"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must be \[3\], got shape \(4,\)"),
        ({"bias": torch.zeros(3).half()}, TypeError, "same dtype, got float32 and float16"),
        ({"bias": torch.zeros(3, device="meta")}, ValueError, "same device"),
        ({"add_to": torch.zeros(2, 3, 3)}, ValueError, r"add_to must be \(2, 4, 3\) .*\(2, 3, 3\)"),
    ],
)
def test_errors(changes: dict, error: type[Exception], message: str) -> None:
    arguments = {
        "tiles": torch.zeros(2, 8, 8, dtype=torch.bool),
        "weight": torch.zeros(3, 1, 4, 4),
    } | changes
    with pytest.raises(error, match=f"^mask_patch_embed: .*{message}"):
        mask_patch_embed(**arguments)
