"""Operators on regions: torch operators of the ``fastregion::`` namespace (floor 2).

Every operator is one file: contract, plain-torch reference, public function, registration. Which
implementation runs is decided in ``backend.py`` and told by ``ops.backend(name, device)``.
"""

from fastregion.ops.attention_cache import append_kv_, empty_kv, unpack_kv
from fastregion.ops.backend import backend
from fastregion.ops.bit_masks import BitMasks
from fastregion.ops.cross_attention import cross_attention
from fastregion.ops.decode_attention import SharedPrefix, decode_attention
from fastregion.ops.gated_residual_norm import gated_residual_norm
from fastregion.ops.linear import Linear, linear
from fastregion.ops.mask_encode import mask_encode
from fastregion.ops.mask_patch_embed import (
    mask_patch_embed,
    mask_patch_embed_,
    mask_patch_table,
)
from fastregion.ops.mask_resize import mask_resize
from fastregion.ops.mask_tiles import mask_tiles
from fastregion.ops.merge_attention import merge_attention
from fastregion.ops.pack_rows import pack_rows
from fastregion.ops.pack_tokens import PackedTokens, pack_tokens
from fastregion.ops.registry import OPERATORS, Operator
from fastregion.ops.roi_align import RoIAlign, roi_align
from fastregion.ops.roi_replay import roi_replay

__all__ = [
    "OPERATORS",
    "BitMasks",
    "Linear",
    "Operator",
    "PackedTokens",
    "RoIAlign",
    "SharedPrefix",
    "append_kv_",
    "backend",
    "cross_attention",
    "decode_attention",
    "empty_kv",
    "gated_residual_norm",
    "linear",
    "mask_encode",
    "mask_patch_embed",
    "mask_patch_embed_",
    "mask_patch_table",
    "mask_resize",
    "mask_tiles",
    "merge_attention",
    "pack_rows",
    "pack_tokens",
    "roi_align",
    "roi_replay",
    "unpack_kv",
]
