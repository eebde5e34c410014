"""A new mask encoder on an InternVL2.5 model, which has neither it nor its tokens."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tiny_ureca
import torch
from captioner_checks import NEW

from fastregion.models.ureca.mask_encoder import init_mask_encoder
from fastregion.models.ureca.new_captioner import has_mask_encoder, new_captioner
from fastregion.regions import Region


@pytest.mark.parametrize("internlm2", [False, True])
def test_a_new_mask_encoder_on_a_base_model(tmp_path: Path, internlm2: bool) -> None:
    old = tiny_ureca.write_base_model(tmp_path, internlm2=internlm2)
    assert not has_mask_encoder(tmp_path)
    captioner = new_captioner(tmp_path, num_mask_token=5)
    assert [captioner.tokenizer.token_id(t) for t in ("<MASK_CONTEXT>", "<mask>", "</mask>")] == [
        old, old + 1, old + 2
    ]  # fmt: skip
    assert captioner.config.num_mask_token == 5
    embedding = captioner.decoder.get_input_embeddings().weight.detach()
    head = captioner.decoder.lm_head.weight.detach()
    assert embedding.shape == head.shape == (old + 3, 32)
    assert embedding[old:].std() == pytest.approx(0.02, rel=0.5)
    torch.testing.assert_close(head[old:], head[:old].mean(0, keepdim=True).expand(3, -1))
    again = new_captioner(tmp_path, num_mask_token=5)
    for (name, one), (_, other) in zip(
        captioner.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    region = Region.from_box((40, 30, 70, 50), image.shape[:2])
    captioner.max_num = 4
    assert isinstance(captioner.describe(image, region, **NEW), str)
    captioner.save_pretrained(tmp_path / "new")
    assert has_mask_encoder(tmp_path / "new")


def test_first_values_of_the_mask_encoder() -> None:
    encoder = tiny_ureca.captioner(num_mask_token=64).model.mask_tokens
    init_mask_encoder(encoder, 0)
    for layer, fan_in, fan_out in (
        (encoder.mask_encoder[0], 9, 64),  # fan_out without the size of the kernel
        (encoder.mask_encoder[2], 64 * 9, 64),
        (encoder.mask_linear, 64, 32),
    ):
        deviation = math.sqrt(2 / (fan_in + fan_out))
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1)
        assert not layer.bias.any()
