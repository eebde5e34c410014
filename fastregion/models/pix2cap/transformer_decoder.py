"""The transformer decoder: learned queries look at the picture and become objects (X-Decoder).

In each of its layers queries x attend to one map (strides 32, 16, 8 in turn) where the mask that
they have predicted before is, then to each other, then go through a feed-forward; every step is
post-norm. After each layer (and before the first) they predict again:

    d = decoder_norm(x)
    mask_q = MLP(d_q) . mask_features
    class_q = exp(logit_scale) u(d'_q W) . T_k                     T_k: vectors of the class names

``d'`` is d, but for the last query, the class token, which becomes the mean of all others, weighted
by how alike they are. It attends to no other query, and none to it.

Parameter names are those of the published checkpoints; some have no use in Pix2Cap.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.models.pix2cap.attention import MLP, Attention
from fastregion.models.pix2cap.caption_head import CaptionHead
from fastregion.models.pix2cap.config import Pix2CapConfig
from fastregion.models.pix2cap.output import Pix2CapOutput
from fastregion.models.pix2cap.pixel_decoder import PixelFeatures
from fastregion.models.pix2cap.positions import sine_positions
from fastregion.models.pix2cap.text_encoder import LanguageEncoder, normalised
from fastregion.ops import Linear

__all__ = ["TransformerDecoder"]

_NUM_LEVELS = 3


class CrossAttentionLayer(nn.Module):
    """Post-norm attention of queries to a map."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.multihead_attn = Attention(hidden_size, num_heads)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(
        self, x: Tensor, query_embed: Tensor, source: Tensor, positions: Tensor, blocked: Tensor
    ) -> Tensor:
        """``x [B, Q, C]``, ``source [B, M, C]`` and ``blocked [B, Q, M]`` to ``[B, Q, C]``."""
        out = self.multihead_attn(x + query_embed, source + positions, source, blocked=blocked)
        normed: Tensor = self.norm(x + out)
        return normed


class SelfAttentionLayer(nn.Module):
    """Post-norm attention of queries to each other."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(hidden_size, num_heads)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, query_embed: Tensor, blocked: Tensor) -> Tensor:
        """``x [B, Q, C]`` and ``blocked [Q, Q]`` to ``[B, Q, C]``."""
        placed = x + query_embed
        normed: Tensor = self.norm(x + self.self_attn(placed, placed, x, blocked=blocked))
        return normed


class FeedForwardLayer(nn.Module):
    """Post-norm linear, ReLU, linear."""

    def __init__(self, hidden_size: int, inner: int) -> None:
        super().__init__()
        self.linear1 = Linear(hidden_size, inner)
        self.linear2 = Linear(inner, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Works on the last dimension."""
        normed: Tensor = self.norm(x + self.linear2(F.relu(self.linear1(x))))
        return normed


class TextDecoder(nn.Module):
    """The caption head, under the published name."""

    def __init__(self, config: Pix2CapConfig) -> None:
        super().__init__()
        self.textual = CaptionHead(config.text_decoder)


class TransformerDecoder(nn.Module):
    """See the module; holds the text encoder and the caption head, as the checkpoints do."""

    self_attn_mask: Tensor

    def __init__(self, config: Pix2CapConfig) -> None:
        super().__init__()
        self.config = config
        decoder, context = config.decoder, config.text.context_length
        width, num_queries = decoder.hidden_dim, decoder.num_object_queries
        num_layers = decoder.dec_layers - 1
        if config.project_maps:
            self.input_proj = nn.ModuleList(
                nn.Conv2d(config.encoder.convs_dim, width, kernel_size=1)
                for _ in range(_NUM_LEVELS)
            )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(width, decoder.nheads) for _ in range(num_layers)
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(width, decoder.nheads) for _ in range(num_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(width, decoder.dim_feedforward) for _ in range(num_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.query_feat = nn.Embedding(num_queries, width)
        self.query_embed = nn.Embedding(num_queries, width)
        self.level_embed = nn.Embedding(_NUM_LEVELS, width)
        self.class_embed = nn.Parameter(torch.empty(width, config.dim_proj))
        self.mask_embed = MLP(width, width, width, config.encoder.mask_dim)
        self.bbox_embed = MLP(width, width, width, 4)
        self.lang_encoder = LanguageEncoder(config.text, config.dim_proj)
        self.object_proj = Linear(width, config.text_decoder.object_feature_size)
        self.text_decoder = TextDecoder(config)
        # X-Decoder's, for captions of whole pictures; stored and never used.
        self.caping_embed = nn.Parameter(torch.empty(width, config.dim_proj))
        self.pos_embed_caping = nn.Embedding(context, width)
        for weight in (self.class_embed, self.caping_embed):
            nn.init.normal_(weight, std=0.02)
        # Has its values also where parameters are made on the meta device.
        self.register_buffer("self_attn_mask", _self_attention_mask(num_queries, context))

    def forward(
        self, features: PixelFeatures, text_embeddings: Tensor, *, auxiliary: bool = False
    ) -> Pix2CapOutput:
        """Predictions of the last layer.

        Args:
            features: what the pixel decoder makes of pictures.
            text_embeddings: T, ``[K + 1, dim_proj]``; "no object" is the last.
            auxiliary: also those of the earlier layers.
        """
        sources, positions, sizes = [], [], []
        for level, source in enumerate(features.maps):
            if self.config.project_maps:
                source = self.input_proj[level](source)
            height, width = source.shape[2:]
            sizes.append((height, width))
            positions.append(sine_positions(height, width, source.shape[1], source))
            sources.append(source.flatten(2).transpose(1, 2) + self.level_embed.weight[level])
        image_feature = sources[0].amax(1)  # [B, C], padding included
        num_queries = self.query_feat.num_embeddings
        apart = self.self_attn_mask[0, :num_queries, :num_queries]
        query_embed = self.query_embed.weight
        x = self.query_feat.weight.expand(len(image_feature), -1, -1)
        num_layers = len(self.transformer_ffn_layers)
        predictions = []
        for layer in range(num_layers + 1):
            d = self.decoder_norm(x)
            mask_logits = torch.einsum("bqc,bchw->bqhw", self.mask_embed(d), features.mask_features)
            if auxiliary or layer == num_layers:
                predictions.append(self._predict(x, d, mask_logits, image_feature, text_embeddings))
            if layer == num_layers:
                break
            level = layer % _NUM_LEVELS
            blocked = outside_masks(mask_logits, sizes[level])
            blocked = blocked & ~blocked.all(-1, keepdim=True)  # a query always sees something
            x = self.transformer_cross_attention_layers[layer](
                x, query_embed, sources[level], positions[level], blocked
            )
            x = self.transformer_self_attention_layers[layer](x, query_embed, apart)
            x = self.transformer_ffn_layers[layer](x)
        *earlier, last = predictions
        return replace(last, auxiliary=tuple(earlier))

    def _predict(
        self,
        x: Tensor,
        d: Tensor,
        mask_logits: Tensor,
        image_feature: Tensor,
        text_embeddings: Tensor,
    ) -> Pix2CapOutput:
        """Everything that is predicted from queries ``x [B, Q, C]``; d is their norm."""
        objects, token = d[:, :-1], d[:, -1:]
        likeness = (normalised(token) @ normalised(objects).transpose(1, 2)).softmax(-1)
        recomposed = torch.cat((objects, likeness @ objects), dim=1)
        vectors = normalised(recomposed @ self.class_embed)
        scale = self.lang_encoder.logit_scale.exp()
        seen = torch.stack(
            (objects, image_feature[:, None].expand_as(objects)), dim=2
        )  # [B, Q - 1, 2, C]
        return Pix2CapOutput(
            class_logits=scale * (vectors @ text_embeddings.to(vectors.dtype).t()),
            mask_logits=mask_logits,
            boxes=self.bbox_embed(recomposed).sigmoid(),
            object_features=self.object_proj(seen),
            queries=x,
        )


def outside_masks(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The places of a map outside of each query's mask, bool ``[B, Q, h * w]``; no gradient.

    Args:
        mask_logits: ``[B, Q, H, W]``.
        size: h and w.
    """
    resized = F.interpolate(  # in float32: CPUs have no other antialiased resizing
        mask_logits.detach().float(), size, mode="bicubic", align_corners=False, antialias=True
    )
    return resized.flatten(2).sigmoid() < 0.5


def _self_attention_mask(num_queries: int, context: int) -> Tensor:
    """Who does not see whom among queries and X-Decoder's caption tokens, bool ``[1, n, n]``."""
    blocked = torch.zeros(
        1, num_queries + context, num_queries + context, dtype=torch.bool, device="cpu"
    )
    token = num_queries - 1
    blocked[:, :num_queries, num_queries:] = True
    blocked[:, num_queries:, num_queries:] = torch.ones(
        context, context, dtype=torch.bool, device="cpu"
    ).triu(1)
    blocked[:, :token, token] = True
    blocked[:, token, :token] = True
    return blocked
