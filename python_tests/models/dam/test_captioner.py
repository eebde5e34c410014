"""DAM as a captioner, on a tiny model with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_dam
import torch
from captioner_checks import NEW, check_batches

from fastregion.models.dam import DamCaptioner
from fastregion.models.dam.modeling import PromptLayout
from fastregion.models.dam.processing import sample_frames
from fastregion.models.dam.prompts import IMAGE_TOKEN_ID, MULTI_VIEW_INSTRUCTION
from fastregion.models.request import RegionRequest, VideoRequest
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.regions import Region

SIZE = (50, 170)
OTHER_SIZE = r"mask: expected shape \(50, 170\) to match the image, got \(20, 30\)"
BOXES = [
    (0, 0, 9, 9), (40, 30, 70, 50), (102, 30, 120, 48), (45, 3, 60, 12), (5, 5, 165, 45),
    (30, 20, 41, 31), (0, 40, 70, 50),
]  # fmt: skip


@pytest.fixture(scope="module")
def captioner() -> DamCaptioner:
    return tiny_dam.captioner()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def regions() -> list[Region]:
    return [Region.from_box(box, SIZE) for box in BOXES]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_batched_equals_one_by_one(
    captioner: DamCaptioner, image: np.ndarray, regions: list[Region], count: int
) -> None:
    check_batches(captioner, image, regions[:count])


def test_the_text_in_front_of_images_is_shared(
    captioner: DamCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    batch = captioner.process(RegionRequest(image, tuple(regions[:3])))
    with torch.inference_mode():
        shared = captioner.encode(batch)
        alone = captioner.model.pack(batch.prompts, captioner.model.embed_frames(batch.views))
    assert isinstance(shared, SharedPrompts)
    assert len(shared.prefixes) == 1
    assert shared.prefixes.total_tokens > 100
    for k in range(3):
        rest, whole = shared.prompts.select([k]), alone.select([k])
        found = torch.cat((shared.prefixes.embeddings, rest.embeddings))
        torch.testing.assert_close(found, whole.embeddings)
        assert torch.equal(torch.cat((shared.prefixes.positions, rest.positions)), whole.positions)


def test_several_images(captioner: DamCaptioner, image: np.ndarray, regions: list[Region]) -> None:
    other = np.ascontiguousarray(image[:, ::-1][:40])
    boxes = [(3, 3, 30, 20)]
    expected = [
        captioner.describe(image, regions[:2], **NEW), captioner.describe(other, boxes, **NEW)
    ]  # fmt: skip
    for batch_size in (None, 2):
        found = captioner.describe_images(
            [image, other], [regions[:2], boxes], batch_size=batch_size, **NEW
        )
        assert found == expected
    with pytest.raises(ValueError, match="regions: expected those of each of 2 images, got 1"):
        captioner.describe_images([image, other], [boxes])


def test_scores_and_streams(
    captioner: DamCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    scores = captioner.score(image, regions[:2], ["a thing", "a thing"])
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(captioner.score(image, regions[0], "a thing"), abs=1e-4)
    texts = captioner.describe(image, regions[:2], **NEW)
    pieces = ["", ""]
    for index, piece in captioner.describe(image, regions[:2], stream=True, **NEW):
        pieces[index] += piece
    assert pieces == texts


def test_released_generation(
    captioner: DamCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    settings = {**DamCaptioner.released_generation, **NEW}
    first = captioner.describe(image, regions[:2], seed=1, **settings)
    assert captioner.describe(image, regions[:2], seed=1, **settings) == first
    certain = captioner.describe(image, regions[:2], temperature=5.0, top_k=1, **NEW)
    assert certain == captioner.describe(image, regions[:2], **NEW)


def test_prompts(captioner: DamCaptioner, image: np.ndarray, regions: list[Region]) -> None:
    def text(asked: DamCaptioner, instruction: str | None) -> str:
        request = RegionRequest(image, (regions[0],), instruction)
        (prompt,) = asked.process(request).prompts
        found = [i for i in prompt.input_ids if i != IMAGE_TOKEN_ID]
        return asked.tokenizer.decode(found, skip_special_tokens=False)

    assert text(captioner, None).endswith(
        "USER: \nDescribe the masked region in detail. ASSISTANT:"
    )
    assert text(captioner, "What is <Prompt0>?").endswith(
        "USER: \nWhat is the masked region? ASSISTANT:"
    )
    joint = tiny_dam.captioner(image_video_joint=True)
    assert "USER: Image: \nGiven the image above" in text(joint, None)
    with pytest.raises(ValueError, match="must not contain the placeholder '<image>'"):
        captioner.describe(image, regions[0], prompt="<image> again")
    with pytest.raises(NotImplementedError, match="one region at a time, got 2"):
        captioner.ask(image, regions[:2], "Is <Prompt0> on <Prompt1>?")
    with pytest.raises(ValueError, match="prompt: must have at most 2048 tokens"):
        captioner.describe(image, regions[0], prompt="x" * 2048)


def test_video(captioner: DamCaptioner, image: np.ndarray, regions: list[Region]) -> None:
    frames = [np.roll(image, 5 * k, 1) for k in range(20)]
    masks = [None if k < 3 else np.roll(regions[1].mask, 5 * k, 1) for k in range(20)]
    seen = tuple(None if m is None else Region.from_mask(m) for m in masks)
    batch = captioner.process(VideoRequest(tuple(frames), (seen,)))
    (prompt,) = batch.prompts
    assert len(batch.views) == list(prompt.input_ids).count(IMAGE_TOKEN_ID) == 8
    assert prompt.frames == tuple(range(8))
    assert sample_frames(17, 8) == [0, 2, 4, 6, 9, 11, 13, 16]  # of the frames 3 to 19
    first = captioner.process(RegionRequest(frames[3], (seen[3],)))
    assert torch.equal(batch.views[0], first.views[0])
    short = captioner.process(VideoRequest(tuple(frames[:4]), (seen[:4],)))
    assert short.prompts[0].frames == (0,) * 8  # seen once, looked at eight times
    answer = captioner.describe(frames, masks, **NEW)
    two = captioner.describe(frames, [masks, masks[::-1]], **NEW)
    assert len(two) == 2
    assert two[0] == answer
    views = captioner.describe(frames, masks, prompt=MULTI_VIEW_INSTRUCTION, **NEW)
    assert isinstance(views, str)


def test_one_mask_of_a_video(image: np.ndarray, regions: list[Region]) -> None:
    captioner = tiny_dam.captioner()
    frames = [image, image[:, ::-1]]
    mask = regions[2].mask
    with pytest.raises(NotImplementedError, match="set propagate of the captioner"):
        captioner.describe(frames, mask, **NEW)
    asked = []

    def mirror(given: object, region: Region) -> list[np.ndarray]:
        asked.append((given, region))
        return [region.mask, region.mask[:, ::-1]]

    captioner.propagate = mirror
    found = captioner.describe(frames, mask, **NEW)
    assert found == captioner.describe(frames, [mask, mask[:, ::-1]], **NEW)
    ((given, region),) = asked
    assert len(given) == 2
    assert np.array_equal(region.mask, mask)


@pytest.mark.parametrize(
    ("frames", "regions", "message"),
    [
        (None, np.zeros(SIZE, bool), "mask: is empty"),
        (None, np.ones((20, 30), bool), OTHER_SIZE),
        (3, [np.ones(SIZE, bool)] * 2, "expected one for each of 3 frames, got 2"),
        (2, [np.zeros(SIZE, bool)] * 2, "must be in at least one frame"),
        (2, [np.ones(SIZE, bool), np.ones((20, 30), bool)], OTHER_SIZE),
        (2, np.ones((2, 20, 30), np.uint8), OTHER_SIZE),
    ],
    ids=["empty", "another size", "another number", "all empty", "one of another size", "array"],
)
def test_refused_masks(
    captioner: DamCaptioner, image: np.ndarray, frames: int | None, regions: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        captioner.describe(image if frames is None else [image] * frames, regions, **NEW)


def test_images_without_a_region(captioner: DamCaptioner, image: np.ndarray) -> None:
    """Where the crop is the picture the adapters are left out, frame by frame."""
    whole = captioner.process(RegionRequest(image, (Region.from_box((0, 0, 170, 50), SIZE),)))
    part = captioner.process(RegionRequest(image, (Region.from_box((0, 0, 9, 9), SIZE),)))
    model = captioner.model
    with torch.inference_mode():
        both = model.localized_features(torch.cat((whole.views, part.views)))
        bare = model._tower(whole.views[:, :4])
        torch.testing.assert_close(both[:1], bare)
        torch.testing.assert_close(both[1:], model.localized_features(part.views))
        assert not torch.allclose(both[1:], model._tower(part.views[:, 4:]))


def test_new_adapters_change_nothing(image: np.ndarray, regions: list[Region]) -> None:
    """Gates of zero: the model is the base model on the crop, for both formulas."""
    for formula in ("released", "paper"):
        captioner = tiny_dam.captioner(adapter_formula=formula)
        batch = captioner.process(RegionRequest(image, (regions[0],)))
        model = captioner.model
        with torch.inference_mode():
            trained = model.localized_features(batch.views)
            for block in model.context_provider.blocks:
                block.attn_factor.zero_()
                block.mlp_factor.zero_()
            found = model.localized_features(batch.views)
            torch.testing.assert_close(found, model._tower(batch.views[:, 4:]))
        assert not torch.allclose(trained, found)


def test_paper_formula(image: np.ndarray, regions: list[Region]) -> None:
    captioner = tiny_dam.captioner(adapter_formula="paper")
    block = captioner.model.context_provider.blocks[0]
    h, z = torch.randn(2, 1, 9, 32)
    attended = block.cross_attn(block.layer_norm1(h), z)
    expected = h + block.attn_factor.tanh() * attended  # Eq. 6
    expected = expected + block.mlp_factor.tanh() * block.mlp(block.layer_norm2(h))  # Eq. 7
    torch.testing.assert_close(block(h, z), expected)
    with pytest.raises(ValueError, match="adapter_formula: must be 'released'"):
        captioner.save_published("nowhere")


def test_gates_may_be_missing(image: np.ndarray, regions: list[Region]) -> None:
    captioner = tiny_dam.captioner(zero_init_output=False)
    names = dict(captioner.model.named_parameters())
    assert not any("factor" in name for name in names)
    gated = tiny_dam.captioner()
    gated.model.load_state_dict(captioner.model.state_dict(), strict=False)
    views = captioner.process(RegionRequest(image, (regions[0],))).views
    with torch.inference_mode():
        for block in gated.model.context_provider.blocks:
            block.attn_factor.fill_(1)
            block.mlp_factor.fill_(1)
        torch.testing.assert_close(
            captioner.model.localized_features(views), gated.model.localized_features(views)
        )


def test_freezing_and_training(image: np.ndarray, regions: list[Region]) -> None:
    captioner = tiny_dam.captioner()
    trained = captioner.freeze("llm.*", "vision_tower.*")
    assert trained
    assert all(name.startswith(("mm_projector.", "context_provider.")) for name in trained)
    batch = captioner.process(RegionRequest(image, tuple(regions[:2])))
    model = captioner.model.train()
    layouts = [
        PromptLayout(
            input_ids=[*prompt.input_ids, 7],
            frames=prompt.frames,
            labels=[-100] * len(prompt.input_ids) + [7],
        )
        for prompt in batch.prompts
    ]
    losses = []
    for checkpointing in (False, True):
        model.set_gradient_checkpointing(checkpointing)
        model.zero_grad()
        loss = model.loss(model.pack(layouts, model.embed_frames(batch.views)))
        loss.backward()
        losses.append((loss.item(), model.mm_projector.layers[2].weight.grad.clone()))
    torch.testing.assert_close(losses[0], losses[1])
    assert model.llm.model.embed_tokens.weight.grad is None
    assert model.context_provider.blocks[0].attn_factor.grad.abs() > 0
    assert len(captioner.freeze()) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="patterns: 'tower' fits no parameter"):
        captioner.freeze("tower")
    wet = tiny_dam.captioner(residual_dropout=0.1)
    wet.describe(image, regions[0], **NEW)
    with pytest.raises(NotImplementedError, match="residual_dropout is not supported"):
        wet.model.train().embed_frames(batch.views)
