"""Our attention inside transformers' own Llama and Qwen2 models, training and ``generate`` alike.

    use_fastregion_attention(model)  # or from_pretrained(..., attn_implementation="fastregion")
    model.generate(**inputs, past_key_values=AttentionCache())

Without ``AttentionCache`` (no cache, or one of transformers' own) every call is one
``ops.cross_attention``, differentiable. With it, keys and values live in preallocated buffers of
the layout of ``ops.attention_cache``: a prompt is read by ``ops.cross_attention``, and what follows
by ``ops.decode_attention``. Padded tokens are not stored. Sequences that begin alike can share that
beginning:

    prefix = AttentionCache()
    model(**prefixes, past_key_values=prefix)           # G prefixes, padded on the left
    model.generate(**whole, past_key_values=prefix.share([0, 0, 1]))  # 3 sequences in 2 groups

where the first columns of ``whole`` are those of ``prefixes``.

Attention dropout, sliding windows, soft caps, attention maps, several sequences in one row,
hand-made 4-D masks and transformers' ``StaticCache`` are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastregion._torchvision_guard import import_transformers
from fastregion.language.attention_limits import check_full_attention, head_padding
from fastregion.ops import append_kv_, cross_attention, decode_attention
from fastregion.ops.attention_cache import KV_BLOCK, empty_kv, grown_kv
from fastregion.ops.decode_attention import SharedPrefix

_cache_utils: Any = import_transformers("cache_utils")
_masking_utils: Any = import_transformers("masking_utils")
_modeling_utils: Any = import_transformers("modeling_utils")

__all__ = ["ATTENTION", "AttentionCache", "use_fastregion_attention"]

ATTENTION = "fastregion"
"""The name of our attention in transformers (``attn_implementation``)."""

_GROWTH = 256  # columns that are free after the buffers have grown
_PLAIN_MASKS = (
    None,
    _masking_utils.causal_mask_function,
    _masking_utils.bidirectional_mask_function,
)
_REFUSED = ("sliding_window", "softcap", "position_bias", "s_aux")  # when not None


def use_fastregion_attention(model: nn.Module) -> None:
    """Switch a transformers model to our attention.

    Raises:
        TypeError: not a transformers model.
        NotImplementedError: sliding-window layers.
    """
    check_full_attention("model", model)
    cast(Any, model).set_attn_implementation(ATTENTION)


class _NewTokens:
    """What the layers of a forward pass ask of its padding mask, each answer found once.

    Args:
        mask: bool ``[B, L]`` over all columns, old and new.
        count: N, columns of new tokens, the last ones.
        padding: False where the mask is known to be true everywhere.
    """

    def __init__(self, mask: Tensor, count: int, *, padding: bool = True) -> None:
        self._mask, self._count, self._padding = mask, count, padding
        self._real = mask[:, -count:]

    @cached_property
    def bias(self) -> Tensor | None:
        """``[B, L]`` to add to scores."""
        if not self._padding:
            return None
        zeros = torch.zeros(self._mask.shape, device=self._mask.device)
        return zeros.masked_fill_(~self._mask, float("-inf"))

    @cached_property
    def counts(self) -> Tensor:
        """int32 ``[B]``, new tokens of each sequence."""
        return self._real.sum(1, dtype=torch.int32)

    @cached_property
    def fewest_and_most(self) -> tuple[int, int]:
        """The ends of ``counts``: here the host looks at the mask, and waits for the device."""
        if not self._padding:
            return self._count, self._count
        fewest, most = torch.stack(self.counts.aminmax()).tolist()
        return fewest, most

    @property
    def padded(self) -> bool:
        """Whether some of the new columns are padding."""
        return self.fewest_and_most[0] < self._count

    @cached_property
    def bounds(self) -> Tensor | None:
        """int32 ``[B + 1]``, where each sequence begins among the tokens; None for one each."""
        if self._count == 1 and not self.padded:
            return None
        return functional.pad(self.counts.cumsum(0, dtype=torch.int32), (1, 0))

    @cached_property
    def _tokens(self) -> Tensor:
        """The T places among ``B * N`` that are not padding."""
        return self._real.flatten().nonzero().squeeze(1)

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """Rows and columns ``[T]`` of the tokens in buffers that were empty."""
        columns = self._real.cumsum(1).flatten() - 1
        return self._tokens // self._count, columns[self._tokens]

    def pick(self, x: Tensor) -> Tensor:
        """The tokens ``[T, ...]`` of ``x [B, N, ...]`` that are not padding."""
        return x.flatten(0, 1)[self._tokens] if self.padded else x.flatten(0, 1)

    def spread(self, picked: Tensor) -> Tensor:
        """Back to ``[B, N, ...]``, with zeros at padding."""
        shape = (*self._real.shape, *picked.shape[1:])
        if not self.padded:
            return picked.view(shape)
        spread = picked.new_zeros(shape)
        spread.flatten(0, 1)[self._tokens] = picked
        return spread


class _Layer(_cache_utils.CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer; ``seen`` counts columns as the model does, with padding."""

    is_sliding = False
    is_croppable = True

    def __init__(self, prefix: _Layer | None = None, prefix_of: Sequence[int] = ()) -> None:
        super().__init__()
        self.seen = 0
        self.unpadded = 0  # of these, newest columns without padding
        self.stored = 0  # at least the largest of lengths
        self.handed_on = False  # between update and the attention function
        self.lengths: Tensor | None = None  # int32 [B], tokens stored of each sequence
        self._prefix = prefix
        self._prefix_of = prefix_of

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch_size, kv_heads, count, width = key_states.shape
        width += head_padding(width)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = empty_kv(
            batch_size, kv_heads, count + _GROWTH, width, dtype=self.dtype, device=self.device
        )
        self.lengths = torch.zeros(batch_size, dtype=torch.int32, device=self.device)
        self._of = torch.tensor(self._prefix_of, dtype=torch.int32, device=self.device)
        if self._prefix is not None and len(self._of) != batch_size:
            raise ValueError(
                f"share: must name a prefix for each of {batch_size} sequences, "
                f"got {len(self._of)} numbers"
            )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """Count the new tokens and hand them on; the attention function stores them."""
        self.check_taken()
        if torch.is_grad_enabled() and (key_states.requires_grad or value_states.requires_grad):
            raise ValueError(
                "AttentionCache: is for inference, but keys require gradients; call the model "
                "under torch.no_grad(), or without past_key_values to train it"
            )
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.seen += key_states.shape[2]
        marked = key_states.view_as(key_states)
        cast(Any, marked).fastregion_layer = self  # how the attention function finds the layer
        self.handed_on = True
        return marked, value_states

    def check_taken(self) -> None:
        """Raise unless the attention function has taken what it was handed."""
        if self.handed_on:
            raise ValueError(
                "AttentionCache: must be used by a model with our attention, but that of another "
                "has read the keys; call use_fastregion_attention(model) first"
            )

    def count(self, new: _NewTokens) -> None:
        """Count the tokens that are stored next, and make room for them."""
        assert self.lengths is not None
        _, most = new.fewest_and_most
        self.lengths = self.lengths + new.counts
        self.stored += most
        self.unpadded = 0 if new.padded else self.unpadded + most
        if self.stored > self.keys.shape[2] * KV_BLOCK:
            self.keys, self.values = grown_kv(self.keys, self.values, self.stored + _GROWTH)

    @property
    def prefix(self) -> SharedPrefix | None:
        """The shared beginning, as ``ops.decode_attention`` takes it."""
        if self._prefix is None or self._prefix.lengths is None:
            return None
        return SharedPrefix(self._prefix.keys, self._prefix.values, self._prefix.lengths, self._of)

    def get_seq_length(self) -> int:
        return self.seen + (0 if self._prefix is None else self._prefix.get_seq_length())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.seen = self.unpadded = self.stored = 0
        self.handed_on = False
        self.lengths = None
        self.is_initialized = False

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest ``-tokens_to_remove`` columns."""
        count = abs(tokens_to_remove)
        if count > self.unpadded:
            raise NotImplementedError(
                f"crop: only columns without padding can be removed, the newest {self.unpadded}, "
                f"got {count}"
            )
        if self.lengths is not None:
            self.lengths = self.lengths - count
            self.seen -= count
            self.stored -= count
            self.unpadded -= count

    def batch_select_indices(self, indices: Tensor) -> None:
        """Sequence i becomes what sequence ``indices[i]`` was."""
        if self.lengths is None:
            return
        indices = indices.to(self.device)
        self.keys, self.values = self.keys[indices], self.values[indices]
        self.lengths = self.lengths[indices]
        if self._prefix is not None:
            self._of = self._of[indices]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.lengths is not None:
            index = torch.arange(self.lengths.shape[0], device=self.device)
            self.batch_select_indices(index.repeat_interleave(repeats))


class AttentionCache(_cache_utils.Cache):  # type: ignore[misc]
    """A cache for ``past_key_values`` of a model that uses our attention; see the module.

    Raises (where the model uses it):
        ValueError: gradients are wanted, or the attention of the model is another.
        NotImplementedError: tokens are taken back (``crop``) that stand before padding.
    """

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_Layer)

    def share(self, prefix_of: Sequence[int]) -> AttentionCache:
        """An empty cache whose sequences continue those of this one, which must not change then.

        Args:
            prefix_of: for each new sequence, the index of the one in this cache that it continues.

        Raises:
            ValueError: this cache is empty, or an index is not in it.
        """
        layers = cast(list[_Layer], self.layers)
        if not layers or layers[0].lengths is None:
            raise ValueError("share: the cache must hold the prefixes already, got an empty one")
        layers[0].check_taken()
        count = layers[0].lengths.shape[0]
        for sequence, index in enumerate(prefix_of):
            if not 0 <= index < count:
                raise ValueError(
                    f"share: prefix_of must be in 0..{count - 1}, "
                    f"got {index} for sequence {sequence}"
                )
        shared = AttentionCache()
        shared.layers = [_Layer(layer, prefix_of) for layer in layers]
        shared.layer_class_to_replicate = None
        return shared


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: ``[B, H, N, D]`` queries to ``[B, N, H, D]``.

    ``attention_mask`` is what ``_mask`` made: bool ``[B, L]`` over all columns, or None.
    """
    _refuse(dropout, attention_mask, kwargs)
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    layer: _Layer | None = getattr(key, "fastregion_layer", None)
    if layer is not None:
        layer.handed_on = False
    width = query.shape[3]
    scaling = width**-0.5 if scaling is None else scaling
    if padding := head_padding(width):
        query, key, value = (functional.pad(x, (0, padding)) for x in (query, key, value))
    q, k, v = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)  # [B, N, H, D]
    new = _new_tokens(attention_mask, q)
    if layer is not None:
        layer.count(new)
    if layer is None or (layer.seen == q.shape[1] and layer.prefix is None):
        out, _ = cross_attention(q, k, v, new.bias, scale=scaling, causal=causal)
        if layer is not None:
            append_kv_(layer.keys, layer.values, new.pick(k), new.pick(v), *new.places)
    else:
        assert layer.lengths is not None
        packed, _ = decode_attention(
            new.pick(q),
            layer.keys,
            layer.values,
            layer.lengths,
            cu_seqlens_q=new.bounds,
            scale=scaling,
            prefix=layer.prefix,
            k_new=new.pick(k),
            v_new=new.pick(v),
        )
        out = new.spread(packed)
    return out[..., :width], None


def _new_tokens(mask: Tensor | None, q: Tensor) -> _NewTokens:
    """What ``_mask`` found, or the same for a mask from elsewhere (moved to another device)."""
    found: _NewTokens | None = getattr(mask, "fastregion_new_tokens", None)
    if found is not None:
        return found
    batch_size, count = q.shape[:2]
    if mask is None:
        every = torch.ones((), dtype=torch.bool, device=q.device).expand(batch_size, count)
        return _NewTokens(every, count, padding=False)
    return _NewTokens(mask, count)


def _refuse(dropout: float, mask: Tensor | None, options: dict[str, Any]) -> None:
    if dropout:
        raise NotImplementedError(
            f"{ATTENTION} attention: attention dropout must be 0, got {dropout}"
        )
    if mask is not None and mask.dim() != 2:
        raise NotImplementedError(
            f"{ATTENTION} attention: attention_mask must be [batch, columns], "
            f"got shape {tuple(mask.shape)}"
        )
    for name in _REFUSED:
        if options.get(name) is not None:
            raise NotImplementedError(f"{ATTENTION} attention: {name} is not supported")
    if options.get("output_attentions"):
        raise NotImplementedError(
            f"{ATTENTION} attention: attention maps are never formed, so output_attentions must be "
            'False; attn_implementation="eager" has them'
        )


def _mask(
    *_: Any,
    q_length: int = 0,
    kv_length: int = 0,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    **__: Any,
) -> Tensor | None:
    """Transformers' mask interface, once a forward pass: the padding mask; the rest is ours."""
    if mask_function not in _PLAIN_MASKS:
        raise NotImplementedError(
            f"{ATTENTION} attention: only causal or full masks with padding are supported; several "
            "sequences in one row (position_ids that start again) need a row each"
        )
    # The ends of queries and keys are aligned, and those of a buffer with free columns are not.
    causal = mask_function is _masking_utils.causal_mask_function
    if causal and (isinstance(q_offset, Tensor) or q_offset + q_length != kv_offset + kv_length):
        raise NotImplementedError(
            f"{ATTENTION} attention: keys must end with the newest token, but there are columns "
            "for more, as in a StaticCache; use AttentionCache or a DynamicCache"
        )
    if attention_mask is None:
        return None
    mask = attention_mask[:, -kv_length:]
    # A view of its own: the answers that it carries must not keep the mask itself alive.
    cast(Any, mask).fastregion_new_tokens = _NewTokens(attention_mask[:, -kv_length:], q_length)
    return mask


_modeling_utils.ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
_masking_utils.ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, _mask)
