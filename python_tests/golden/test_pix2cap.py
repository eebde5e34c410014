"""Pix2Cap's network against numbers of the published code: their weight names in, theirs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import GoldenCase, golden_cases
from torch import Tensor, nn
from torch.nn import functional as F

from fastregion.language import Generated
from fastregion.models.patterns import fits
from fastregion.models.pix2cap import Pix2CapCaptioner
from fastregion.models.pix2cap.captions import BEGIN, END
from fastregion.models.pix2cap.modeling import Pix2CapModel
from fastregion.models.pix2cap.output import Pix2CapOutput
from fastregion.models.pix2cap.pixel_decoder import PixelDecoder
from fastregion.models.pix2cap.targets import Targets
from fastregion.models.pix2cap.templates import TEMPLATES
from fastregion.models.pix2cap.transformer_decoder import outside_masks
from fastregion.training.recipe import read_recipe
from fastregion.training.systems.pix2cap import Pix2CapBatch, Pix2CapTask

FEATURES, LOGITS = 2e-4, 1e-3
LENGTHS = 1e-3  # of gradients, relative


def distance(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one.detach().double() - other.double()).abs().max())


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, f"{what}: {actual.shape} and {expected.shape}"
    error = distance(actual, expected)
    assert error <= tolerance, f"{what}: differs by {error:.2e}, more than {tolerance:.0e}"


@lru_cache(maxsize=4)
def _loaded(folder: Path) -> Pix2CapCaptioner:
    with torch.inference_mode(False):  # whichever test comes first: one trains it
        return Pix2CapCaptioner.from_published(folder / "weights.safetensors")


def captioner_of(case: GoldenCase) -> Pix2CapCaptioner:
    captioner = _loaded(case.folder)
    captioner.model.eval().requires_grad_(True).zero_grad(set_to_none=True)
    return captioner


def recorded(case: GoldenCase, prefix: str) -> dict[str, Tensor]:
    found = case.tensors("outputs")
    return {key[len(prefix) :]: value for key, value in found.items() if key.startswith(prefix)}


def predictions(model: Pix2CapModel, expected: dict[str, Tensor]) -> list[Pix2CapOutput]:
    """Of every layer, that of the learned queries first."""
    output = model(expected["padded_images"], expected["text_embeddings"], auxiliary=True)
    assert all(not one.auxiliary for one in output.auxiliary)
    return [*output.auxiliary, output]


@golden_cases("pix2cap", "model")
@torch.inference_mode()
def test_class_names(case: GoldenCase) -> None:
    captioner, expected = captioner_of(case), recorded(case, "eval.")
    encoder, names = captioner.model.text_encoder, captioner.config.class_names
    found = encoder.embed_classes(names, captioner.class_tokenizer)
    assert_close(found, expected["text_embeddings"], FEATURES, "text_embeddings")
    assert torch.equal(captioner.text_embeddings(names[:-1]), found)
    # The same from the published token ids, whatever our tokenizer makes of the words.
    ids = expected["prompt_token_ids"]
    end = int(ids.max())
    texts = [text[: text.index(end) + 1] for text in ids.flatten(0, 1).tolist()]
    vectors = encoder.embed_tokens(texts).view(*ids.shape[:2], -1)
    mean = F.normalize(vectors.mean(1), dim=-1)
    assert_close(mean, expected["text_embeddings"], FEATURES, "text_embeddings of ids")
    sentences = case.json("outputs.json")["train.prompts"]
    drawn = encoder.embed_texts(sentences, captioner.class_tokenizer)
    assert_close(drawn, recorded(case, "train.")["text_embeddings"], FEATURES, "drawn sentences")
    one = encoder.embed_classes(names, captioner.class_tokenizer, TEMPLATES[:1])
    assert distance(one, found) > 5 * FEATURES, "all templates count"


@golden_cases("pix2cap", "model")
@torch.inference_mode()
def test_backbone_and_pixel_decoder(case: GoldenCase) -> None:
    model, expected = captioner_of(case).model, recorded(case, "eval.")
    features = model.backbone(expected["padded_images"])
    for index, feature in enumerate(features):
        name = f"backbone.res{index + 2}"
        assert_close(feature, expected[name], FEATURES, name)
    encoded = model.pixel_decoder.encode(features[-1])
    name = "pixel_decoder.transformer_encoder_features"
    assert_close(encoded, expected[name], FEATURES, name)
    decoded = model.pixel_decoder(features)
    name = "pixel_decoder.mask_features"
    assert_close(decoded.mask_features, expected[name], FEATURES, name)
    for index, feature in enumerate(decoded.maps):
        name = f"pixel_decoder.multi_scale_{index}"
        assert_close(feature, expected[name], FEATURES, name)


@golden_cases("pix2cap", "model")
@torch.inference_mode()
def test_transformer_decoder(case: GoldenCase) -> None:
    model, expected = captioner_of(case).model, recorded(case, "eval.")
    layers = predictions(model, expected)
    assert len(layers) == model.config.decoder.dec_layers
    sizes = [expected[f"pixel_decoder.multi_scale_{level}"].shape[2:] for level in range(3)]
    for index, found in enumerate(layers):
        for name, value, tolerance in (
            ("queries", found.queries, FEATURES),
            ("pred_logits", found.class_logits, LOGITS),
            ("pred_masks", found.mask_logits, LOGITS),
            ("pred_boxes", found.boxes, FEATURES),
        ):
            key = f"decoder.layer{index}.{name}"
            assert_close(value, expected[key], tolerance, key)
        size = sizes[index % 3]
        outside = outside_masks(found.mask_logits, (size[0], size[1]))
        # A place may only be judged differently where the mask's logit is 0 but for rounding.
        different = outside != expected[f"decoder.layer{index}.attn_mask"].bool()
        logits = F.interpolate(
            found.mask_logits, size, mode="bicubic", align_corners=False, antialias=True
        )
        assert (logits.flatten(2)[different].abs() < LOGITS).all(), f"attn_mask of layer {index}"
    features = layers[-1].object_features.flatten(0, 1)
    assert_close(features, expected["object_features"], FEATURES, "object_features")
    image = model.predictor.object_proj(expected["global_image_feature"])
    each = image.repeat_interleave(model.config.decoder.num_object_queries - 1, 0)
    assert_close(features[:, 1], each, FEATURES, "global_image_feature")
    plain = model(expected["padded_images"], expected["text_embeddings"])
    assert plain.auxiliary == ()
    assert torch.equal(plain.class_logits, layers[-1].class_logits)


def written(found: Sequence[Generated], begin: int, end: int, width: int) -> list[list[int]]:
    """Token ids as the published search returns them: the begin token, then end tokens."""
    return [
        ([begin, *one.token_ids] + [end] * width)[: max(width, 1 + len(one.token_ids))]
        for one in found
    ]


@golden_cases("pix2cap", "model")
@torch.inference_mode()
def test_captions(case: GoldenCase) -> None:
    captioner, expected = captioner_of(case), recorded(case, "eval.")
    tokenizer, features = captioner.tokenizer, expected["object_features"]
    begin, end = tokenizer.token_id(BEGIN), tokenizer.token_id(END)

    def check(found: Sequence[Generated], name: str) -> bool:
        ids = expected[f"{name}.ids"]
        if written(found, begin, end, ids.shape[1]) != ids.tolist():
            return False
        means = torch.tensor([sum(one.logprobs) / len(one.logprobs) for one in found])
        assert_close(means, expected[f"{name}.logprobs"], LOGITS, f"{name}.logprobs")
        return True

    greedy = captioner.caption(features)
    assert check(greedy, "greedy")
    texts = case.json("outputs.json")["eval.greedy.text"]
    assert [one.text for one in greedy] == [text for image in texts for text in image]
    # The case does not say how many beams there were.
    searches = [captioner.caption(features, num_beams=beams) for beams in range(2, 7)]
    assert any(check(search, "beam") for search in searches)
    # One object by itself is told the same.
    assert captioner.caption(features[3:4])[0].token_ids == greedy[3].token_ids
    # What this would find: a word that follows itself.
    head = captioner.model.caption_head
    free = head.step_decoder()
    prompts = head.prompts(features, begin)
    cache = free.new_cache(prompts)
    first = free.logits(free.prefill(prompts, cache)[2::3]).argmax(-1)
    assert (free.step(first, cache).gather(1, first[:, None]) == -10000).all()


def frozen_as_published(task: Pix2CapTask) -> list[str]:
    """Freeze what the packaged recipe freezes; gives the names of what is trained."""
    patterns, named = read_recipe("pix2cap").train, task.parameters()
    for name, parameter in named.items():
        parameter.requires_grad_(fits(name, patterns))
    return [name for name, parameter in named.items() if parameter.requires_grad]


@golden_cases("pix2cap", "model")
def test_training_step(case: GoldenCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions under teacher forcing, all losses and the gradient of every parameter.

    The trainer's own step, from pictures, prompts and points.
    """
    captioner, expected = captioner_of(case), recorded(case, "train.")
    about, inputs = case.json("outputs.json"), case.tensors("inputs")
    task = Pix2CapTask(captioner)
    step, model = task.step, captioner.model
    trained = frozen_as_published(task)
    step.train()
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    kept = [module.p for module in dropouts]
    for module in dropouts:
        module.p = 0.0
    logits: list[Tensor] = []
    tokens: list[Tensor] = []

    taught = step.taught

    def watched(features: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        found, wanted = taught(features, captions)
        logits.append(found)
        tokens.append(wanted)
        return found, wanted

    points = iter([expected[key] for key in sorted(expected) if key.startswith("rand.")])
    monkeypatch.setattr(step, "taught", watched)
    monkeypatch.setattr(step, "points", lambda _: lambda *_: next(points))
    images = range(len(about["captions"]))
    batch = Pix2CapBatch(
        images=tuple(inputs[f"image{b}"] for b in images),
        targets=tuple(
            Targets(
                inputs[f"gt_classes{b}"], inputs[f"gt_masks{b}"].bool(), tuple(about["captions"][b])
            )
            for b in images
        ),
        sentences=tuple(about["train.prompts"]),
    )
    loss = step(batch)
    torch.testing.assert_close(loss.total.detach(), expected["loss_total"], rtol=1e-4, atol=0)
    assert loss.targets == 1
    assert loss.parts.keys() == about["train.weight_dict"].keys()
    for name, part in loss.parts.items():
        torch.testing.assert_close(
            part, expected[f"loss_weighted.{name}"], rtol=1e-3, atol=1e-6, msg=name
        )
    loss.total.backward()
    for module, p in zip(dropouts, kept, strict=True):
        module.p = p

    assert torch.equal(tokens[0], expected["caption_targets"])
    last = model.config.decoder.dec_layers - 1
    for index, found in enumerate(logits):
        name = f"layer{last - index}.caption_logits"
        assert_close(found, expected[name], LOGITS, name)
    published = captioner.layout.published
    lengths = {
        published(name): float(p.grad.norm())
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    assert lengths.keys() == set(trained)
    tied = "sem_seg_head.predictor.text_decoder.textual."
    for name, length in about["train.grad_norms"].items():
        if name == f"{tied}output.weight" and name not in lengths:
            name = f"{tied}embedding.words.weight"
        assert lengths[name] == pytest.approx(length, rel=LENGTHS, abs=1e-6), name


@golden_cases("pix2cap", "model")
def test_segments_with_captions(case: GoldenCase) -> None:
    """The whole way behind the pixels: categories, scores and captions of what is kept."""
    captioner, expected = captioner_of(case), recorded(case, "eval.")
    about = case.json("outputs.json")
    with torch.inference_mode():
        output = predictions(captioner.model, expected)[-1]
    for k, wanted in enumerate(about["output_sizes"]):
        shape = case.image(f"image{k}").shape[:2]
        height, width = (side or own for side, own in zip(wanted, shape, strict=True))
        one = replace(
            output,
            **{
                name: getattr(output, name)[k : k + 1]
                for name in ("class_logits", "mask_logits", "object_features")
            },
            auxiliary=(),
        )
        found = captioner.merge(
            one,
            shape,
            (height, width),
            categories=captioner.config.categories,
            inference=captioner.config.inference,
            num_beams=1,
        )
        assert [
            {
                "id": segment.id,
                "isthing": segment.category.isthing,
                "category_id": segment.category.id - 1,
                "caption": segment.caption,
            }
            for segment in found
        ] == about[f"eval.final{k}.segments_info"]
        panoptic = torch.zeros(height, width, dtype=torch.int32)
        for segment in found:
            assert segment.id is not None
            panoptic[torch.from_numpy(segment.mask)] = int(segment.id)
        assert torch.equal(panoptic, expected[f"final{k}.panoptic_seg"])


def _without_bias(layer: nn.Module) -> None:
    assert isinstance(layer.bias, Tensor)
    layer.bias.zero_()


PARTS: dict[str, Callable[[Pix2CapModel], Any]] = {
    "focal levels": lambda m: (
        m.backbone.layers[1].blocks[0].modulation.focal_layers[0][0].weight.zero_()
    ),
    "modulator": lambda m: _without_bias(m.backbone.layers[0].blocks[0].modulation.h),
    "layer scale": lambda m: m.backbone.layers[2].blocks[0].gamma_1.mul_(1.1),
    "adapters": lambda m: m.pixel_decoder.adapter_2.norm.bias.add_(0.1),
    "encoder": lambda m: m.pixel_decoder.transformer.encoder.layers[0].linear1.bias.add_(0.1),
    "level embedding": lambda m: m.predictor.level_embed.weight[1].zero_(),
    "query positions": lambda m: m.predictor.query_embed.weight.zero_(),
    "class token": lambda m: m.predictor.self_attn_mask.zero_(),
    "class projection": lambda m: m.predictor.class_embed.mul_(
        torch.linspace(0.5, 1, m.predictor.class_embed.shape[1])
    ),
    "scale": lambda m: m.predictor.lang_encoder.logit_scale.add_(0.1),
    "objects": lambda m: _without_bias(m.predictor.object_proj),
}


@golden_cases("pix2cap", "model")
@pytest.mark.parametrize("part", PARTS)
@torch.inference_mode()
def test_every_part_counts(case: GoldenCase, part: str) -> None:
    """What the tests above would find if a part were switched off or changed."""
    model, expected = captioner_of(case).model, recorded(case, "eval.")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        PARTS[part](model)
        found = predictions(model, expected)[-1]
    finally:
        for name, value in model.state_dict().items():
            value.copy_(before[name])
    last = f"decoder.layer{model.config.decoder.dec_layers - 1}."
    errors = (
        distance(found.queries, expected[f"{last}queries"]) / FEATURES,
        distance(found.class_logits, expected[f"{last}pred_logits"]) / LOGITS,
        distance(found.mask_logits, expected[f"{last}pred_masks"]) / LOGITS,
        distance(found.object_features.flatten(0, 1), expected["object_features"]) / FEATURES,
    )
    assert max(errors) > 5


@golden_cases("pix2cap", "model")
@torch.inference_mode()
def test_positions_and_masks_count(case: GoldenCase, monkeypatch: pytest.MonkeyPatch) -> None:
    model, expected = captioner_of(case).model, recorded(case, "eval.")
    module = "fastregion.models.pix2cap.transformer_decoder"
    name = f"decoder.layer{model.config.decoder.dec_layers - 1}.pred_masks"

    def error() -> float:
        return distance(predictions(model, expected)[-1].mask_logits, expected[name])

    assert error() <= LOGITS
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.sine_positions", lambda h, w, c, like: like.new_zeros(h * w, c))
        assert error() > 5 * LOGITS
    with monkeypatch.context() as patch:

        def everywhere(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
            return torch.zeros(*mask_logits.shape[:2], size[0] * size[1], dtype=torch.bool)

        patch.setattr(f"{module}.outside_masks", everywhere)
        assert error() > 5 * LOGITS
    with monkeypatch.context() as patch:
        plain = PixelDecoder._layer
        patch.setattr(PixelDecoder, "_layer", lambda self, i, x: plain(self, i, x).roll(1, -1))
        assert error() > 5 * LOGITS
