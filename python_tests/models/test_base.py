"""What every captioner inherits, on a tiny random one with a real decoder and tokenizer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from PIL import Image
from torch import Tensor, nn

from fastregion._torchvision_guard import import_transformers
from fastregion.language import PackedPrompts, Tokenizer, append_tokens, pack
from fastregion.models import Captioner, Description, RegionRequest
from fastregion.regions import Region

END = "<eos>"


@dataclass(frozen=True)
class TinyConfig:
    model_type: str = "tiny"
    width: int = 32

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TinyConfig:
        return cls(**values)


class TinyModel(nn.Module):
    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        llama = import_transformers("models.llama")
        self.projector = nn.Linear(7, width)
        self.dropout = nn.Dropout(0.5)
        self.decoder = llama.LlamaForCausalLM(
            llama.LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=width,
                intermediate_size=width,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=256,
                initializer_range=0.6,  # wide, so that different inputs give different texts
                tie_word_embeddings=True,
            )
        )


class TinyCaptioner(Captioner):
    """Sees a region's mean colour, centre and area; writes random letters that depend on them."""

    model_type = "tiny"
    config_class = TinyConfig
    config: TinyConfig
    model: TinyModel

    def build_model(self) -> nn.Module:
        return TinyModel(self.config.width, len(self.tokenizer))

    @property
    def decoder(self) -> nn.Module:
        return self.model.decoder

    @property
    def eos_token_ids(self) -> Sequence[int]:
        return [self.tokenizer.token_id(END)]

    def process(self, request: RegionRequest) -> tuple[Tensor, str, bool]:
        rows = []
        for region in request.regions:
            color = request.image[region.mask].mean(axis=0) / 255
            x, y = region.centroid
            share = region.area / region.mask.size
            rows.append([*color, x / 10, y / 10, 10 * share, 1.0])
        return torch.tensor(rows, dtype=torch.float32), request.instruction or "say", request.joint

    def encode(self, batch: tuple[Tensor, str, bool]) -> PackedPrompts:
        features, instruction, joint = batch
        rows = self.model.dropout(self.model.projector(features))
        words = self.decoder.get_input_embeddings()(
            torch.tensor(self.tokenizer.encode(instruction))
        )
        groups = [rows] if joint else list(rows.split(1))
        return pack([torch.cat([group, words]) for group in groups])

    def append_text(self, prompts: PackedPrompts, texts: Sequence[str]) -> PackedPrompts:
        token_ids = [[*self.tokenizer.encode(text), *self.eos_token_ids] for text in texts]
        return append_tokens(prompts, token_ids, self.decoder.get_input_embeddings())


def byte_tokenizer() -> Tokenizer:
    """Every byte is a token."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens([END])
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def captioner() -> TinyCaptioner:
    torch.manual_seed(1)
    return TinyCaptioner(TinyConfig(), byte_tokenizer())


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def regions() -> list[Region]:
    boxes = [(0, 0, 8, 8), (10, 4, 30, 20), (5, 5, 6, 6), (0, 12, 32, 24), (20, 0, 32, 9)]
    return [Region.from_box(box, (24, 32)) for box in boxes]


class TestDescribe:
    def test_one_region_gives_a_string_and_a_list_gives_a_list(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        single = captioner.describe(image, regions[1], max_new_tokens=12)
        assert isinstance(single, str)
        texts = captioner.describe(image, regions, max_new_tokens=12)
        assert texts[1] == single
        assert len(set(texts)) == len(regions)  # each region has a text of its own
        assert captioner.describe(image, [regions[1]], max_new_tokens=12) == [single]
        assert captioner.describe(image, tuple(regions[:2]), max_new_tokens=12) == texts[:2]
        with pytest.raises(ValueError, match="regions: expected at least one region"):
            captioner.describe(image, [])

    @pytest.mark.parametrize(
        ("form", "single"),
        [
            (lambda r: r.mask, True),
            (lambda r: torch.from_numpy(r.mask), True),
            (lambda r: Image.fromarray(r.mask), True),
            (lambda r: r.rle, True),
            (lambda r: r.box, True),
            (lambda r: list(r.box), True),
            (lambda r: r.mask[..., None], True),
            (lambda r: np.array(r.box), True),
            (lambda r: np.array([r.box]), False),
            (lambda r: [r.mask], False),
            (lambda r: [r.box], False),
            (lambda r: [r.rle], False),
            (lambda r: r.mask[None], False),
            (lambda r: torch.from_numpy(r.mask)[None], False),
            (lambda r: SimpleNamespace(mask=r.mask[None]), False),
        ],
    )
    def test_every_form_of_a_region(
        self,
        captioner: TinyCaptioner,
        image: np.ndarray,
        regions: list[Region],
        form: Any,
        single: bool,
    ) -> None:
        expected = captioner.describe(image, regions[1], max_new_tokens=8)
        found = captioner.describe(image, form(regions[1]), max_new_tokens=8)
        assert found == (expected if single else [expected])

    def test_batches_do_not_change_texts(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        whole = captioner.describe(image, regions, max_new_tokens=12)
        for batch_size in (1, 2, 3):
            parts = captioner.describe(image, regions, max_new_tokens=12, batch_size=batch_size)
            assert parts == whole

    def test_prompt_reaches_the_model(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        plain = captioner.describe(image, regions[0], max_new_tokens=12)
        asked = captioner.describe(image, regions[0], "where is <Prompt0>?", max_new_tokens=12)
        assert plain != asked

    def test_temperature_and_seed(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        def drawn(seed: int | None) -> list[str]:
            return captioner.describe(
                image, regions, temperature=2.0, seed=seed, max_new_tokens=12, batch_size=2
            )

        assert drawn(3) == drawn(3)
        assert drawn(3) != drawn(4)
        torch.manual_seed(0)
        first = drawn(None)
        assert drawn(None) != first
        torch.manual_seed(0)
        assert drawn(None) == first

    def test_details(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        texts = captioner.describe(image, regions, max_new_tokens=12)
        details = captioner.describe(image, regions, max_new_tokens=12, return_details=True)
        for text, detail, region in zip(texts, details, regions, strict=True):
            assert isinstance(detail, Description)
            assert (detail.text, detail.model_id) == (text, "tiny")
            assert detail.region is region
            assert len(detail.token_ids) == len(detail.token_logprobs) <= 12
            assert max(detail.token_logprobs) <= 0
            assert detail.finish_reason == ("stop" if len(detail.token_ids) < 12 else "length")
            np.testing.assert_array_equal(detail.image, image)
        one = captioner.describe(image, regions[0], max_new_tokens=12, return_details=True)
        assert one.text == texts[0]

    def test_beams_find_texts_at_least_as_likely(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        def run(**options: Any) -> list[Description]:
            found: list[Description] = captioner.describe(
                image, regions, max_new_tokens=8, return_details=True, **options
            )
            return found

        greedy = [sum(result.token_logprobs) for result in run()]
        found = run(num_beams=4, length_penalty=0.0, batch_size=2)
        beams = [sum(result.token_logprobs) for result in found]
        assert max(b - g for b, g in zip(beams, greedy, strict=True)) > 0.1
        assert run(num_beams=4, length_penalty=0.0)[3].text == found[3].text
        question = "where is <Prompt0>?"
        asked = captioner.ask(image, regions[0], question, max_new_tokens=8, num_beams=4)
        described = captioner.describe(image, regions[0], question, max_new_tokens=8, num_beams=4)
        assert asked == described

    def test_narrow_sampling_is_greedy(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        greedy = captioner.describe(image, regions, max_new_tokens=12)
        for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
            drawn = captioner.describe(
                image, regions, max_new_tokens=12, temperature=2.0, seed=0, **narrow
            )
            assert drawn == greedy

    def test_input_is_not_modified(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        before, mask = image.copy(), regions[0].mask.copy()
        captioner.describe(image, mask, max_new_tokens=2)
        np.testing.assert_array_equal(image, before)
        np.testing.assert_array_equal(mask, regions[0].mask)

    def test_training_goes_on_where_it_was(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        expected = captioner.describe(image, regions[0], max_new_tokens=8)
        captioner.model.train()
        captioner.decoder.eval()
        try:
            assert captioner.describe(image, regions[0], max_new_tokens=8) == expected
            assert captioner.model.training
            assert captioner.model.dropout.training
            assert not captioner.decoder.training
        finally:
            captioner.model.eval()


class TestStream:
    def test_pieces_join_to_the_text(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        text = captioner.describe(image, regions[0], max_new_tokens=40)
        pieces = list(captioner.describe(image, regions[0], max_new_tokens=40, stream=True))
        assert "".join(pieces) == text
        assert len(pieces) > 1
        assert all(pieces)

    def test_pieces_of_several_regions_carry_their_index(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        texts = captioner.describe(image, regions, max_new_tokens=20)
        joined = [""] * len(regions)
        for index, piece in captioner.describe(
            image, regions, max_new_tokens=20, stream=True, batch_size=2
        ):
            joined[index] += piece
        assert joined == texts

    def test_white_space_around_the_text_is_left_out(self) -> None:
        from fastregion.models.pieces import StrippedText

        pieces = StrippedText()
        assert "".join(pieces.put(text) for text in "  a  né \n") == "a  né"

    def test_stop_strings_hold_text_back(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        texts = captioner.describe(image, regions, max_new_tokens=20)
        stop = [texts[0][3:6], texts[2][5:7]]
        cut = captioner.describe(image, regions, max_new_tokens=20, stop=stop, return_details=True)
        for text, found in zip(texts, cut, strict=True):
            ends = [at for s in stop if (at := text.find(s)) >= 0]
            assert found.text == text[: min(ends, default=None)].strip()
            assert (found.finish_reason == "stop") == bool(ends)
        joined = [""] * len(regions)
        for index, piece in captioner.describe(
            image, regions, max_new_tokens=20, stop=stop, stream=True
        ):
            joined[index] += piece
        assert joined == [found.text for found in cut]

    def test_leaving_early_is_fine_and_leaks_no_mode(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        stream = captioner.describe(image, regions[0], max_new_tokens=40, stream=True)
        next(stream)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        stream.close()

    def test_bad_input_is_refused_before_iteration(
        self, captioner: TinyCaptioner, image: np.ndarray
    ) -> None:
        with pytest.raises(ValueError, match="is empty"):
            captioner.describe(image, np.zeros((24, 32), bool), stream=True)


class TestAsk:
    def test_joint_question(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        question = "is <Prompt0> left of <Prompt1>?"
        a, b = regions[:2]
        answer = captioner.ask(image, [a, b], question, max_new_tokens=12)
        assert isinstance(answer, str)
        assert answer != captioner.ask(image, [b, a], question, max_new_tokens=12)

    def test_one_region(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        answer = captioner.ask(image, regions[0], "where?", max_new_tokens=12)
        assert answer == captioner.describe(image, regions[0], "where?", max_new_tokens=12)

    def test_refusals(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        with pytest.raises(ValueError, match="names <Prompt2>, but only 2 regions were given"):
            captioner.ask(image, regions[:2], "what is <Prompt2>?")
        with pytest.raises(ValueError, match="regions: expected at least one"):
            captioner.ask(image, [], "what?")
        with pytest.raises(TypeError, match="question: expected str, got NoneType"):
            captioner.ask(image, regions[0], None)  # type: ignore[arg-type]


class TestScore:
    def test_score_is_the_mean_log_probability_of_the_text(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        text = "a réd ball"
        prompt = captioner.encode(captioner.process(RegionRequest(image, (regions[1],))))
        token_ids = [*captioner.tokenizer.encode(text), *captioner.eos_token_ids]
        with torch.no_grad():
            rows = captioner.decoder.get_input_embeddings()(torch.tensor(token_ids))
            embeddings = torch.cat([prompt.embeddings, rows])[None]
            logits = captioner.decoder(inputs_embeds=embeddings).logits[0]
        start = prompt.total_tokens
        logprobs = logits.log_softmax(-1)[torch.arange(start - 1, len(logits) - 1), token_ids]
        score = captioner.score(image, regions[1], text)
        assert isinstance(score, float)
        assert math.isclose(score, float(logprobs.mean()), abs_tol=1e-4)

    def test_given_what_was_asked(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        scores = [captioner.score(image, regions[0], "red", prompt) for prompt in ("say", "name")]
        assert scores[0] == captioner.score(image, regions[0], "red")  # its default
        assert scores[0] != scores[1]
        with pytest.raises(ValueError, match="prompt: is blank"):
            captioner.score(image, regions[0], "red", " ")

    def test_lists(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        texts = ["red", "a blue ball", "red", "x", "green"]
        expected = [captioner.score(image, r, t) for r, t in zip(regions, texts, strict=True)]
        np.testing.assert_allclose(captioner.score(image, regions, texts), expected, atol=1e-5)
        repeated = [regions[0]] * 40  # more than a batch, one region
        scores = captioner.score(image, repeated, ["red"] * 40)
        np.testing.assert_allclose(scores, [expected[0]] * 40, atol=1e-5)
        assert captioner.score(image, [regions[0]], ["red"]) == [
            pytest.approx(expected[0], abs=1e-5)
        ]

    def test_refusals(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region]
    ) -> None:
        with pytest.raises(ValueError, match="text: expected one for each of 2 regions, got 1"):
            captioner.score(image, regions[:2], ["a"])
        with pytest.raises(ValueError, match="text: is blank"):
            captioner.score(image, regions[0], " ")
        with pytest.raises(TypeError, match="text: expected str, got int"):
            captioner.score(image, regions[0], [3])  # type: ignore[list-item]


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"max_new_tokens": 0}, ValueError, "max_new_tokens: must be at least 1, got 0"),
            ({"max_new_tokens": 2.0}, TypeError, "max_new_tokens: expected an integer, got float"),
            ({"max_new_tokens": True}, TypeError, "max_new_tokens: expected an integer, got bool"),
            ({"temperature": -1}, ValueError, "temperature: must be 0"),
            ({"temperature": math.nan}, ValueError, "temperature: must be 0"),
            ({"temperature": math.inf}, ValueError, "temperature: must be 0"),
            ({"temperature": "hot"}, TypeError, "temperature: expected a number, got str"),
            ({"seed": -1}, ValueError, "seed: must be at least 0"),
            ({"seed": 2**64}, ValueError, "seed: must be below 2\\*\\*64"),
            ({"seed": 1.5}, TypeError, "seed: expected an integer"),
            ({"top_k": 0}, ValueError, "top_k: must be at least 1, got 0"),
            ({"top_k": 2.5}, TypeError, "top_k: must be an integer, got float"),
            ({"top_p": 0.0}, ValueError, r"top_p: must be in \(0, 1\], got 0.0"),
            ({"num_beams": 0}, ValueError, "num_beams: must be at least 1, got 0"),
            ({"num_beams": "4"}, TypeError, "num_beams: expected an integer, got str"),
            ({"num_beams": 2, "temperature": 1.0}, ValueError, "num_beams: must be 1 when drawing"),
            ({"num_beams": 2, "stream": True}, ValueError, "num_beams: must be 1 with stream"),
            ({"length_penalty": math.nan}, ValueError, "length_penalty: must be finite, got nan"),
            ({"length_penalty": None}, TypeError, "length_penalty: expected a number"),
            ({"early_stopping": "soon"}, ValueError, "early_stopping: must be True, False or"),
            ({"stop": ["a", ""]}, ValueError, "stop: a stop string must not be empty"),
            ({"stop": 3}, TypeError, "stop: expected a string or a list of strings, got 3"),
            ({"batch_size": 0}, ValueError, "batch_size: must be at least 1, got 0"),
            ({"stream": True, "return_details": True}, ValueError, "return_details: cannot be"),
            ({"stream": True, "unique": True}, ValueError, "unique: cannot be combined with str"),
            ({"prompt": ""}, ValueError, "prompt: is blank"),
            ({"prompt": 3}, TypeError, "prompt: expected str or None, got int"),
            ({"prompt": "<Prompt1>?"}, ValueError, "names <Prompt1>, but only 1 region is"),
        ],
    )
    def test_options(
        self,
        captioner: TinyCaptioner,
        image: np.ndarray,
        regions: list[Region],
        options: dict[str, Any],
        error: type[Exception],
        message: str,
    ) -> None:
        with pytest.raises(error, match=message):
            captioner.describe(image, regions, **options)

    @pytest.mark.parametrize("source", ["clip.mp4", Path("clip.MOV"), [np.zeros((4, 4, 3))] * 2])
    def test_video(self, captioner: TinyCaptioner, source: Any, regions: list[Region]) -> None:
        with pytest.raises(
            NotImplementedError, match=r"image: tiny describes single images.*GAR-8B"
        ):
            captioner.describe(source, regions)


class TestRequest:
    def test_fields_are_checked(self, image: np.ndarray, regions: list[Region]) -> None:
        good = tuple(regions)
        assert RegionRequest(image, good).size == (24, 32)
        with pytest.raises(TypeError, match="image: dtype must be uint8, got float64"):
            RegionRequest(image / 255, good)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"image: expected shape \[H, W, 3\], got \(24, 32\)"):
            RegionRequest(image[..., 0], good)
        with pytest.raises(ValueError, match=r"must have size \(12, 32\) .* got \(24, 32\)"):
            RegionRequest(image[:12], good)
        with pytest.raises(TypeError, match="regions: expected Region, got ndarray at 1"):
            RegionRequest(image, (regions[0], regions[1].mask))  # type: ignore[arg-type]

    def test_split(self, image: np.ndarray, regions: list[Region]) -> None:
        request = RegionRequest(image, tuple(regions), "what?")
        assert [len(part.regions) for part in request.split(2)] == [2, 2, 1]
        assert {part.instruction for part in request.split(2)} == {"what?"}
        joint = RegionRequest(image, tuple(regions), "what?", joint=True)
        assert [len(part.regions) for part in joint.split(2)] == [5]


class TestCheckpoint:
    def test_round_trip(
        self, captioner: TinyCaptioner, image: np.ndarray, regions: list[Region], tmp_path: Path
    ) -> None:
        captioner.save_pretrained(tmp_path / "new" / "tiny")
        files = sorted(p.name for p in (tmp_path / "new" / "tiny").iterdir())
        assert files == ["config.json", "model.safetensors", "tokenizer.json"]
        modes = {p.stat().st_mode for p in (tmp_path / "new" / "tiny").iterdir()}
        assert len(modes) == 1  # whoever can read one file can read all
        loaded = TinyCaptioner.from_pretrained(tmp_path / "new" / "tiny")
        assert loaded.config == captioner.config
        assert loaded.model_id == "tiny"
        assert not loaded.model.training
        for name, value in captioner.model.state_dict().items():
            assert torch.equal(value, loaded.model.state_dict()[name]), name
        texts = captioner.describe(image, regions, max_new_tokens=8)
        assert loaded.describe(image, regions, max_new_tokens=8) == texts

    def test_half_precision_on_disk(self, captioner: TinyCaptioner, tmp_path: Path) -> None:
        captioner.save_pretrained(tmp_path / "full")
        captioner.save_pretrained(tmp_path / "half", dtype=torch.float16)
        sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("full", "half")]
        assert sizes[1] < 0.6 * sizes[0]
        assert captioner.model.projector.weight.dtype == torch.float32
        loaded = TinyCaptioner.from_pretrained(tmp_path / "half")
        weight = loaded.model.projector.weight
        assert weight.dtype == torch.float32
        assert torch.equal(weight, captioner.model.projector.weight.half().float())

    def test_saving_again_replaces_and_leaves_other_files(
        self, captioner: TinyCaptioner, tmp_path: Path
    ) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "config.json").write_text("old")
        captioner.save_pretrained(tmp_path)
        captioner.save_pretrained(tmp_path)
        assert (tmp_path / "notes.txt").read_text() == "mine"
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            "config.json",
            "model.safetensors",
            "notes.txt",
            "tokenizer.json",
        ]
        TinyCaptioner.from_pretrained(tmp_path)

    def test_a_failed_save_leaves_the_old_files(
        self, captioner: TinyCaptioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        captioner.save_pretrained(tmp_path)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

        def fail(self: Tokenizer, folder: Any) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(Tokenizer, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            captioner.save_pretrained(tmp_path)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    def test_refusals(self, captioner: TinyCaptioner, tmp_path: Path) -> None:
        folder = tmp_path / "tiny"
        with pytest.raises(FileNotFoundError, match=r"model: .* has no config\.json"):
            TinyCaptioner.from_pretrained(folder)
        captioner.save_pretrained(folder)
        weights, config = folder / "model.safetensors", folder / "config.json"
        good = weights.read_bytes()
        weights.write_bytes(good[:100])
        with pytest.raises(ValueError, match=r"model: .*model\.safetensors' is cut off"):
            TinyCaptioner.from_pretrained(folder)
        weights.unlink()
        with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
            TinyCaptioner.from_pretrained(folder)
        weights.write_bytes(good)
        values = json.loads(config.read_text())
        config.write_text(json.dumps({**values, "width": 16}))
        with pytest.raises(ValueError, match=r"embed_tokens\.weight' must have shape"):
            TinyCaptioner.from_pretrained(folder)
        config.write_text(json.dumps({**values, "model_type": "large"}))
        with pytest.raises(ValueError, match="holds a 'large', expected 'tiny'"):
            TinyCaptioner.from_pretrained(folder)
        for text in ("{", "[]", "{}", '{"model_type": 3}'):
            config.write_text(text)
            with pytest.raises(ValueError, match=r"config\.json"):
                TinyCaptioner.from_pretrained(folder)
        config.write_text(" " * (1 << 20) + json.dumps(values))
        with pytest.raises(ValueError, match="is larger than"):
            TinyCaptioner.from_pretrained(folder)
        with pytest.raises(NotADirectoryError, match="is a file"):
            captioner.save_pretrained(config)
