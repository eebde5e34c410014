"""GatedCrossAttentionBlock against its formula, written out in plain torch."""

import math

import pytest
import torch
from torch import Tensor, nn

from fastregion.vision.gated_cross_attention import GatedCrossAttentionBlock

EPS = 1e-6
NAMES = {
    "attn_factor",
    "mlp_factor",
    *(f"layer_norm{k}.{what}" for k in (1, 2) for what in ("weight", "bias")),
    *(f"cross_attn.{x}_proj.{what}" for x in ("q", "k", "v", "out") for what in ("weight", "bias")),
    *(f"mlp.fc{k}.{what}" for k in (1, 2) for what in ("weight", "bias")),
}


def make_block(gate_activation: str = "raw", dtype: torch.dtype = torch.float64, width: int = 16):
    block = GatedCrossAttentionBlock(
        hidden_size=width, intermediate_size=24, num_heads=2, gate_activation=gate_activation
    )
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape) / math.sqrt(parameter.shape[-1]))
    return block.to(dtype)


def formula(
    block: GatedCrossAttentionBlock, h: Tensor, z: Tensor, key_bias: Tensor | None = None
) -> Tensor:
    """The module's two equations in elementary steps."""
    weights = dict(block.named_parameters())

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def project(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].t() + weights[f"{name}.bias"]

    def gate(name: str) -> Tensor:
        return weights[name].tanh() if block.gate_activation == "tanh" else weights[name]

    heads, width = block.cross_attn.num_heads, h.shape[2] // block.cross_attn.num_heads
    x = norm(h, "layer_norm1")
    q, k, v = (
        project(tokens, f"cross_attn.{name}_proj").unflatten(2, (heads, width)).transpose(1, 2)
        for name, tokens in (("q", x), ("k", z), ("v", z))
    )
    scores = q @ k.transpose(2, 3) / math.sqrt(width)
    if key_bias is not None:
        scores = scores + key_bias[:, None, None]
    attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    a = h + gate("attn_factor") * project(attended, "cross_attn.out_proj")
    inner = project(norm(a, "layer_norm2"), "mlp.fc1")
    cubic = inner + 0.044715 * inner**3
    inner = 0.5 * inner * (1 + (math.sqrt(2 / math.pi) * cubic).tanh())
    return a + gate("mlp_factor") * project(inner, "mlp.fc2")


def tokens(batch: int, queries: int, keys: int, dtype=torch.float64, width: int = 16):
    return (
        torch.randn(batch, queries, width, dtype=dtype, requires_grad=True),
        torch.randn(batch, keys, width, dtype=dtype, requires_grad=True),
    )


@pytest.mark.parametrize("gate_activation", ["raw", "tanh"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("batch", "queries", "keys"), [(2, 5, 7), (1, 1, 1), (3, 33, 2)])
def test_is_its_formula(gate_activation, masked, batch, queries, keys) -> None:
    """Forward and every gradient, in float64."""
    block = make_block(gate_activation)
    h, z = tokens(batch, queries, keys)
    key_bias = None
    if masked:
        key_bias = torch.where(torch.rand(batch, keys) < 0.5, -math.inf, 0.0)
        key_bias[:, -1] = 0
    results = [block(h, z, key_bias), formula(block, h, z, key_bias)]
    torch.testing.assert_close(*results)
    grad = torch.randn_like(h)
    inputs = (h, z, *block.parameters())
    ours, expected = (torch.autograd.grad(result, inputs, grad) for result in results)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("gate_activation", ["raw", "tanh"])
def test_with_the_next_norm(gate_activation: str) -> None:
    block, norm = make_block(gate_activation), nn.LayerNorm(16, eps=1e-5).double()
    nn.init.normal_(norm.weight)
    h, z = tokens(2, 3, 4)
    out, normed = block.forward_and_norm(h, z, norm)
    expected = formula(block, h, z)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(normed, norm(expected))
    inputs = (h, z, *block.parameters(), *norm.parameters())
    ours = torch.autograd.grad(out.sum() + normed.square().sum(), inputs)
    plain = torch.autograd.grad(expected.sum() + norm(expected).square().sum(), inputs)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_hidden_keys_do_not_matter() -> None:
    """Whatever lies there, NaN included."""
    block = make_block()
    h, z = tokens(2, 3, 6)
    key_bias = torch.zeros(2, 6, dtype=torch.float64)
    key_bias[0, 2:] = key_bias[1, ::2] = -math.inf
    expected = block(h, z[:, :], key_bias)
    with torch.no_grad():
        z[0, 2:] = math.nan
        z[1, ::2] = 1e9
    assert torch.equal(block(h, z, key_bias), expected)


def test_without_any_key() -> None:
    """All hidden: the attention is 0, not NaN, and the block goes on."""
    block = make_block()
    h, z = tokens(1, 3, 4)
    out = block(h, z, torch.full((1, 4), -math.inf, dtype=torch.float64))
    a = h + block.attn_factor * block.cross_attn.out_proj.bias
    expected = a + block.mlp_factor * block.mlp(block.layer_norm2(a))
    torch.testing.assert_close(out, expected)


def test_a_new_block_changes_nothing() -> None:
    block = GatedCrossAttentionBlock(hidden_size=16, intermediate_size=24, num_heads=2)
    h, z = (t.float() for t in tokens(2, 5, 7))
    assert torch.equal(block(h, z), h)
    assert set(block.state_dict()) == NAMES
    assert block.attn_factor.shape == block.mlp_factor.shape == (1,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype: torch.dtype) -> None:
    """No further from float64 than the plain steps in the same dtype."""
    block = make_block(width=64, dtype=dtype)
    h, z = (t.detach() for t in tokens(2, 9, 11, dtype, width=64))
    with torch.no_grad():
        result, plain = block(h, z), formula(block, h, z)
        exact = formula(block.double(), h.double(), z.double())
    assert result.dtype == dtype
    budget = (plain.double() - exact).abs().max()
    error = (result.double() - exact).abs().max()
    floor = torch.finfo(dtype).eps * exact.abs().max()
    assert error <= 2 * budget + floor, f"error {error:.2e}, plain torch {budget:.2e}"


def test_autocast() -> None:
    """Half precision inside, the stream and the parameters in float32, as plain torch does it."""
    block = make_block(dtype=torch.float32)
    h, z = (t.float().detach() for t in tokens(2, 5, 7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(h, z)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, formula(block, h, z), rtol=0.05, atol=0.05)
    out.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in block.parameters())


def test_compiles_as_one_graph() -> None:
    block = make_block()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    for queries in (3, 5):
        h, z = tokens(2, queries, 7)
        result, expected = compiled(h, z), block(h, z)
        torch.testing.assert_close(result, expected)
        ours, plain = (torch.autograd.grad(r.sum(), (h, z)) for r in (result, expected))
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "hidden_size must be a multiple of num_heads, got 16 and 3"),
        ({"num_heads": 0}, "hidden_size must be a multiple of num_heads, got 16 and 0"),
        ({"gate_activation": "relu"}, "gate_activation must be 'raw' or 'tanh', got 'relu'"),
    ],
)
def test_construction_errors(arguments: dict, message: str) -> None:
    settings = {"hidden_size": 16, "intermediate_size": 24, "num_heads": 2} | arguments
    with pytest.raises(ValueError, match=message):
        GatedCrossAttentionBlock(**settings)


@pytest.mark.parametrize(
    ("h", "z", "message"),
    [
        ((3, 16), (1, 4, 16), r"h must be \[B, N, 16\], got shape \(3, 16\)"),
        ((1, 3, 8), (1, 4, 16), r"h must be \[B, N, 16\], got shape \(1, 3, 8\)"),
        ((2, 3, 16), (1, 4, 16), r"z must be \[2, M, 16\], got shape \(1, 4, 16\)"),
        ((2, 3, 16), (2, 4, 8), r"z must be \[2, M, 16\], got shape \(2, 4, 8\)"),
    ],
)
def test_errors(h: tuple, z: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_block()(torch.zeros(h).double(), torch.zeros(z).double())


def test_wrong_key_bias() -> None:
    h, z = tokens(1, 2, 3)
    with pytest.raises(ValueError, match=r"key_bias must be .* got shape \(1, 2\)"):
        make_block()(h, z, torch.zeros(1, 2))
