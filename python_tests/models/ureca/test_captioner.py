"""URECA as a captioner, on a tiny model with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_ureca
import torch
from captioner_checks import NEW, check_batches, token_ids

from fastregion.language import generate
from fastregion.language.internlm2 import fuse_wqkv
from fastregion.models import load
from fastregion.models.request import RegionRequest
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.models.ureca import UrecaCaptioner, UrecaConfig
from fastregion.models.ureca.prompts import ask_about, conversation_ids, expand
from fastregion.regions import Region

SIZE = (50, 70)
BOXES = [
    (0, 0, 9, 9), (40, 30, 70, 50), (2, 30, 20, 48), (45, 3, 60, 12), (5, 5, 65, 45),
    (30, 20, 41, 31), (0, 40, 70, 50),
]  # fmt: skip


@pytest.fixture(scope="module")
def captioner() -> UrecaCaptioner:
    return tiny_ureca.captioner()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def regions() -> list[Region]:
    return [Region.from_box(box, SIZE) for box in BOXES]


def whole_answers(
    captioner: UrecaCaptioner, image: np.ndarray, regions: list[Region]
) -> list[list[int]]:
    """Every region by itself, its whole prompt read at once, as published."""
    found = []
    for region in regions:
        batch = captioner.process(RegionRequest(image, (region,)))
        with torch.inference_mode():
            model = captioner.model
            prompts = model.pack(
                batch.prompts, model.embed_tiles(batch.tiles), model.embed_masks(batch.masks)
            )
        options = {"eos_token_ids": captioner.eos_token_ids, **NEW}
        found += [one.token_ids for one in generate(captioner.decoder, prompts, **options)]
    return found


@pytest.mark.parametrize("count", [1, 2, 7])
def test_batched_equals_one_by_one(
    captioner: UrecaCaptioner, image: np.ndarray, regions: list[Region], count: int
) -> None:
    check_batches(captioner, image, regions[:count])


@pytest.mark.parametrize("internlm2", [False, True])
def test_32_regions_share_one_picture(
    image: np.ndarray, internlm2: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass of the tower and one reading of the prefix, and the answers of one by one."""
    captioner = tiny_ureca.captioner(internlm2=internlm2)
    rng = np.random.default_rng(1)
    corners = rng.integers(0, (SIZE[1] - 12, SIZE[0] - 12), (32, 2))
    sides = rng.integers(4, 12, (32, 2))
    regions = [
        Region.from_box((x, y, x + w, y + h), SIZE)
        for (x, y), (w, h) in zip(corners.tolist(), sides.tolist(), strict=True)
    ]
    expected = whole_answers(captioner, image, regions)
    assert len({tuple(one) for one in expected}) > 5
    seen: list[int] = []
    read: list[int] = []
    embed, pack = captioner.model.embed_tiles, captioner.model.pack

    def counted_tiles(tiles: torch.Tensor) -> torch.Tensor:
        seen.append(len(tiles))
        return embed(tiles)

    def counted_tokens(prompts: list, *tokens: torch.Tensor) -> object:
        read.append(sum(len(prompt.image) for prompt in prompts))
        return pack(prompts, *tokens)

    monkeypatch.setattr(captioner.model, "embed_tiles", counted_tiles)
    monkeypatch.setattr(captioner.model, "pack", counted_tokens)
    tiles = len(captioner.tiling.image(image))
    for batch_size in (32, 5):
        assert token_ids(captioner, image, regions, batch_size=batch_size) == expected
        assert sum(seen) == sum(read) == tiles == 5
        seen.clear()
        read.clear()


def test_what_is_shared_is_the_whole_prompt(
    captioner: UrecaCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    batch = captioner.process(RegionRequest(image, tuple(regions[:3])))
    model = captioner.model
    with torch.inference_mode():
        shared = captioner.encode(batch)
        alone = model.pack(
            batch.prompts, model.embed_tiles(batch.tiles), model.embed_masks(batch.masks)
        )
    assert isinstance(shared, SharedPrompts)
    assert len(shared.prefixes) == 1
    (read,) = shared.prefixes.cache.lengths.tolist()
    for k, length in enumerate(shared.prompts.lengths):
        rest, whole = shared.prompts.select([k]), alone.select([k])
        assert read + length == whole.total_tokens
        torch.testing.assert_close(rest.embeddings, whole.embeddings[read:])
        assert torch.equal(rest.positions, whole.positions[read:])
    masks = len(batch.masks) // 3 * captioner.config.num_mask_token
    assert min(shared.prompts.lengths) < masks + 100  # the picture's tokens are in front
    picked = shared.select([2, 0])
    assert torch.equal(picked.prompts.embeddings, shared.prompts.select([2, 0]).embeddings)


def test_layout_of_a_prompt(
    captioner: UrecaCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    (prompt,) = captioner.process(RegionRequest(image, (regions[0],))).prompts
    ids, model = list(prompt.input_ids), captioner.model
    tiles = 5
    assert ids.count(model.image_id) == tiles * captioner.config.tokens_per_tile == tiles * 4
    assert ids.count(model.mask_id) == tiles * captioner.config.num_mask_token == tiles * 4
    text = captioner.tokenizer.decode(
        [i for i in ids if i not in (model.image_id, model.mask_id)], skip_special_tokens=False
    )
    assert text.startswith("<|im_start|>system\n你是书生")
    assert text.endswith(
        "<|im_end|>\n<|im_start|>user\n<img></img>\n<mask></mask>\n"
        "Describe this region in the image.<|im_end|>\n<|im_start|>assistant\n"
    )
    begins = tiny_ureca.captioner(internlm2=True)
    (prompt,) = begins.process(RegionRequest(image, (regions[0],))).prompts
    assert prompt.input_ids[0] == begins.tokenizer.token_id("<s>")
    said = tiny_ureca.captioner(system_message="Be brief.")
    (prompt,) = said.process(RegionRequest(image, (regions[0],))).prompts
    assert "system\nBe brief.<" in said.tokenizer.decode(
        prompt.input_ids, skip_special_tokens=False
    )


def test_the_most_tiles_can_be_chosen(
    captioner: UrecaCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    published = UrecaConfig.from_dict(tiny_ureca.config_values())
    assert UrecaCaptioner(published, captioner.tokenizer).max_num == 12
    more = tiny_ureca.captioner(max_num=12)

    def tiles(asked: UrecaCaptioner) -> int:
        return len(asked.process(RegionRequest(image, (regions[0],))).tiles)

    assert tiles(more) == 13
    assert tiles(captioner) == 5
    more.max_num = 1
    assert tiles(more) == 1
    with pytest.raises(ValueError, match="max_num: must be at least 1, got 0"):
        more.max_num = 0


def test_settings_of_ours_are_saved(tmp_path: Path) -> None:
    captioner = tiny_ureca.captioner(max_num=3, multi_region=True)
    captioner.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, UrecaCaptioner)
    assert again.config == captioner.config
    assert (again.max_num, again.config.multi_region) == (3, True)
    for wrong, said in (
        ({"max_num": 0}, "max_num must be an integer of at least 1, got 0"),
        ({"multi_region": 1}, "multi_region must be true or false, got 1"),
    ):
        with pytest.raises(ValueError, match=f"config.json: {said}"):
            UrecaConfig.from_dict(tiny_ureca.config_values(**wrong))


def test_questions(captioner: UrecaCaptioner, image: np.ndarray, regions: list[Region]) -> None:
    asked = [
        captioner.describe(image, regions[0], prompt, return_details=True, **NEW).token_logprobs
        for prompt in (
            None,
            "Describe this region in the image.\n<mask>",
            "<mask>\nDescribe this region in the image.",
            "<image>\n<mask>\nDescribe this region in the image.",
        )
    ]
    assert asked[0] == asked[2] == asked[3] != asked[1]
    assert ask_about("What is <Prompt0>?", 1) == "<image>\n<mask>\nWhat is this region?"
    assert ask_about("<image>\nIs <Prompt1> on <Prompt0>?", 2) == (
        "<image>\n<mask>\n<mask>\nIs region 2 on region 1?"
    )
    answer = captioner.ask(image, regions[0], "<mask>\nWhat colour is it?", **NEW)
    assert answer == captioner.describe(image, regions[0], "<mask>\nWhat colour is it?", **NEW)
    # In front of the picture: nothing of the picture can be shared, and it still works.
    first = "<mask>\n<image>\nDescribe it."
    assert captioner.describe(image, regions[:3], first, **NEW) == [
        captioner.describe(image, region, first, **NEW) for region in regions[:3]
    ]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("Describe this region.", r"prompt: must contain '<mask>' where .* got '.*Describe this"),
        ("<mask> or <mask>?", "prompt: must contain '<mask>' once for each of 1 regions, got 2"),
        ("<image><image><mask>", "prompt: must contain '<image>' at most once, got 2"),
        ("<mask> <IMG_CONTEXT>", "must not contain the placeholder '<IMG_CONTEXT>'"),
        ("<mask> <MASK_CONTEXT>", "must not contain the placeholder '<MASK_CONTEXT>'"),
        ("<mask> <Prompt1>", "prompt: names <Prompt1>, but only 1"),
        ("   ", "prompt: is blank"),
    ],
)
def test_refused_prompts(
    captioner: UrecaCaptioner, image: np.ndarray, regions: list[Region], prompt: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        captioner.describe(image, regions[0], prompt, **NEW)
    with pytest.raises(ValueError, match=message):  # before any work
        captioner.describe(image, regions[0], prompt, stream=True, **NEW)


def test_masks_must_match_the_image(captioner: UrecaCaptioner, image: np.ndarray) -> None:
    expected = r"mask: expected shape \(50, 70\) to match the image, got \(70, 50\)"
    with pytest.raises(ValueError, match=expected):
        captioner.describe(image, np.ones((70, 50), bool), **NEW)
    with pytest.raises(ValueError, match="mask: is empty"):
        captioner.describe(image, np.zeros(SIZE, bool), **NEW)
    with pytest.raises(ValueError, match="must be those of the 2 mask tiles, got None"):
        tiny_arch_2().model.embed_masks(torch.zeros(2, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match="once for each of 2 regions, got 1"):
        expand("<mask>", 4, [4, 4])


def test_several_regions_in_one_question(image: np.ndarray, regions: list[Region]) -> None:
    captioner = tiny_ureca.captioner()
    question = "Is <Prompt0> on <Prompt1>?"
    with pytest.raises(NotImplementedError, match=r"one region at a time.*multi_region=True"):
        captioner.ask(image, regions[:2], question, **NEW)
    captioner = tiny_ureca.captioner(multi_region=True)
    request = RegionRequest(image, tuple(regions[:2]), question, joint=True)
    batch = captioner.process(request)
    (prompt,) = batch.prompts
    assert list(prompt.input_ids).count(captioner.tokenizer.token_id("<mask>")) == 2
    assert len(batch.masks) == 2 * len(batch.tiles) == len(prompt.masks)
    answer = captioner.ask(image, regions[:2], question, **NEW)
    assert answer == captioner.ask(
        image, regions[:2], "<mask>\n<mask>\nIs region 1 on region 2?", **NEW
    )
    scores = [
        captioner.describe(image, regions[0], return_details=True, **NEW).token_logprobs,
        tiny_ureca.captioner().describe(image, regions[0], return_details=True, **NEW)
        .token_logprobs,
    ]  # fmt: skip
    assert scores[0] == scores[1]  # one region is asked about as before
    with pytest.raises(ValueError, match="once for each of 2 regions, got 1"):
        captioner.ask(image, regions[:2], "<mask> twice", **NEW)


def test_scores_streams_and_beams(
    captioner: UrecaCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    texts = ["a thing", "another", "a thing"]
    scores = captioner.score(image, regions[:3], texts)
    alone = [captioner.score(image, r, t) for r, t in zip(regions[:3], texts, strict=True)]
    assert scores == pytest.approx(alone, abs=1e-5)
    assert scores[0] != scores[2]
    again = captioner.score(image, [regions[0], regions[1], regions[0]], texts)
    assert again[0] == pytest.approx(scores[0], abs=1e-5)
    # By the whole prompt, nothing shared.
    batch = captioner.process(RegionRequest(image, (regions[0],)))
    model = captioner.model
    with torch.no_grad():
        prompts = model.pack(
            batch.prompts, model.embed_tiles(batch.tiles), model.embed_masks(batch.masks)
        )
        loss = model.loss(captioner.append_text(prompts, ["a thing"]))
    assert scores[0] == pytest.approx(-loss.item(), abs=1e-5)

    answers = captioner.describe(image, regions[:2], **NEW)
    pieces = ["", ""]
    for index, piece in captioner.describe(image, regions[:2], stream=True, **NEW):
        pieces[index] += piece
    assert pieces == answers
    details = captioner.describe(image, regions[0], return_details=True, **NEW)
    assert details.text == answers[0]
    assert len(details.token_logprobs) == len(details.token_ids)
    beams = captioner.describe(image, regions[:2], num_beams=3, **NEW)
    assert beams == [captioner.describe(image, r, num_beams=3, **NEW) for r in regions[:2]]


def test_static_masks_and_clean_thumbnails(image: np.ndarray, regions: list[Region]) -> None:
    static = tiny_ureca.captioner(dynamic_mask_size=False)
    batch = static.process(RegionRequest(image, tuple(regions[:2])))
    assert batch.masks.shape == (2, 32, 32)
    assert batch.masks.max() == 1
    check_batches(static, image, regions[:2])
    released, clean = (
        tiny_ureca.captioner(mask_thumbnail=kind).tiling.mask(regions[4])
        for kind in ("released", "clean")
    )
    assert torch.equal(released[:-1], clean[:-1])
    differs = released[-1] != clean[-1]
    assert differs.any()
    single = tiny_ureca.captioner(dynamic_image_size=False)
    assert len(single.process(RegionRequest(image, (regions[0],))).tiles) == 1


def tiny_arch_2() -> UrecaCaptioner:
    values = tiny_ureca.config_values(arch=2, force_image_size=64, num_mask_token=4)
    values["vision_config"] |= {"image_size": 64, "patch_size": 2}
    return tiny_ureca.captioner(
        **{k: v for k, v in values.items() if k not in ("llm_config", "model_type")}, max_num=2
    )


def test_arch_2_describes(image: np.ndarray, regions: list[Region]) -> None:
    captioner = tiny_arch_2()
    check_batches(captioner, image, regions[:2])
    captioner.model.requires_grad_(True)
    batch = captioner.process(RegionRequest(image, (regions[0],)))
    prompts = captioner.encode(batch)
    assert not isinstance(prompts, SharedPrompts)  # with gradients
    captioner.model.loss(captioner.append_text(prompts, ["a"])).backward()
    for name, parameter in captioner.model.mask_tokens.named_parameters():
        assert parameter.grad is not None, name


def test_bfloat16(image: np.ndarray, regions: list[Region]) -> None:
    captioner = tiny_ureca.captioner()
    exact = captioner.score(image, regions[:2], ["a thing", "a thing"])
    captioner.model.to(torch.bfloat16)
    rounded = captioner.score(image, regions[:2], ["a thing", "a thing"])
    assert rounded == pytest.approx(exact, abs=0.1)
    assert len(captioner.describe(image, regions[:2], **NEW)) == 2


def test_conversations(captioner: UrecaCaptioner) -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image>\n<mask>\nWhat?"},
        {"from": "gpt", "value": "A cup!"},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "So."},
    ]
    ids, labels = conversation_ids(
        turns, captioner.tokenizer, system="?", image_tokens=1, mask_tokens=[2]
    )
    text = captioner.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
        "<img><IMG_CONTEXT></img>\n<mask><MASK_CONTEXT><MASK_CONTEXT></mask>\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\nA cup!<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nSo.<|im_end|>\n"
    )
    learned = [label for label in labels if label != -100]
    assert captioner.tokenizer.decode(learned, skip_special_tokens=False) == (
        "A cup!<|im_end|>So.<|im_end|>"
    )
    for wrong in ([], turns[:2], [turns[2], turns[1]]):
        with pytest.raises(ValueError, match="conversations: must be turns of 'human' and 'gpt'"):
            conversation_ids(
                wrong, captioner.tokenizer, system="?", image_tokens=1, mask_tokens=[2]
            )
    without = [{"from": "human", "value": "What?"}, turns[2]]
    with pytest.raises(ValueError, match="must contain '<mask>'"):
        conversation_ids(without, captioner.tokenizer, system="?", image_tokens=1, mask_tokens=[2])


def test_a_loss_never_hides_a_mismatch(
    captioner: UrecaCaptioner, image: np.ndarray, regions: list[Region]
) -> None:
    batch = captioner.process(RegionRequest(image, (regions[0],)))
    model = captioner.model
    (prompt,) = batch.prompts
    with torch.no_grad():
        tokens = model.embed_tiles(batch.tiles), model.embed_masks(batch.masks)
    ids = list(prompt.input_ids)
    ids.remove(model.mask_id)
    with pytest.raises(ValueError, match="must have 20 places for mask tokens, got 19"):
        model.pack([replace(prompt, input_ids=ids)], *tokens)
    with pytest.raises(ValueError, match="must have 16 places for image tokens, got 20"):
        model.pack([replace(prompt, image=range(4))], *tokens)
    with pytest.raises(ValueError, match=r"token ids must be 0 to \d+ \(vocab_size\), got 100000"):
        model.pack([replace(prompt, input_ids=[*prompt.input_ids, 100000])], *tokens)


@pytest.mark.parametrize(
    ("rank", "dropout", "message"),
    [(0, 0.0, "rank: must be at least 1, got 0"), (2, 1.0, r"dropout: must be in \[0, 1\), got 1")],
)
def test_refused_lora(rank: int, dropout: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_ureca.captioner().add_lora(rank=rank, dropout=dropout)


def test_lora_of_internlm2_is_that_of_its_fused_layer() -> None:
    captioner = tiny_ureca.captioner(internlm2=True)
    captioner.add_lora(rank=3)
    attention = captioner.decoder.model.layers[1].self_attn
    layers = [attention.q_proj, attention.k_proj, attention.v_proj]
    for layer in layers:
        torch.nn.init.normal_(layer.lora_B["default"].weight)
    assert captioner.layout.heads is not None
    _, kv_heads = captioner.layout.heads
    a = layers[0].lora_A["default"].weight
    assert all(layer.lora_A["default"].weight is a for layer in layers)
    b = fuse_wqkv(*(layer.lora_B["default"].weight for layer in layers), kv_heads)
    fused = fuse_wqkv(*(layer.weight for layer in layers), kv_heads) + 2 * b @ a
    captioner.merge_lora()
    merged = (attention.q_proj, attention.k_proj, attention.v_proj)
    torch.testing.assert_close(fuse_wqkv(*(layer.weight for layer in merged), kv_heads), fused)
