"""The two stages of URECA's training: what each starts from, and what it trains."""

from __future__ import annotations

from pathlib import Path

import torch

from fastregion.models.auto import download
from fastregion.models.checkpoint import read_config
from fastregion.models.ureca import UrecaCaptioner
from fastregion.models.ureca.new_captioner import has_mask_encoder, new_captioner

__all__ = ["start_from", "train_lora", "train_mask_encoder"]

_BASES = tuple(f"OpenGVLab/InternVL2_5-{size}B" for size in (1, 2, 4, 8))


def start_from(
    start: str | None, *, new: bool, num_mask_token: int, arch: int, seed: int
) -> UrecaCaptioner:
    """URECA, or InternVL2.5 with a new mask encoder, in float32.

    Args:
        start: a folder, or the published name of an InternVL2.5.
        new: whether there may be a new mask encoder.
        num_mask_token: N of a new one.
        arch: which a new one is.
        seed: of its first values.

    Raises:
        FileNotFoundError, ValueError, NotImplementedError: none is given, or it is missing, damaged
            or of another model.
    """
    if start is None:
        raise ValueError("start_from: expected a folder of URECA or of InternVL2.5, got none")
    folder = download(start) if start in _BASES else Path(start)
    read_config(folder, UrecaCaptioner.model_type)
    if has_mask_encoder(folder):
        return UrecaCaptioner.from_pretrained(folder, dtype=torch.float32)
    if not new:
        raise ValueError(
            f"start_from: stage 2 needs a mask encoder that stage 1 has trained; {start!r} has none"
        )
    return new_captioner(
        folder,
        num_mask_token=num_mask_token,
        arch=arch,
        dtype=torch.float32,
        seed=seed,
    )


def train_mask_encoder(captioner: UrecaCaptioner) -> list[str]:
    """Stage 1: freeze everything but the mask encoder.

    Returns:
        The published names of the parameters that are trained.
    """
    return captioner.freeze("vision_model.*", "mlp1.*", "language_model.*")


def train_lora(
    captioner: UrecaCaptioner, *, rank: int, dropout: float = 0.05, seed: int = 0
) -> list[str]:
    """Stage 2: give the decoder LoRA layers, and freeze everything else, embeddings included.

    Args:
        captioner: modified; see :meth:`UrecaCaptioner.add_lora`.
        rank: of the updates; 16, 64 or 128 in the published trainings.
        dropout: in training.
        seed: of their first values.

    Returns:
        Our names of the parameters that are trained, below ``language_model``.

    Raises:
        ValueError: as for ``add_lora``.
    """
    added = captioner.add_lora(rank=rank, dropout=dropout, seed=seed)
    captioner.model.requires_grad_(False)
    for parameter in added:
        parameter.requires_grad_(True)
    return [name for name, p in captioner.model.named_parameters() if p.requires_grad]
