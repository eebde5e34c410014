"""GAR as a captioner, on a tiny model with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_gar
import torch
from captioner_checks import NEW, check_batches, token_ids
from PIL import Image

from fastregion.language import generate
from fastregion.models.gar import GarCaptioner
from fastregion.models.gar.batch import GarBatch
from fastregion.models.gar.captioner import _rows
from fastregion.models.gar.modeling import PromptLayout
from fastregion.models.gar.processing import choose_grid, cut_masks
from fastregion.models.request import RegionRequest, VideoRequest
from fastregion.ops import BitMasks
from fastregion.regions import Region

SIZE = (50, 70)


@pytest.fixture(scope="module")
def captioner() -> GarCaptioner:
    return tiny_gar.captioner(large=False)  # a tied head of random weights repeats its input


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def regions() -> list[Region]:
    boxes = [
        (0, 0, 9, 9), (40, 30, 70, 50), (2, 30, 20, 48), (45, 3, 60, 12), (5, 5, 65, 45),
        (30, 20, 41, 31), (0, 40, 70, 50),
    ]  # fmt: skip
    return [Region.from_box(box, SIZE) for box in boxes]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_batched_equals_one_by_one(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region], count: int
) -> None:
    check_batches(captioner, image, regions[:count])


def test_ragged_prompts(captioner: GarCaptioner, image: np.ndarray, regions: list[Region]) -> None:
    """Prompts of one and of several regions, of other lengths, in one batch."""
    prompts = []
    for request in (
        RegionRequest(image, tuple(regions[:1]), "Name <Prompt0>."),
        RegionRequest(image, tuple(regions[:3]), "<Prompt2> <Prompt0> <Prompt1>?", joint=True),
    ):
        with torch.inference_mode():
            prompts.append(captioner.encode(captioner.process(request)))
    one, three = prompts
    assert three.total_tokens - one.total_tokens > 2 * captioner.config.tokens_per_tile
    answer = captioner.ask(image, regions[:3], "<Prompt2> <Prompt0> <Prompt1>?", **NEW)
    assert isinstance(answer, str)


def test_ragged_prompts_equal_one_by_one(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    """Prompts of different length, generated in one batch and each by itself."""
    one, three = (
        captioner.process(RegionRequest(image, tuple(regions[:1]), "Name <Prompt0>.")),
        captioner.process(
            RegionRequest(image, tuple(regions[:3]), "<Prompt2> <Prompt0> <Prompt1>?", joint=True)
        ),
    )
    looks, replays = len(one.looks), len(one.grids)
    moved = [
        replace(
            prompt,
            tiles=[looks + row for row in prompt.tiles],
            regions={token: replays + row for token, row in prompt.regions.items()},
        )
        for prompt in three.prompts
    ]
    both = replace(
        one,
        looks=one.looks + three.looks,
        masks=BitMasks(torch.cat((one.masks.words, three.masks.words)), one.masks.width),
        grids=(*one.grids, *((tuple(looks + k for k in rows), g) for rows, g in three.grids)),
        boxes=torch.cat((one.boxes, three.boxes)),
        prompts=(*one.prompts, *moved),
        kept={},
    )
    assert len(three.prompts[0].input_ids) > len(one.prompts[0].input_ids) + 30

    def answers(batch: GarBatch) -> list[list[int]]:
        with torch.inference_mode():
            prompts = captioner.encode(batch)
        options = {"eos_token_ids": captioner.eos_token_ids, **NEW}
        return [found.token_ids for found in generate(captioner.decoder, prompts, **options)]

    assert answers(both) == answers(one) + answers(three)


def test_video_objects_seen_in_other_numbers_of_frames(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    """Prompts of different length in one request: together as alone."""
    frames = [np.roll(image, 5 * k, 1) for k in range(6)]
    always = [np.roll(regions[1].mask, 5 * k, 1) for k in range(6)]
    at_times = [None if k % 2 else regions[k].mask for k in range(6)]
    request = VideoRequest.of(tuple(frames), [always, at_times], None)[0]
    longer, shorter = (prompt.input_ids for prompt in captioner.process(request).prompts)
    assert len(longer) == len(shorter) + 3 * captioner.config.tokens_per_tile
    alone = [
        list(captioner.describe(frames, masks, return_details=True, **NEW).token_ids)
        for masks in (always, at_times)
    ]
    assert token_ids(captioner, frames, [always, at_times]) == alone
    assert alone[0] != alone[1]


def test_tiles_that_a_region_does_not_touch_are_encoded_once(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[int] = []
    embed = captioner.model.embed_tiles

    def counted(pixels: torch.Tensor, masks: object) -> torch.Tensor:
        seen.append(len(pixels))
        return embed(pixels, masks)

    chosen = regions[:4]
    request = RegionRequest(image, tuple(chosen))
    separate = [
        captioner.encode(captioner.process(RegionRequest(image, (region,)))) for region in chosen
    ]
    monkeypatch.setattr(captioner.model, "embed_tiles", counted)
    with torch.inference_mode():
        parts = [captioner.encode(captioner.process(part)) for part in request.split(2)]
        whole = captioner.encode(captioner.process(RegionRequest(image, tuple(chosen))))
    tiles = len(captioner.process(request).tiles)
    assert tiles == 5
    # The thumbnail and the touched tile of each region, and the four tiles as they are.
    assert sum(seen) <= 2 * (4 * 2 + 4)
    assert sum(seen) < 2 * 4 * tiles
    expected = torch.cat([prompt.embeddings for prompt in separate])
    torch.testing.assert_close(whole.embeddings, expected, rtol=1e-5, atol=1e-5)
    joined = torch.cat([part.embeddings for part in parts])
    torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-5)


def test_prompt_has_two_bos_and_the_published_layout(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    (prompt,) = captioner.process(RegionRequest(image, (regions[0],))).prompts
    token = captioner.tokenizer.token_id
    tiles, per_tile = 5, captioner.config.tokens_per_tile
    assert list(prompt.input_ids[:3]) == [token(t) for t in (
        "<|begin_of_text|>", "<|begin_of_text|>", "<|start_header_id|>")]  # fmt: skip
    assert prompt.input_ids.count(token("<|image|>")) == tiles * per_tile
    assert prompt.input_ids.count(token("<|reserved_special_token_3|>")) == per_tile
    text = captioner.tokenizer.decode(
        [i for i in prompt.input_ids if i != token("<|image|>")], skip_special_tokens=False
    )
    assert "about: <Prompt1>;\n<Prompt1>: <|res" in text
    assert "|>Describe this masked region in detail.<|eot_id|>" in text


def test_instructions_name_the_region(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    request = RegionRequest(image, (regions[0],), "What is <Prompt0>?")
    (prompt,) = captioner.process(request).prompts
    text = captioner.tokenizer.decode(prompt.input_ids[-60:], skip_special_tokens=False)
    assert "What is <Prompt1>?<|eot_id|>" in text


def test_shared_prompts(captioner: GarCaptioner, image: np.ndarray, regions: list[Region]) -> None:
    batch = captioner.process(RegionRequest(image, tuple(regions), share=True))
    token = captioner.tokenizer.token_id
    # Up to five regions stand behind the same image, in which all of them are marked.
    assert batch.prefix_of == (0, 0, 0, 0, 0, 1, 1)
    assert batch.prefixes[0].tiles != batch.prefixes[1].tiles
    for prefix in batch.prefixes:
        count = prefix.input_ids.count(token("<|image|>"))
        assert count == len(batch.tiles) * captioner.config.tokens_per_tile
    for index, prompt in enumerate(batch.prompts):
        name = index if index < 5 else index - 5
        found = {i for i in prompt.input_ids if i in captioner.config.crop_tokens_ids}
        assert found == {captioner.config.crop_tokens_ids[name]}
        assert prompt.start == len(batch.prefixes[batch.prefix_of[index]].input_ids)
        assert prompt.input_ids[0] == token(f"<Prompt{name}>")
        assert not prompt.tiles
    texts = captioner.describe(image, regions, share="prompts", **NEW)
    assert len(texts) == 7
    # Groups stay whole, whatever the batch size.
    assert token_ids(captioner, image, regions, share="prompts") == token_ids(
        captioner, image, regions, share="prompts", batch_size=1
    )


def test_shared_prompts_are_the_whole_prompts(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    """Reading a beginning once gives the answers of reading it with every prompt."""
    batch = captioner.process(RegionRequest(image, tuple(regions), share=True))
    whole = [
        replace(
            batch.prefixes[index],
            input_ids=[*batch.prefixes[index].input_ids, *prompt.input_ids],
            regions=prompt.regions,
        )
        for index, prompt in zip(batch.prefix_of, batch.prompts, strict=True)
    ]
    with torch.inference_mode():
        prompts = captioner.encode(replace(batch, prompts=whole, prefixes=(), prefix_of=()))
    expected = generate(captioner.decoder, prompts, eos_token_ids=captioner.eos_token_ids, **NEW)
    found = token_ids(captioner, image, regions, share="prompts")
    assert found == [one.token_ids for one in expected]


def test_boxes_of_the_published_evaluation(image: np.ndarray, regions: list[Region]) -> None:
    captioner = tiny_gar.captioner()
    request = RegionRequest(image, tuple(regions[:2]), "<Prompt0> or <Prompt1>?", joint=True)
    own = captioner.process(request).boxes
    captioner.boxes = "released"
    released = captioner.process(request).boxes
    assert not torch.equal(own[0], own[1])
    assert torch.equal(released, own[1].expand(2, -1))
    with pytest.raises(ValueError, match="boxes: must be 'per-region' or 'released', got 'last'"):
        captioner.boxes = "last"
    assert captioner.boxes == "released"


def test_masks_are_merged_without_unpacking(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    union = np.logical_or.reduce([region.mask for region in regions[:3]])
    grid = choose_grid(SIZE[1], SIZE[0], 32, 4)
    monkeypatch.setattr(Region, "mask", None)
    batch = captioner.process(RegionRequest(image, tuple(regions[:3]), share=True))
    assert torch.equal(batch.masks.unpack(), cut_masks(union[None], 32, grid).unpack()[0])


def test_features_of_whole_grids_are_not_copied() -> None:
    features = torch.rand(6, 2, 3)
    for rows in ((1, 2, 3, 4), (4,), (1, 3, 2), (0, 0)):
        assert torch.equal(_rows(features, rows), features[list(rows)])
    assert _rows(features, (1, 2, 3)).data_ptr() == features[1].data_ptr()


def test_regions_are_listed_as_the_question_names_them(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    def listed(question: str) -> str:
        request = RegionRequest(image, tuple(regions[:2]), question, joint=True)
        (prompt,) = captioner.process(request).prompts
        text = captioner.tokenizer.decode(prompt.input_ids, skip_special_tokens=False)
        return text[text.index("about: ") :][:28]

    assert listed("Is <Prompt1> on <Prompt0>?") == "about: <Prompt1>; <Prompt0>;"
    assert listed("Is <Prompt0> on <Prompt1>?") == "about: <Prompt0>; <Prompt1>;"


def test_video(captioner: GarCaptioner, image: np.ndarray, regions: list[Region]) -> None:
    frames = [np.roll(image, 5 * k, 1) for k in range(20)]
    masks = [None if k == 1 else np.roll(regions[1].mask, 5 * k, 1) for k in range(20)]
    answer = captioner.describe(frames, masks, return_details=True, **NEW)
    assert answer.text == captioner.describe(frames, masks, **NEW)
    two = captioner.describe(frames, [masks, masks[::-1]], **NEW)
    assert two[0] == answer.text
    assert len(two) == 2
    batch = captioner.process(
        VideoRequest(
            tuple(frames),
            (tuple(m if m is None else Region.from_mask(m) for m in masks),),
        )
    )
    assert len(batch.tiles) == 16  # uniformly sampled, a tile each
    (prompt,) = batch.prompts
    per_tile = captioner.config.tokens_per_tile
    assert prompt.input_ids.count(captioner.config.mllm_config.image_token_id) == 16 * per_tile
    assert len(batch.grids) == 15  # the object is not in frame 1
    assert all(grid == (1, 1) for _, grid in batch.grids)


def test_only_frames_and_masks_that_are_looked_at_are_read(
    captioner: GarCaptioner, image: np.ndarray, tmp_path: Path
) -> None:
    """The files of the others do not even exist."""
    looked_at = set(captioner.frames_looked_at(20))
    assert len(looked_at) == 16
    assert {0, 19} <= looked_at
    frames, masks = [], []
    for k in range(20):
        frames.append(tmp_path / f"frame_{k}.png")
        masks.append(tmp_path / f"mask_{k}.png")
        if k in looked_at:
            Image.fromarray(image).save(frames[k])
            Image.fromarray(np.full(SIZE, 255 * (k != 19), np.uint8)).save(masks[k])
    found = captioner.describe(frames, masks, return_details=True, **NEW)
    assert found.region.area == SIZE[0] * SIZE[1]  # the black mask of the last frame is none


@pytest.mark.parametrize("kind", ["array", "picture", "path", "rle"])
def test_empty_masks_of_a_video(
    captioner: GarCaptioner, image: np.ndarray, tmp_path: Path, kind: str
) -> None:
    """In every form they say that the object is not to be seen."""
    array = np.zeros(SIZE, np.uint8)
    file = tmp_path / "empty.png"
    Image.fromarray(array).save(file)
    rle = {"size": list(SIZE), "counts": [SIZE[0] * SIZE[1]]}
    empty = {"array": array, "picture": Image.fromarray(array), "path": file, "rle": rle}[kind]
    full = np.ones(SIZE, bool)
    request, one = VideoRequest.of([image, image], [empty, full], None)
    assert one
    assert request.objects[0][0] is None
    with pytest.raises(ValueError, match="regions: object 1 must be in at least one frame"):
        captioner.describe([image, image], [[empty, full], [empty, None]])


def test_scores_and_streams(
    captioner: GarCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    scores = captioner.score(image, regions[:2], ["a thing", "a thing"])
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(captioner.score(image, regions[0], "a thing"), abs=1e-5)
    texts = captioner.describe(image, regions[:2], **NEW)
    pieces = ["", ""]
    for index, piece in captioner.describe(image, regions[:2], stream=True, **NEW):
        pieces[index] += piece
    assert pieces == texts


def test_gradients_reach_every_parameter(image: np.ndarray, regions: list[Region]) -> None:
    captioner = tiny_gar.captioner()
    prompts = captioner.encode(captioner.process(RegionRequest(image, tuple(regions[:2]))))
    captioner.model.loss(captioner.append_text(prompts, ["red", "a long answer"])).backward()
    without = [name for name, p in captioner.model.named_parameters() if p.grad is None]
    assert not without


class TestRefusals:
    def test_too_many_regions(
        self, captioner: GarCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        question = " ".join(f"<Prompt{k}>" for k in range(6))
        with pytest.raises(ValueError, match="at most 5 regions together, got 6"):
            captioner.ask(image, regions[:6], question)

    def test_questions_name_all_regions(
        self, captioner: GarCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        with pytest.raises(ValueError, match=r"question: must name each of the 2 regions"):
            captioner.ask(image, regions[:2], "What is <Prompt0>?")

    @pytest.mark.parametrize("token", ["<|image|>", "<|reserved_special_token_4|>"])
    def test_placeholders(
        self, captioner: GarCaptioner, image: np.ndarray, regions: list[Region], token: str
    ) -> None:
        with pytest.raises(ValueError, match="prompt: must not contain the placeholder"):
            captioner.describe(image, regions[0], f"What is {token}?")
        with pytest.raises(ValueError, match="prompt: must not contain the placeholder"):
            captioner.describe(image, regions[0], f"What is {token}?", stream=True)  # at the call

    def test_videos(self, captioner: GarCaptioner, image: np.ndarray) -> None:
        mask = np.ones(SIZE, bool)
        with pytest.raises(ValueError, match="one for each of 2 frames, got 1"):
            captioner.describe([image, image], [mask])
        with pytest.raises(ValueError, match="must be in at least one frame"):
            captioner.describe([image, image], [~mask, None])
        with pytest.raises(ValueError, match="all frames must be of size"):
            captioner.describe([image, image[:20]], [mask, mask])
        with pytest.raises(ValueError, match="at least one frame"):
            captioner.describe([], [])
        with pytest.raises(NotImplementedError, match="cannot share prompts"):
            captioner.describe([image], [mask], share="prompts")
        with pytest.raises(TypeError, match="a list with a region for each frame"):
            captioner.describe([image], 3)
        with pytest.raises(TypeError, match=r"or a list of such lists, got int at 1"):
            captioner.describe([image, image], [mask, 3])
        for single in ((0, 0, 5, 5), mask, Region.from_mask(mask)):
            with pytest.raises(NotImplementedError, match="regions: got one region of a video"):
                captioner.describe([image, image], single)
        with pytest.raises(ValueError, match=r"expected masks \[2, 50, 70\] or .*got shape \(9, 8"):
            captioner.describe([image, image], np.ones((9, 8), bool))
        with pytest.raises(FileNotFoundError, match=r"image: no such file: 'clip\.mp4'"):
            captioner.describe("clip.mp4", [mask])
        with pytest.raises(NotImplementedError, match="expected a single image"):
            captioner.ask([image], mask, "What is <Prompt0>?")

    def test_an_object_in_none_of_the_frames(
        self, captioner: GarCaptioner, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Said with its own number before anything is computed, also where batches are small."""
        monkeypatch.setattr(captioner, "process", None)
        mask = np.ones(SIZE, bool)
        seen: list[object] = [mask] * 20
        unseen = [None if k in captioner.frames_looked_at(20) else mask for k in range(20)]
        with pytest.raises(ValueError, match=r"object 1 must be in .*, got no pixel in 16"):
            captioner.describe([image] * 20, [seen, unseen], batch_size=1)

    def test_share(self, captioner: GarCaptioner, image: np.ndarray) -> None:
        with pytest.raises(ValueError, match="share: must be None or 'prompts', got 'all'"):
            captioner.describe(image, (0, 0, 5, 5), share="all")

    def test_a_tokenizer_of_another_model(self, captioner: GarCaptioner) -> None:
        values = tiny_gar.config_values()
        values["crop_tokens_ids"].reverse()
        with pytest.raises(ValueError, match=r"tokenizer: the id of '<\|reserved"):
            GarCaptioner(
                captioner.config.from_dict(values), captioner.tokenizer, captioner.processor
            )

    def test_a_vocabulary_smaller_than_the_tokenizer(self, captioner: GarCaptioner) -> None:
        values = tiny_gar.config_values()
        values["mllm_config"]["text_config"]["vocab_size"] -= 1
        with pytest.raises(ValueError, match=r"tokenizer: must have at most the \d+ tokens of con"):
            GarCaptioner(
                captioner.config.from_dict(values), captioner.tokenizer, captioner.processor
            )

    def test_tiles_of_another_size(self, captioner: GarCaptioner) -> None:
        with pytest.raises(ValueError, match=r"pixel_values: must be \[T, 3, 32, 32\], got shape"):
            captioner.model.embed_tiles(torch.zeros(1, 3, 32, 28), None)


class TestPack:
    IDS = (60, 61, 62)  # plain bytes

    def packed(self, captioner: GarCaptioner, *prompts: PromptLayout) -> torch.Tensor:
        config = captioner.config
        width = captioner.model.decoder.config.hidden_size
        tokens = torch.ones(1, config.tokens_per_tile, width)
        return captioner.model.pack(prompts, tokens, tokens).embeddings

    def test_ids_outside_the_vocabulary(self, captioner: GarCaptioner) -> None:
        """They would be rows of the features."""
        vocabulary = captioner.model.decoder.config.vocab_size
        self.packed(captioner, PromptLayout(input_ids=[vocabulary - 1], tiles=(), regions={}))
        for bad in (vocabulary, vocabulary + 3, -1):
            with pytest.raises(ValueError, match=rf"prompt: token ids must be 0 to .*, got {bad}"):
                self.packed(captioner, PromptLayout(input_ids=[1, bad], tiles=(), regions={}))

    def test_labels_for_some_prompts(self, captioner: GarCaptioner) -> None:
        plain = PromptLayout(input_ids=self.IDS, tiles=(), regions={})
        with pytest.raises(ValueError, match="all must have labels or none, got them for 1 of 2"):
            self.packed(captioner, plain, replace(plain, labels=self.IDS))
