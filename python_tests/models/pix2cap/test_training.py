"""A tiny Pix2Cap learns: views, targets, losses, freezing and groups together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tiny_pix2cap
import torch

from fastregion.models.pix2cap.augmentation import Augmentation, training_view
from fastregion.models.pix2cap.points import uniform_points
from fastregion.models.pix2cap.processing import normalise, pad_batch
from fastregion.models.pix2cap.recipe import (
    GRADIENT_CLIP,
    freeze_as_published,
    optimizer_groups,
)
from fastregion.models.pix2cap.targets import Targets
from fastregion.models.segment import Segment
from fastregion.regions import Region


def test_the_loss_falls_and_the_backbone_stays() -> None:
    decoder = replace(tiny_pix2cap.config().decoder, train_num_points=256)
    captioner = tiny_pix2cap.captioner(decoder=decoder)
    categories = captioner.config.categories
    image = np.zeros((60, 90, 3), np.uint8)
    left = np.zeros((60, 90), bool)
    left[:, :40] = True
    image[left], image[~left] = (200, 30, 30), (30, 60, 220)
    segments = [
        Segment.of(Region.from_mask(left), id=1, category=categories[0], caption="the red dog"),
        Segment.of(Region.from_mask(~left), id=2, category=categories[2], caption="a blue sky"),
    ]
    view, targets = training_view(image, segments, categories, Augmentation(False, 0.1, 0.0))
    # The view's corner is enough, and fast.
    pixels = torch.from_numpy(view[:90, :120]).permute(2, 0, 1)
    targets = Targets(targets.classes, targets.masks[:, :90, :120], targets.captions)
    assert targets.masks.flatten(1).any(1).all()
    config = captioner.config
    batch = pad_batch([normalise(pixels, config.pixel_mean, config.pixel_std)])

    model = captioner.model
    freeze_as_published(model, captioner.layout.published)
    groups = optimizer_groups(model, learning_rate=3e-3, published=captioner.layout.published)
    optimizer = torch.optim.AdamW(groups)
    text_embeddings = captioner.text_embeddings([category.name for category in categories])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    draw = uniform_points(torch.device("cpu"), torch.Generator().manual_seed(0))
    totals = []
    for _ in range(8):
        output = model(batch, text_embeddings.clone(), auxiliary=True)
        losses = model.criterion(output, [targets], captioner.taught, draw)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(
            [parameter for group in groups for parameter in group["params"]], GRADIENT_CLIP
        )
        optimizer.step()
        totals.append(float(total.detach()))
    assert np.isfinite(totals).all()
    assert np.mean(totals[-3:]) < 0.7 * totals[0], totals
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
