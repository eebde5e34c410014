"""Published checkpoints of URECA: names, the fused projection of InternLM2, LoRA tensors.

Our names are the published ones of a model on Qwen2. A file on InternLM2 calls the decoder's
parameters otherwise and holds queries, keys and values as one tensor (``language/internlm2.py``).
A file of the second stage of training that has not been merged keeps the decoder below
``language_model.base_model.model.``, the weights of its linear layers as ``base_layer.weight``
beside ``lora_A.default.weight`` and ``lora_B.default.weight``; they are folded as they are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from fastregion.language.internlm2 import (
    FUSED,
    INTERNLM2,
    PROJECTIONS,
    fuse_wqkv,
    rename,
    split_wqkv,
)
from fastregion.language.lora import fold
from fastregion.models.config_values import wrong
from fastregion.models.ureca.config import UrecaConfig
from fastregion.models.weights import Layout, StoredTensor, read_stored

__all__ = ["LORA_SCALE", "UrecaLayout", "check_against_file"]

LORA_SCALE = 2  # alpha / rank of every published training

_DECODER = "language_model."
_WRAPPED = f"{_DECODER}base_model.model."
_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True)
class UrecaLayout(Layout):
    """See the module.

    Attributes:
        heads: query heads and key heads of an InternLM2 decoder; None for other decoders.
        lora_rank: of the LoRA tensors in the files; 0 for files without.
    """

    prefixes: Mapping[str, str] = field(default_factory=lambda: {"mask_tokens.": "", "": ""})
    heads: tuple[int, int] | None = None
    lora_rank: int = 0

    @classmethod
    def of(cls, config: UrecaConfig) -> UrecaLayout:
        """That of a model's files."""
        llm, heads = config.llm, None
        if llm["model_type"] == INTERNLM2:
            count = llm["num_attention_heads"]
            heads = (count, llm.get("num_key_value_heads") or count)
        return cls(heads=heads, lora_rank=config.use_llm_lora)

    def from_files(self, stored: Iterator[StoredTensor]) -> Iterator[StoredTensor]:
        """LoRA tensors folded, the decoder's parameters under Llama's names."""
        for tensor in self._folded(stored):
            if self.heads is None or not tensor.key.startswith(_DECODER):
                yield tensor
            elif FUSED in tensor.key:
                yield from self._split(tensor)
            else:
                yield replace(tensor, key=rename(tensor.key, to_llama=True))

    def _folded(self, stored: Iterator[StoredTensor]) -> Iterator[StoredTensor]:
        """Tensors without their LoRA parts; nothing is read before it is asked for."""
        if not self.lora_rank:
            for tensor in stored:
                if tensor.key.startswith(_WRAPPED):
                    raise ValueError(
                        f"model: {str(tensor.file)!r} has {tensor.key!r} beside LoRA tensors, but "
                        "use_llm_lora of config.json is 0"
                    )
                yield tensor
            return
        parts = {tensor.key: tensor for tensor in stored}  # of all files: a layer may be in several
        updates = {key for key in parts if key.endswith((_A, _B))}
        folded: set[str] = set()
        for key, tensor in parts.items():
            if key in updates:
                continue
            name = key.replace(_WRAPPED, _DECODER, 1).replace(_BASE, ".")
            if key.endswith(f"{_BASE}weight"):
                stem = key.removesuffix(f"{_BASE}weight")
                low = [self._part(parts, stem + ending, tensor) for ending in (_A, _B)]
                self._check_rank(tensor, *low)
                folded.update(part.key for part in low)
                yield replace(tensor, key=name, read=partial(_fold, tensor, *low))
            else:
                yield replace(tensor, key=name)
        if not folded:
            raise ValueError(
                f"config.json: use_llm_lora is {self.lora_rank}, but no file has LoRA tensors"
            )
        for key in sorted(updates - folded):
            raise ValueError(
                f"model: {str(parts[key].file)!r} has {key!r}, but no file has a weight "
                f"{_BASE.strip('.')!r} that it updates"
            )

    def _part(
        self, parts: Mapping[str, StoredTensor], key: str, base: StoredTensor
    ) -> StoredTensor:
        if key not in parts:
            raise ValueError(f"model: {str(base.file)!r}: no file has the LoRA tensor {key!r}")
        return parts[key]

    def _check_rank(self, base: StoredTensor, a: StoredTensor, b: StoredTensor) -> None:
        rows, columns = base.shape
        for tensor, shape in ((a, (self.lora_rank, columns)), (b, (rows, self.lora_rank))):
            if tensor.shape != shape:
                raise ValueError(
                    f"model: {str(tensor.file)!r}: {tensor.key!r} must have shape {shape} "
                    f"(use_llm_lora {self.lora_rank}), got {tensor.shape}"
                )

    def _split(self, fused: StoredTensor) -> Iterator[StoredTensor]:
        """Queries, keys and values of a fused projection."""
        assert self.heads is not None
        heads, kv_heads = self.heads
        groups = heads + 2 * kv_heads
        if len(fused.shape) != 2 or fused.shape[0] % groups:
            raise ValueError(
                f"model: {str(fused.file)!r}: {fused.key!r} must have a multiple of {groups} rows "
                f"({heads} + 2 x {kv_heads} heads), got shape {fused.shape}"
            )
        width = fused.shape[0] // groups
        for index, name in enumerate(PROJECTIONS):
            rows = width * (kv_heads if index else heads)
            yield replace(
                fused,
                key=fused.key.replace(FUSED, name),
                shape=(rows, fused.shape[1]),
                read=partial(_projection, fused, heads, kv_heads, index),
            )

    def to_files(self, named: dict[str, Tensor]) -> dict[str, Tensor]:
        """The published names of the decoder, its projection fused for InternLM2."""
        if self.heads is not None:
            named = self._fused(named, self.heads[1])
        return _wrapped(named) if self.lora_rank else named

    def _fused(self, named: dict[str, Tensor], kv_heads: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for key, tensor in named.items():
            if not key.startswith(_DECODER):
                found[key] = tensor
            elif PROJECTIONS[0] in key and key.endswith(_A):  # the three share it
                found[key.replace(PROJECTIONS[0], FUSED)] = tensor
            elif PROJECTIONS[0] in key:
                q, k, v = (named[key.replace(PROJECTIONS[0], name)] for name in PROJECTIONS)
                found[key.replace(PROJECTIONS[0], FUSED)] = fuse_wqkv(q, k, v, kv_heads)
            elif not any(name in key for name in PROJECTIONS):
                found[rename(key, to_llama=False)] = tensor
        return found


def _wrapped(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of a decoder with LoRA tensors."""
    stems = {key.removesuffix(_A) for key in named if key.endswith(_A)}
    found = {}
    for key, tensor in named.items():
        stem, _, last = key.rpartition(".")
        name = f"{stem}{_BASE}{last}" if stem in stems else key
        found[name.replace(_DECODER, _WRAPPED, 1) if key.startswith(_DECODER) else name] = tensor
    return found


def _fold(base: StoredTensor, a: StoredTensor, b: StoredTensor) -> Tensor:
    return fold(base.read(), a.read(), b.read(), LORA_SCALE)


def _projection(fused: StoredTensor, heads: int, kv_heads: int, index: int) -> Tensor:
    return split_wqkv(fused.read(), heads, kv_heads)[index]


def check_against_file(
    values: Mapping[str, Any], config: UrecaConfig, folder: str | os.PathLike[str]
) -> UrecaConfig:
    """The config with what only the weights say: the number of mask tokens where it is left out.

    Args:
        values: the folder's ``config.json``.
        config: what was read from it.
        folder: where the weights are.

    Raises:
        FileNotFoundError, ValueError: as for ``load_weights``; also where the mask encoder in the
            weights is another one than in ``config.json``.
    """
    shapes = {tensor.key: tensor.shape for tensor in read_stored(folder)}
    found = 2 if "concat_mask_linear.weight" in shapes else 3
    if found != config.arch:
        if values.get("arch") is not None:
            raise wrong(
                "arch", f"{found}, that of the weights in {os.fspath(folder)!r}", config.arch
            )
        config = replace(config, arch=found)
    key = "mask_encoder.0.weight" if found == 3 else "concat_mask_encoder.4.weight"
    if not shapes.get(key):
        raise ValueError(f"model: {os.fspath(folder)!r}: no file has tensor {key!r}")
    count = shapes[key][0]
    if "num_mask_token" not in values:
        return replace(config, num_mask_token=count)
    if count != config.num_mask_token:
        raise wrong(
            "num_mask_token",
            f"{count}, the rows of {key!r} in {os.fspath(folder)!r}",
            config.num_mask_token,
        )
    return config
