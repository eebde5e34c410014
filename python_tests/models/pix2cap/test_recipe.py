"""What the published recipe trains, and how fast."""

from __future__ import annotations

import pytest
from torch import nn

from fastregion.models.pix2cap import Pix2CapConfig
from fastregion.models.pix2cap.checkpoint import PUBLISHED
from fastregion.models.pix2cap.modeling import Pix2CapModel
from fastregion.models.pix2cap.recipe import (
    freeze_as_published,
    learning_rate_factor,
    optimizer_groups,
)


def module(**children: nn.Module) -> nn.Module:
    parent = nn.Module()
    for name, child in children.items():
        parent.add_module(name, child)
    return parent


def tiny() -> nn.Module:
    words = nn.Embedding(5, 4)
    output = nn.Linear(4, 5)
    output.weight = words.weight  # tied
    layer = module(linear1=nn.Linear(4, 4), norm=nn.LayerNorm(4))
    predictor = module(
        transformer_ffn_layers=nn.ModuleList([layer]),
        decoder_norm=nn.LayerNorm(4),
        query_feat=nn.Embedding(3, 4),
        mask_embed=nn.Linear(4, 4),
        text_decoder=module(words=words, output=output),
        lang_encoder=nn.Linear(4, 4),
    )
    predictor.register_parameter("class_embed", nn.Parameter(nn.Linear(4, 4).weight.detach()))
    return module(
        backbone=nn.Linear(4, 4),
        sem_seg_head=module(predictor=predictor, pixel_decoder=nn.GroupNorm(1, 4)),
    )


def test_what_is_trained() -> None:
    model = tiny()
    trained = freeze_as_published(model)
    assert {name.removeprefix("sem_seg_head.predictor.") for name in trained} == {
        "transformer_ffn_layers.0.linear1.weight",
        "transformer_ffn_layers.0.linear1.bias",
        "transformer_ffn_layers.0.norm.weight",
        "transformer_ffn_layers.0.norm.bias",
        "mask_embed.weight",
        "mask_embed.bias",
        "text_decoder.words.weight",
        "text_decoder.output.bias",
        "class_embed",
    }
    assert [n for n, p in model.named_parameters() if p.requires_grad] == trained


def test_groups() -> None:
    model = tiny()
    freeze_as_published(model)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {
        (group["lr"], group["weight_decay"]): {names[id(p)].split(".")[-2:][0] + "." +
                                               names[id(p)].split(".")[-1] for p in group["params"]}
        for group in optimizer_groups(model)
    }  # fmt: skip
    assert groups == {
        (1e-4, 0.05): {
            "linear1.weight",
            "linear1.bias",  # of a linear layer: it does decay
            "mask_embed.weight",
            "mask_embed.bias",
            "output.bias",
            "predictor.class_embed",
        },
        (1e-4, 0.0): {"norm.weight", "norm.bias", "words.weight"},
    }
    model.requires_grad_(True)
    slow = [group for group in optimizer_groups(model) if group["lr"] == pytest.approx(1e-5)]
    assert sum(len(group["params"]) for group in slow) == 4  # backbone and text encoder


def test_names_may_be_ours() -> None:
    model = module(tower=nn.Linear(2, 2), queries=nn.Linear(2, 2))
    renamed = {"tower": "backbone", "queries": "sem_seg_head.predictor.object_proj"}

    def published(name: str) -> str:
        start, end = name.split(".")
        return f"{renamed[start]}.{end}"

    trained = freeze_as_published(model, published)
    assert trained == [f"sem_seg_head.predictor.object_proj.{end}" for end in ("weight", "bias")]
    model.requires_grad_(True)
    assert {group["lr"] for group in optimizer_groups(model, published=published)} == {1e-4, 1e-5}


def test_steps_of_the_learning_rate() -> None:
    factors = [learning_rate_factor(step, 1000) for step in (0, 888, 889, 962, 963, 999)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_published_model_trains_106_million_parameters() -> None:
    model = Pix2CapModel(Pix2CapConfig())
    freeze_as_published(model, PUBLISHED.published)
    groups = optimizer_groups(model, published=PUBLISHED.published)
    sizes = [sum(parameter.numel() for parameter in group["params"]) for group in groups]
    assert round(sum(sizes) / 1e6, 1) == 106.0
    assert {group["lr"] for group in groups} == {1e-4}
    exempt = next(group["params"] for group in groups if group["weight_decay"] == 0)
    # Words and positions of captions; all others are vectors of norms.
    assert sorted(parameter.shape[0] for parameter in exempt if parameter.dim() > 1) == [
        1024,
        30522,
    ]
