from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fastregion import ops
from fastregion.vision.perception_encoder import (
    Block,
    PerceptionEncoder,
    PerceptionEncoderConfig,
    _rotate,
    rotary_table,
)
from fastregion.vision.pooled_projector import PooledProjector

CONFIG = PerceptionEncoderConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    intermediate_size=48,
    patch_size=4,
    image_size=(16, 16),
    reference_grid=(8, 8),
    class_token=True,
    grid_offset=1,
)


def plain_block(block: Block, x: Tensor, table: Tensor) -> Tensor:
    """The formula of the module, one operation after the other."""
    x = torch.addcmul(x, block.gamma_1, block.attn(block.norm1(x), partial(_rotate, table=table)))
    return torch.addcmul(x, block.gamma_2, block.mlp(block.norm2(x)))


def make_block() -> tuple[Block, Tensor]:
    block = Block(CONFIG)
    for name, parameter in block.named_parameters():
        if name.startswith(("norm", "gamma")):
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    table = rotary_table(
        CONFIG.grid, CONFIG.reference_grid, CONFIG.grid_offset, CONFIG.head_dim, torch.device("cpu")
    )
    return block, table


def test_block_is_its_formula() -> None:
    block, table = make_block()
    x = torch.randn(3, 17, 32, requires_grad=True)
    grad = torch.randn(3, 17, 32)
    leaves = [x, *block.parameters()]
    results = [f(x, table) for f in (block, lambda *args: plain_block(block, *args))]
    torch.testing.assert_close(*results)
    gradients = [torch.autograd.grad(result, leaves, grad) for result in results]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    """The residual stream keeps its dtype, as a plain sum would."""
    block, table = make_block()
    x = torch.randn(3, 17, 32).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        result = block.to(dtype)(x, table)
    assert result.dtype == dtype
    expected = plain_block(block.float(), x.float(), table)
    torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.05)


def test_large_layers_take_the_fastest_product() -> None:
    """All linear layers are those of ops.linear, with the names and shapes of torch's."""
    parts = nn.ModuleList([PerceptionEncoder(CONFIG), PooledProjector(32, 24, (4, 4), 2)])
    layers = [part for part in parts.modules() if isinstance(part, nn.Linear)]
    assert len(layers) == 4 * CONFIG.num_layers + 2
    assert all(isinstance(layer, ops.Linear) for layer in layers)
