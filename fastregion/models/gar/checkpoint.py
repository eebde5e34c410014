"""What published checkpoints of GAR call the parameters."""

from __future__ import annotations

from fastregion.models.weights import Layout

__all__ = ["PUBLISHED"]

PUBLISHED = Layout(
    {
        "mask_patch_embedding.": "mask_patch_embedding.",
        "vision_tower.": "mllm.model.vision_tower.timm_model.",
        "projector.": "mllm.model.multi_modal_projector.",
        "decoder.model.": "mllm.model.language_model.",
        "decoder.lm_head.": "mllm.lm_head.",
    }
)
