"""mask_encode against torch's convolutions and linear layer, on every backend."""

import importlib
import os

import pytest
import simt_module
import torch
from torch import Tensor
from torch.nn import functional

from fastregion.ops import BitMasks, mask_encode

NAMES = (
    "conv1_weight",
    "conv1_bias",
    "conv2_weight",
    "conv2_bias",
    "linear_weight",
    "linear_bias",
)

# (height, width) of a tile, hidden channels M, tokens N, channels C
SHAPES = [
    ((1, 1), 1, 1, 1),
    ((5, 7), 2, 3, 5),
    ((16, 20), 8, 8, 70),
    ((33, 18), 4, 5, 131),
    ((30, 43), 3, 16, 64),
]


def make_tiles(height: int, width: int) -> Tensor:
    """Empty, full, a disc, its complement, noise, one pixel, half."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    full = torch.ones(height, width, dtype=torch.bool)
    disc = ((y - height / 2) / height) ** 2 + ((x - width / 2) / width) ** 2 < 0.03
    pixel = (y == height // 2) & (x == width - 1)
    return torch.stack(
        (~full, full, disc, ~disc, torch.rand(height, width) < 0.5, pixel, x < width // 2)
    )


def make_parameters(
    size: tuple[int, int], hidden: int, tokens: int, channels: int
) -> dict[str, Tensor]:
    positions = -(-size[0] // 4) * -(-size[1] // 4)
    shapes = ((hidden, 1, 3, 3), hidden, (tokens, hidden, 3, 3), tokens, (channels, positions))
    values = [torch.randn(shape) * 0.5 for shape in (*shapes, channels)]
    return dict(zip(NAMES, values, strict=True))


def eager(tiles: Tensor, scale: float, parameters: dict[str, Tensor]) -> Tensor:
    """Plain torch, in the dtype of the parameters."""
    conv1, bias1, conv2, bias2, linear, bias = (parameters[name] for name in NAMES)
    planes = tiles[:, None].to(conv1.dtype) * scale
    planes = functional.conv2d(planes, conv1, bias1, stride=2, padding=1).relu()
    planes = functional.conv2d(planes, conv2, bias2, stride=2, padding=1).relu()
    return functional.linear(planes.flatten(2), linear, bias)


@pytest.fixture(params=["touched", "by share", "all"])
def dense_share(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which positions are summed: those that differ from a base, as it comes, or all."""
    share = {"touched": 2.0, "all": -1.0}.get(request.param)
    if share is not None:
        module = importlib.import_module("fastregion.ops.mask_encode")
        monkeypatch.setattr(module, "_DENSE_SHARE", share)
    return request.param


@pytest.mark.parametrize("grey", [False, True], ids=["binary", "grey"])
@pytest.mark.parametrize(("size", "hidden", "tokens", "channels"), SHAPES)
def test_forward(
    backend, dtype, dense_share, grey, size, hidden, tokens, channels, assert_no_worse_than_eager
) -> None:
    tiles, scale = make_tiles(*size), 0.75
    if grey:
        values = torch.randint(0, 256, tiles.shape, dtype=torch.uint8)
        tiles = torch.cat((tiles.byte() * 255, tiles[2:4].byte() * values[2:4], values[:1]))
        scale = 1 / 128
    tiles = tiles.to(backend.device)
    parameters = {
        name: value.to(backend.device, dtype)
        for name, value in make_parameters(size, hidden, tokens, channels).items()
    }
    exact = {name: value.double() for name, value in parameters.items()}
    expected, truth = eager(tiles, scale, parameters), eager(tiles, scale, exact)
    # The base is subtracted and added again: rounding is that of the sum of magnitudes.
    magnitude = eager(tiles, scale, {name: value.abs() for name, value in exact.items()})
    magnitude = 2 * torch.maximum(magnitude, magnitude.amax(0))

    acc = torch.promote_types(dtype, torch.float32)
    sums = parameters["linear_weight"].sum(1, dtype=acc)
    position_major = parameters["linear_weight"].t().contiguous().t()
    for extra in ({}, {"weight_sums": sums}):
        for weight in (parameters["linear_weight"], position_major):
            values = {**parameters, "linear_weight": weight}
            result = mask_encode(tiles, **values, scale=scale, **extra, backend=backend.name)
            assert_no_worse_than_eager(result, expected, truth, magnitude)


@pytest.mark.parametrize(("size", "hidden", "tokens", "channels"), SHAPES)
def test_backward(
    backend, dtype, size, hidden, tokens, channels, assert_no_worse_than_eager
) -> None:
    tiles = make_tiles(*size).to(backend.device)
    parameters = make_parameters(size, hidden, tokens, channels)
    grad = torch.randn(len(tiles), tokens, channels).to(backend.device, dtype)

    def gradients(as_dtype: torch.dtype, function, magnitudes: bool = False) -> list[Tensor]:
        leaves = {
            name: value.to(backend.device, dtype).to(as_dtype, copy=True)
            for name, value in parameters.items()
        }
        if magnitudes:
            leaves = {name: value.abs() for name, value in leaves.items()}
        for leaf in leaves.values():
            leaf.requires_grad_()
        out = function(leaves)
        out.backward((grad.abs() if magnitudes else grad).to(as_dtype))
        return [leaves[name].grad for name in NAMES]

    ours = gradients(
        dtype, lambda leaves: mask_encode(tiles, **leaves, scale=0.5, backend=backend.name)
    )
    plain = gradients(dtype, lambda leaves: eager(tiles, 0.5, leaves))
    exact = gradients(torch.float64, lambda leaves: eager(tiles, 0.5, leaves))
    total = gradients(torch.float64, lambda leaves: eager(tiles, 0.5, leaves), magnitudes=True)
    # The gradient of every feature is rounded to the dtype, by torch's product as in eager torch;
    # independent errors grow like the root of their number.
    terms = len(tiles) * parameters["linear_weight"].shape[1]
    ratio = torch.finfo(dtype).eps / torch.finfo(torch.float32).eps / terms**0.5
    for result, expected, truth, magnitude in zip(ours, plain, exact, total, strict=True):
        assert_no_worse_than_eager(result, expected, truth, max(1.0, ratio) * magnitude)


def test_the_published_size(backend) -> None:
    """448 x 448 tiles of a mask across a grid: whole panels of touched positions."""
    y, x = torch.meshgrid(torch.arange(448), torch.arange(448), indexing="ij")
    disc = (y - 200) ** 2 + (x - 150) ** 2 < 100**2
    tiles = torch.stack((disc, ~disc, disc & (x % 40 > 20))).to(backend.device)
    parameters = {
        name: value.to(backend.device)
        for name, value in make_parameters((448, 448), 8, 8, 100).items()
    }
    exact = eager(tiles, 255, {name: value.double() for name, value in parameters.items()})
    result = mask_encode(tiles, **parameters, scale=255, backend=backend.name)
    torch.testing.assert_close(result.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.max()))


def test_packed_strided_and_twice(backend, dense_share) -> None:
    tiles = make_tiles(21, 26).to(backend.device)
    parameters = {
        name: value.to(backend.device)
        for name, value in make_parameters((21, 26), 4, 6, 33).items()
    }
    result = mask_encode(tiles, **parameters, scale=3, backend=backend.name)
    again = mask_encode(tiles, **parameters, scale=3, backend=backend.name)
    assert torch.equal(result, again)
    packed = mask_encode(BitMasks.pack(tiles), **parameters, scale=3, backend=backend.name)
    assert torch.equal(result, packed)
    grey = mask_encode(tiles.byte(), **parameters, scale=3, backend=backend.name)
    torch.testing.assert_close(grey, result, rtol=1e-4, atol=1e-4)
    strided = {name: torch.stack((value, value), -1)[..., 0] for name, value in parameters.items()}
    every_other = torch.stack((tiles, ~tiles), -1)[..., 0]
    again = mask_encode(every_other, **strided, scale=3, backend=backend.name)
    torch.testing.assert_close(again, result, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_tiles", [0, 1])
@pytest.mark.parametrize("channels", [0, 3])
def test_empty(backend, num_tiles: int, channels: int) -> None:
    tiles = torch.zeros(num_tiles, 9, 8, dtype=torch.bool, device=backend.device)
    parameters = {
        name: value.to(backend.device)
        for name, value in make_parameters((9, 8), 2, 2, channels).items()
    }
    result = mask_encode(tiles, **parameters, backend=backend.name)
    assert result.shape == (num_tiles, 2, channels)
    for value in parameters.values():
        value.requires_grad_()
    mask_encode(tiles, **parameters, backend=backend.name).sum().backward()
    if num_tiles == 0 or channels == 0:
        assert not any(value.grad.any() for value in parameters.values() if value.grad is not None)


def test_gradcheck(backend) -> None:
    if backend.name == "cuda":
        pytest.skip("checked through float32 against the reference")
    tiles = make_tiles(9, 11)[2:6]
    values = make_parameters((9, 11), 2, 3, 4)
    leaves = [values[name].double().requires_grad_() for name in NAMES]

    def run(*parameters: Tensor) -> Tensor:
        return mask_encode(tiles, *parameters, scale=1.5, backend=backend.name)

    assert torch.autograd.gradcheck(run, leaves)
    (grad,) = torch.autograd.grad(run(*leaves).square().sum(), leaves[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"^mask_encode: second derivatives"):
        grad.sum().backward()


def test_opcheck(backend) -> None:
    tiles = make_tiles(9, 11).to(backend.device).byte()
    parameters = [
        value.to(backend.device).requires_grad_()
        for value in make_parameters((9, 11), 2, 3, 4).values()
    ]
    convolutions, (weight, bias) = parameters[:4], [value.detach() for value in parameters[4:]]
    fixed = [value.detach() for value in convolutions]
    operators = torch.ops.fastregion
    for sums in (None, weight.sum(1)):
        arguments = (tiles, 1.0, 1, *fixed, weight, bias, sums, backend.name)
        torch.library.opcheck(operators.mask_encode.default, arguments)
    arguments = (tiles, 1.0, *convolutions, backend.name)
    torch.library.opcheck(operators.mask_features.default, arguments)
    grad = torch.randn(len(tiles), 3, 9, device=backend.device)
    arguments = (grad, tiles, 1.0, *fixed, backend.name)
    torch.library.opcheck(operators.mask_encode_backward.default, arguments)


def test_compiles_as_one_graph(backend) -> None:
    parameters = [value.to(backend.device) for value in make_parameters((9, 11), 2, 3, 4).values()]

    def run(tiles: Tensor, *parameters: Tensor) -> Tensor:
        return mask_encode(tiles, *parameters, scale=2.0, backend=backend.name) * 2

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    tiles = make_tiles(9, 11).to(backend.device)
    torch.testing.assert_close(compiled(tiles, *parameters), run(tiles, *parameters))
    ours = [value.clone().requires_grad_() for value in parameters]
    again = [value.clone().requires_grad_() for value in parameters]
    compiled(tiles, *ours).sum().backward()
    run(tiles, *again).sum().backward()
    for first, second in zip(ours, again, strict=True):
        torch.testing.assert_close(first.grad, second.grad)


def test_autocast_changes_nothing(backend, dense_share) -> None:
    tiles = make_tiles(9, 11).to(backend.device)
    parameters = [value.to(backend.device) for value in make_parameters((9, 11), 2, 3, 4).values()]
    expected = mask_encode(tiles, *parameters, backend=backend.name)
    with torch.autocast(backend.device.type, dtype=torch.bfloat16):
        result = mask_encode(tiles, *parameters, backend=backend.name)
        training = mask_encode(tiles, *(p.requires_grad_() for p in parameters))
    assert torch.equal(result, expected)
    torch.testing.assert_close(training, expected, rtol=1e-4, atol=1e-4)


def test_many_hidden_channels_take_the_reference() -> None:
    parameters = make_parameters((4, 4), 65, 1, 2)
    tiles = make_tiles(4, 4)
    result = mask_encode(tiles, **parameters)
    torch.testing.assert_close(result, eager(tiles, 1, parameters), rtol=1e-4, atol=1e-4)
    with pytest.raises(NotImplementedError, match="at most 64 hidden channels, got 65"):
        mask_encode(tiles, **parameters, backend="cpu")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tiles": torch.zeros(2, 8, 8)}, TypeError, "bool, uint8 or BitMasks, got float32"),
        ({"tiles": torch.zeros(8, 8).bool()}, ValueError, r"tiles must be \[T, H, W\] .*\(8, 8\)"),
        ({"tiles": torch.zeros(2, 0, 8).bool()}, ValueError, r"at least 1, got .*\(2, 0, 8\)"),
        ({"tiles": torch.zeros(2, 9, 8).bool()}, ValueError, r"be \(3, 6\) for tiles of 9 x 8"),
        ({"conv1_weight": torch.zeros(0, 1, 3, 3)}, ValueError, "M and N at least 1, got shapes"),
        ({"conv1_weight": torch.zeros(2, 2, 3, 3)}, ValueError, r"conv1_weight must be \(2, 1, 3"),
        ({"conv1_bias": torch.zeros(3)}, ValueError, r"conv1_bias must be \(2,\) .*shape \(3,\)"),
        ({"conv2_weight": torch.zeros(5, 1, 3, 3)}, ValueError, r"conv2_weight must be \(5, 2, 3"),
        ({"conv2_bias": torch.zeros(4)}, ValueError, r"conv2_bias must be \(5,\) .*shape \(4,\)"),
        ({"linear_weight": torch.zeros(3, 5)}, ValueError, r"linear_weight must be \(3, 4\)"),
        ({"linear_bias": torch.zeros(4)}, ValueError, r"linear_bias must be \(3,\)"),
        ({"conv2_bias": torch.zeros(5).int()}, TypeError, "conv2_bias must be .* got int32"),
        ({"conv2_bias": torch.zeros(5).half()}, TypeError, "same dtype, got .* float16"),
        ({"linear_bias": torch.zeros(3, device="meta")}, ValueError, "same device"),
        ({"weight_sums": torch.zeros(4)}, ValueError, r"weight_sums must be \[3\], got .*\(4,\)"),
        ({"weight_sums": torch.zeros(3).half()}, TypeError, "weight_sums must be float32, .*16"),
    ],
)
def test_errors(changes: dict, error: type[Exception], message: str) -> None:
    arguments = {
        "tiles": torch.zeros(2, 8, 8, dtype=torch.bool),
        "conv1_weight": torch.zeros(2, 1, 3, 3),
        "conv1_bias": torch.zeros(2),
        "conv2_weight": torch.zeros(5, 2, 3, 3),
        "conv2_bias": torch.zeros(5),
        "linear_weight": torch.zeros(3, 4),
        "linear_bias": torch.zeros(3),
    } | changes
    with pytest.raises(error, match=f"^mask_encode: .*{message}"):
        mask_encode(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("large", ["tiles", "weight"])
def test_more_than_31_bits(backend, large: str) -> None:
    """Offsets into 2.2e9 pixels, or into as many weights, of which few are ever touched."""
    if large == "tiles" and (backend.name == "reference" or os.environ.get(simt_module.VARIABLE)):
        pytest.skip("would take minutes, or 100 GB")
    tiles = make_tiles(64, 64)[2:3].to(backend.device)
    parameters = {
        name: value.to(backend.device) for name, value in make_parameters((64, 64), 1, 1, 5).items()
    }
    expected = mask_encode(tiles, **parameters, backend="reference")
    if large == "weight":
        stride = 2_200_000_000 // 255
        stored = torch.empty(255 * stride + 5, device=backend.device)
        far = stored.as_strided((5, 256), (1, stride))  # position-major
        parameters["linear_weight"] = far.copy_(parameters["linear_weight"])
    else:
        many = torch.zeros(540_000, 64, 64, dtype=torch.bool, device=backend.device)
        many[-1:] = tiles
        tiles = many
    result = mask_encode(tiles, **parameters, backend=backend.name)
    torch.testing.assert_close(result[-1:], expected, rtol=1e-4, atol=1e-4)
