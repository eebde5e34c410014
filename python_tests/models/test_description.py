"""What a captioner answers: values, drawings, notebook figures."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastregion.models.description import Description, Uniqueness, plot_descriptions
from fastregion.models.drawing import draw_captions, draw_regions
from fastregion.regions import Region

SIZE = (60, 80)


def describe(
    text: str = "A red square.", box: tuple[int, ...] = (10, 20, 30, 40), **more: Any
) -> Description:
    image = np.full((*SIZE, 3), 200, np.uint8)
    return Description(
        text=text,
        region=more.pop("region", Region.from_box(box, SIZE)),
        model_id="tiny",
        token_ids=(5, 6, 0),
        token_logprobs=(-0.5, -0.25, 0.0),
        finish_reason="stop",
        timings={"encode": 0.1, "generate": 0.2},
        **{"image": image, **more},
    )


class TestValues:
    def test_text_and_confidence(self) -> None:
        description = describe()
        assert str(description) == "A red square."
        assert description.mean_logprob == -0.25
        assert "A red square." in repr(description)
        assert len(repr(description)) < 400  # no pixels, no token lists

    def test_to_dict_is_json(self) -> None:
        values = json.loads(json.dumps(describe().to_dict()))
        assert values["text"] == "A red square."
        assert values["model"] == "tiny"
        assert values["finish_reason"] == "stop"
        assert values["token_logprobs"] == [-0.5, -0.25, 0.0]
        assert values["timings"] == {"encode": 0.1, "generate": 0.2}
        region = values["region"]
        assert region["box"] == [10, 20, 30, 40]
        assert region["area"] == 400
        assert list(region["rle"]["size"]) == [60, 80]
        assert set(region) == {"box", "area", "rle"}
        assert "uniqueness" not in values
        np.testing.assert_array_equal(Region.from_rle(region["rle"]).mask, describe().region.mask)

    def test_to_dict_keeps_what_the_region_carries(self) -> None:
        mask = np.zeros(SIZE, bool)
        mask[3:5, 2:9] = True
        region = Region.from_mask(mask, id=7, label="dog", score=0.5)
        values = json.loads(json.dumps(describe(region=region).to_dict()))["region"]
        assert (values["id"], values["label"], values["score"]) == (7, "dog", 0.5)


class TestNotebook:
    @staticmethod
    def thumbnail(html: str) -> Image.Image:
        data = re.search(r'src="data:image/jpeg;base64,([^"]+)"', html)
        assert data is not None
        return Image.open(io.BytesIO(base64.b64decode(data.group(1))))

    def test_figure_is_small_and_self_contained(self) -> None:
        image = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
        region = Region.from_box((100, 100, 600, 700), (900, 1200))
        html = describe(image=image, region=region)._repr_html_()
        assert self.thumbnail(html).size == (320, 240)
        assert len(html) < 150_000
        assert "http" not in html
        assert "A red square." in html

    def test_text_cannot_inject_markup(self) -> None:
        evil = '"><script>alert(1)</script>'
        html = describe(evil)._repr_html_()
        assert "<script" not in html
        assert "&lt;script&gt;" in html
        assert html.count('"') == html.replace("&quot;", "").count('"')
        assert 'alt="&quot;&gt;&lt;script' in html

    def test_without_an_image(self) -> None:
        assert self.thumbnail(describe(image=None)._repr_html_()).size == (320, 240)


class TestPlot:
    def test_file_and_return_value(self, tmp_path: Path) -> None:
        path = tmp_path / "out.png"
        drawing = describe().plot(path)
        with Image.open(path) as saved:
            np.testing.assert_array_equal(np.asarray(saved), np.asarray(drawing))
        assert drawing.mode == "RGB"
        assert drawing.width == 720
        assert drawing.height > 540

    def test_region_keeps_its_colours_and_the_rest_is_dimmed(self) -> None:
        image = np.full((400, 400, 3), (200, 40, 90), np.uint8)
        region = Region.from_box((100, 100, 300, 300), (400, 400))
        before = image.copy()
        drawing = np.asarray(describe(image=image, region=region).plot())
        scale = 720 / 400
        inside = drawing[int(120 * scale) : int(280 * scale), int(120 * scale) : int(280 * scale)]
        assert (inside == (200, 40, 90)).all()
        outside = drawing[: int(90 * scale), :720]
        assert (outside.mean(axis=2) < 0.6 * 110).all()
        np.testing.assert_array_equal(image, before)

    def test_outline_is_visible_everywhere(self) -> None:
        image = np.zeros((90, 120, 3), np.uint8)
        boxes = [(0, 0, 120, 90), (50, 40, 51, 41), (0, 0, 5, 90)]
        for box in boxes:
            mask = Region.from_box(box, (90, 120)).mask
            drawing = np.asarray(draw_regions(image, [mask])).astype(int)
            yellow = (drawing[..., 0] > 150) & (drawing[..., 1] > 110) & (drawing[..., 2] < 90)
            assert yellow.sum() > 40, box

    def test_region_much_smaller_than_a_drawn_pixel(self) -> None:
        image = np.zeros((3000, 4000, 3), np.uint8)
        mask = np.zeros((3000, 4000), bool)
        mask[1501, 2001] = True
        drawing = np.asarray(draw_regions(image, [mask], longest_side=320))
        assert drawing.shape == (240, 320, 3)
        assert drawing.max() > 100

    def test_several_are_numbered_and_each_text_is_there(self) -> None:
        one = describe()
        many = [
            describe(f"Text {i} " * 30, (4 * i, 3 * i, 4 * i + 9, 3 * i + 8)) for i in range(12)
        ]
        drawing = plot_descriptions(many)
        assert drawing.height > plot_descriptions([one]).height + 11 * 20

    def test_tall_pictures_have_text_beside_them(self) -> None:
        picture = Image.new("RGB", (200, 720))
        page = draw_captions(picture, ["a", "b"])
        assert page.height == 720
        assert page.width > 500

    @pytest.mark.parametrize(
        "text", ["", "x" * 2000, "two\nlines", "日本語のテキスト" * 40, "tab\there", "\u202eevil"]
    )
    def test_any_text_can_be_drawn(self, text: str) -> None:
        page = describe(text).plot()
        assert page.width == 720

    def test_refusals(self, tmp_path: Path) -> None:
        for name, message in [
            ("out.txt", "path: must end in one of .png"),
            ("out", "path: must end in one of .png"),
            ("nowhere/out.png", r"path: folder .*nowhere' does not exist"),
        ]:
            with pytest.raises(ValueError, match=message):
                describe().plot(tmp_path / name)
        with pytest.raises(ValueError, match="expected at least one, got none"):
            plot_descriptions([])
        with pytest.raises(ValueError, match="without its image"):
            describe(image=None).plot()
        other = describe(region=Region.from_box((0, 0, 5, 5), (50, 50)))
        with pytest.raises(
            ValueError, match=r"of one image of size \(60, 80\), got \(50, 50\) at 1"
        ):
            plot_descriptions([describe(), other])


class TestUniqueness:
    def test_rank_margin_and_rival(self) -> None:
        first = Uniqueness((-0.5, -0.75, -2.0), 0, 5)
        assert (first.rank, first.margin, first.nearest) == (1, 0.25, 1)
        second = Uniqueness((-0.5, -0.75, -2.0), 1, 5)
        assert (second.rank, second.margin, second.nearest) == (2, -0.25, 0)
        last = Uniqueness((-0.5, -0.75, -2.0), 2, 5)
        assert (last.rank, last.margin, last.nearest) == (3, -1.5, 0)
        tie = Uniqueness((-0.5, -0.5), 0, 5)
        assert (tie.rank, tie.margin, tie.nearest) == (2, 0.0, 1)
        alone = Uniqueness((-0.5,), 0, 5)
        assert (alone.rank, alone.margin, alone.nearest) == (1, math.inf, None)

    def test_probability_is_that_of_whole_texts(self) -> None:
        one = Uniqueness((-0.5, -0.75, -2.0), 1, 8)
        likelihoods = [math.exp(8 * score) for score in one.scores]
        expected = likelihoods[1] / sum(likelihoods)
        assert math.exp(one.log_probability) == pytest.approx(expected)
        far = Uniqueness((-90.0, -0.1), 0, 512)  # neither overflows nor is log 0
        assert far.log_probability == pytest.approx(512 * -89.9)

    def test_json(self) -> None:
        found = json.loads(
            json.dumps(describe(uniqueness=Uniqueness((-1.0, -3.0), 0, 5)).to_dict())
        )
        expected = {"rank": 1, "margin": 2.0, "nearest": 1, "scores": [-1.0, -3.0]}
        probability = found["uniqueness"].pop("probability")
        assert probability == pytest.approx(1 / (1 + math.exp(-10)))
        assert found["uniqueness"] == expected
        alone = describe(uniqueness=Uniqueness((-1.0,), 0, 5)).to_dict()["uniqueness"]
        assert (alone["margin"], alone["nearest"]) == (None, None)

    @pytest.mark.parametrize(
        ("scores", "words"),
        [
            ((-0.5, -0.75), "unique (78%)"),
            ((-0.5,), "the only region"),
            ((-0.5, -0.5), "fits 1 other region as well"),
            ((-0.5, -0.1, -0.2), "fits 2 other regions as well"),
        ],
    )
    def test_notebooks_say_it(self, scores: tuple[float, ...], words: str) -> None:
        assert words in describe(uniqueness=Uniqueness(scores, 0, 5))._repr_html_()
        assert words not in describe()._repr_html_()

    def test_drawings_mark_texts_that_fit_others(self) -> None:
        plain = np.asarray(describe().plot())
        unique = np.asarray(describe(uniqueness=Uniqueness((-0.5, -0.75), 0, 5)).plot())
        np.testing.assert_array_equal(plain, unique)
        shared = np.asarray(describe(uniqueness=Uniqueness((-0.5, -0.25), 0, 5)).plot())
        assert shared.shape != plain.shape or (shared != plain).any()
