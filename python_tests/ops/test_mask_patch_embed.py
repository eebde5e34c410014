"""mask_patch_embed against torch's convolution, on every backend."""

import pytest
import torch
from torch import Tensor

from fastregion.ops import BitMasks, mask_patch_embed, mask_patch_embed_, mask_patch_table
from fastregion.ops.mask_patch_embed import mask_patch_table_reference

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


def make_grey(height: int, width: int) -> Tensor:
    """The same masks with grey edges (a blur), grey noise, and a full mask less one level."""
    masks = make_tiles(height, width)
    blurred = torch.nn.functional.avg_pool2d(
        masks[:, None].double(), 3, 1, 1, count_include_pad=False
    )
    noise = torch.randint(256, (1, height, width), dtype=torch.uint8)
    almost = torch.full((1, height, width), 255, dtype=torch.uint8)
    almost[0, height // 2, width // 2] = 254
    return torch.cat((blurred[:, 0].mul(255).round().byte(), noise, almost))


def make(kind: str, size: tuple[int, int]) -> Tensor:
    return make_grey(*size) if kind == "grey" else make_tiles(*size)


def eager(
    tiles: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    add_to: Tensor | None,
    outside: float = 0.0,
    value_dtype: torch.dtype | None = None,
) -> Tensor:
    """Plain torch, all input channels equal, in the dtype of the weight."""
    inside = tiles.double() / (255 if tiles.dtype == torch.uint8 else 1)
    values = (outside + (1 - outside) * inside).to(value_dtype or weight.dtype)
    planes = values[:, None].expand(-1, weight.shape[1], -1, -1).to(weight.dtype)
    out = torch.nn.functional.conv2d(planes, weight, bias, stride=weight.shape[-1])
    out = out.flatten(2).transpose(1, 2)
    return out if add_to is None else out + add_to


@pytest.mark.parametrize(("size", "kernel", "inputs", "channels"), SHAPES)
@pytest.mark.parametrize("extras", [("bias",), ("add_to",)], ids=str)
@pytest.mark.parametrize(("kind", "outside"), [("binary", 0.0), ("binary", -1.0), ("grey", -1.0)])
def test_forward_and_backward(
    backend,
    dtype,
    size,
    kernel,
    inputs,
    channels,
    extras,
    kind,
    outside,
    assert_no_worse_than_eager,
) -> None:
    tiles = make(kind, size).to(backend.device)
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
    result = mask_patch_embed(tiles, **ours, outside=outside, backend=backend.name)
    expected = eager(tiles, **plain, outside=outside)
    truth = eager(tiles, **exact, outside=outside, value_dtype=dtype)
    # Values between -1 and 1 are the sum of two parts, inside and background, of up to 3 together.
    parts = 1 + 2 * abs(outside)
    whole = torch.ones_like(tiles, dtype=torch.bool)
    sizes = [None if x is None else x.detach().abs() for x in exact.values()]
    magnitude = parts * eager(tiles if outside == 0 else whole, *sizes)
    assert_no_worse_than_eager(result, expected, truth, magnitude)

    grad = torch.randn(truth.shape).to(backend.device, dtype)
    for out in (result, expected, truth):
        out.backward(grad.to(out.dtype))
    # The gradient passes through prefix sums along k rows and k columns; their rounding errors are
    # independent, so they grow like the root of k.
    total = parts * kernel**0.5 * grad.abs().double().sum((0, 1))
    for name, value in parameters.items():
        if value is not None:
            grads = (leaf[name].grad for leaf in (ours, plain, exact))
            assert_no_worse_than_eager(*grads, total)


@pytest.mark.parametrize(("size", "kernel", "inputs", "channels"), SHAPES)
@pytest.mark.parametrize(("kind", "outside"), [("binary", 0.0), ("binary", -1.0), ("grey", -1.0)])
def test_in_place(
    backend, dtype, size, kernel, inputs, channels, kind, outside, assert_no_worse_than_eager
) -> None:
    tiles = make(kind, size).to(backend.device)
    patches = (size[0] // kernel) * (size[1] // kernel)
    weight = torch.randn(channels, inputs, kernel, kernel).to(backend.device, dtype)
    stored = torch.randn(len(tiles), patches + 1, channels).to(backend.device, dtype)
    before = stored.clone()
    background = outside * weight.double().sum((1, 2, 3))
    values = (weight.double(), None, before[:, 1:].double(), outside, dtype)
    truth = eager(tiles, *values) - background
    expected = eager(tiles, weight, None, before[:, 1:], outside) - background.to(dtype)
    tokens = stored[:, 1:]  # without a class token
    version = stored._version
    result = mask_patch_embed_(tokens, tiles, weight, outside=outside, backend=backend.name)
    assert result is tokens
    assert stored._version > version
    whole = torch.ones_like(tiles, dtype=torch.bool)
    magnitude = 3 * eager(whole, weight.double().abs(), None, before[:, 1:].double().abs())
    assert_no_worse_than_eager(tokens, expected, truth, magnitude)
    assert torch.equal(stored[:, 0], before[:, 0])
    pixels = torch.ones(1, 1, kernel, kernel, dtype=torch.float64, device=backend.device)
    empty = eager(tiles != 0, pixels, None, None)[..., 0] == 0
    assert torch.equal(tokens[empty], before[:, 1:][empty])

    strided = before[:, 1:].transpose(1, 2).contiguous().transpose(1, 2)  # channels are apart
    version = strided._version
    mask_patch_embed_(strided, tiles, weight, outside=outside, backend=backend.name)
    assert torch.equal(strided, tokens)
    assert strided._version > version


def test_table(backend, dtype) -> None:
    """The table changes nothing but the time; it holds the kernel and its suffix sums."""
    tiles = make_grey(28, 42).to(backend.device)
    weight = torch.randn(9, 3, 14, 14).to(backend.device, dtype).requires_grad_()
    table = mask_patch_table(weight, backend=backend.name)
    assert not table.requires_grad
    torch.testing.assert_close(table, mask_patch_table_reference(weight.detach()))
    first, again = (
        mask_patch_embed(tiles, weight, outside=-1, table=made, backend=backend.name)
        for made in (None, table)
    )
    assert torch.equal(first, again)
    (grad,) = torch.autograd.grad(again.sum(), weight)
    assert grad.shape == weight.shape
    tokens = torch.zeros_like(first)
    with torch.no_grad():
        mask_patch_embed_(tokens, tiles, weight, table=table, backend=backend.name)
    assert tokens.any()


def test_levels_of_dam() -> None:
    """The published preprocessing of a level, step by step, in its float16."""
    level = torch.arange(256, dtype=torch.uint8)
    published = ((level.double() * (1 / 255)).float() - 0.5) / 0.5
    one = torch.ones(1, 1, 1, 1, dtype=torch.float16)
    result = mask_patch_embed(level.view(1, 16, 16), one, outside=-1)
    assert torch.equal(result.flatten(), published.half())


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
    before = tokens.clone()
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
    assert torch.equal(tokens, before)


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
    tiles = torch.cat((make_grey(6, 9)[[1, 5]], make_tiles(6, 9)[:4].byte() * 255))
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    add_to = torch.randn(6, 6, 3, dtype=torch.float64, requires_grad=True)

    def run(*parameters: Tensor) -> Tensor:
        return mask_patch_embed(tiles, *parameters, outside=-1, backend=backend.name)

    assert torch.autograd.gradcheck(run, (weight, bias, add_to))
    assert torch.autograd.gradgradcheck(run, (weight, bias, add_to))


def test_opcheck_and_compile(backend) -> None:
    tiles = make_tiles(9, 14).to(backend.device)
    weight = torch.randn(5, 1, 4, 4, device=backend.device, requires_grad=True)
    bias = torch.randn(5, device=backend.device, requires_grad=True)
    words = BitMasks.pack(tiles).words
    operator = torch.ops.fastregion.mask_patch_embed.default
    torch.library.opcheck(operator, (words, 14, weight, bias, None, -1.0, None, backend.name))
    grad = torch.randn(10, 6, 5, device=backend.device, requires_grad=True)
    operator = torch.ops.fastregion.mask_patch_embed_backward.default
    torch.library.opcheck(operator, (grad, words, 14, 1, 4, 0.0, backend.name))
    weight_only = weight.detach()
    operator = torch.ops.fastregion.mask_patch_table.default
    torch.library.opcheck(operator, (weight_only, backend.name))
    operator = torch.ops.fastregion.mask_patch_embed_.default
    tokens = torch.randn(10, 6, 5, device=backend.device)
    torch.library.opcheck(operator, (tokens, words, 14, weight_only, -1.0, None, backend.name))

    def run(tiles: Tensor, weight: Tensor) -> Tensor:
        return mask_patch_embed(tiles, weight, bias, backend=backend.name).square().sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tiles, weight), run(tiles, weight))
    (grad,) = torch.autograd.grad(compiled(tiles, weight), weight)
    (expected,) = torch.autograd.grad(run(tiles, weight), weight)
    torch.testing.assert_close(grad, expected)


def test_in_place_compiles(backend) -> None:
    tiles = make_grey(9, 14).to(backend.device)
    weight = torch.randn(5, 1, 4, 4, device=backend.device)

    def run(tokens: Tensor, tiles: Tensor) -> Tensor:
        return mask_patch_embed_(tokens * 2, tiles, weight, backend=backend.name) + 1

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (3, 5):
        tokens = torch.randn(count, 6, 5, device=backend.device)
        expected = run(tokens, tiles[:count])
        torch.testing.assert_close(compiled(tokens, tiles[:count]), expected)


def test_in_place_records_no_gradient(backend) -> None:
    tiles = make_tiles(8, 8).to(backend.device)
    tokens = torch.randn(10, 4, 3, device=backend.device)
    weight = torch.randn(3, 1, 4, 4, device=backend.device, requires_grad=True)
    with pytest.raises(ValueError, match=r"^mask_patch_embed_: .*weight.* torch\.no_grad\(\)"):
        mask_patch_embed_(tokens, tiles, weight, backend=backend.name)
    with torch.no_grad():
        mask_patch_embed_(tokens, tiles, weight, backend=backend.name)


def test_autocast_changes_nothing() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = mask_patch_embed(make_tiles(8, 8), torch.randn(3, 1, 4, 4))
    assert result.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tiles": torch.zeros(2, 8, 8)}, TypeError, "bool, uint8 .* got float32; say what is"),
        ({"tiles": torch.zeros(8).bool()}, ValueError, r"tiles must be \[T, H, W\], got .*8,"),
        ({"outside": float("inf")}, ValueError, "outside must be finite, got inf"),
        (
            {"table": torch.zeros(32, 4)},
            ValueError,
            r"mask_patch_table\(weight\), \(32, 3\) in float32, got shape \(32, 4\) in float32",
        ),
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


def test_errors_in_place() -> None:
    weight, tiles = torch.zeros(3, 1, 4, 4), torch.zeros(2, 8, 8, dtype=torch.bool)
    with pytest.raises(
        ValueError, match=r"^mask_patch_embed_: tokens must be \(2, 4, 3\) .*2, 3, 3"
    ):
        mask_patch_embed_(torch.zeros(2, 3, 3), tiles, weight)
    with pytest.raises(
        TypeError, match=r"^mask_patch_embed_: .*same dtype, got float32 and float16"
    ):
        mask_patch_embed_(torch.zeros(2, 4, 3).half(), tiles, weight)
    for tokens in (
        torch.zeros(1, 4, 3).expand(2, 4, 3),
        torch.zeros(24).as_strided((2, 4, 3), (3, 3, 1)),
    ):
        with pytest.raises(ValueError, match=r"^mask_patch_embed_: tokens must have rows apart"):
            mask_patch_embed_(tokens, tiles, weight)
    with pytest.raises(ValueError, match=r"^mask_patch_table: weight must be \[C, ch, k, k\]"):
        mask_patch_table(torch.zeros(3, 4, 4))


@pytest.mark.slow
def test_more_than_31_bits(backend) -> None:
    """Tokens in 2.2e9 elements: rows far apart, so that little memory is ever touched."""
    stride = 2_200_000_000 // 15
    stored = torch.empty(15 * stride + 3, dtype=torch.bfloat16, device=backend.device)
    far = stored.as_strided((4, 4, 3), (4 * stride, stride, 1))
    tokens = torch.randn(4, 4, 3).to(backend.device, torch.bfloat16)
    weight = torch.randn(3, 1, 4, 4).to(backend.device, torch.bfloat16)
    tiles = make_tiles(8, 8)[:4].to(backend.device)
    far.copy_(tokens)
    for target in (far, tokens):
        mask_patch_embed_(target, tiles, weight, backend=backend.name)
    assert torch.equal(far, tokens)
