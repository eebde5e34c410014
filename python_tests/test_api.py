"""The two functions of a first day, with a captioner that is not a model."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastregion as fr
from fastregion import api
from fastregion.models import Captioner
from fastregion.models.request import RegionRequest


class Echo(Captioner):
    """Checks like every captioner, then says how large each region is: no model."""

    model_type = "echo"

    def __init__(self) -> None:
        self.model_id = "echo"
        self.calls: list[RegionRequest] = []

    def _missing(self, *args: Any) -> Any:
        raise AssertionError("no model is run here")

    build_model = process = encode = append_text = _missing
    decoder = eos_token_ids = property(_missing)


def sizes(captioner: Echo, requests: list[RegionRequest], sampling: Any) -> list[fr.Description]:
    """How large each region is."""
    captioner.calls += requests
    return [
        fr.Description(
            text=f"{region.area} pixels",
            region=region,
            model_id="echo",
            token_ids=(),
            token_logprobs=(),
            finish_reason="stop",
            timings={},
            image=request.image,
        )
        for request in requests
        for region in request.regions
    ]


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    """The default captioner, replaced."""
    captioner = Echo()
    loads: list[Any] = []

    def load(name: Any) -> Captioner:
        loads.append(name)
        return captioner

    assert fr.load is api.load  # looked up once and kept: before its home has another one
    monkeypatch.setattr(api, "load", load)
    monkeypatch.setattr("fastregion.models.base.generate_answers", sizes)
    captioner.loads = loads  # type: ignore[attr-defined]
    api._built_in.cache_clear()
    yield captioner
    api._built_in.cache_clear()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_default_model_is_loaded_once(echo: Echo, photo: Path) -> None:
    assert fr.describe(photo, (2, 3, 6, 8)) == "20 pixels"
    assert fr.describe(str(photo), [(0, 0, 1, 1), (0, 0, 2, 2)]) == ["1 pixels", "4 pixels"]
    assert fr.describe(photo, (2, 3, 6, 8), model="mini") == "20 pixels"
    assert echo.loads == ["fastregion/mini"]  # type: ignore[attr-defined]


def test_other_models_are_loaded_by_name_or_given(echo: Echo, photo: Path, tmp_path: Path) -> None:
    fr.describe(photo, (2, 3, 6, 8), model=tmp_path)
    assert echo.loads == [str(tmp_path)]  # type: ignore[attr-defined]
    given = Echo()
    assert fr.describe(photo, (2, 3, 6, 8), model=given) == "20 pixels"
    assert len(given.calls) == 1
    assert fr.load is api.load or callable(fr.load)


def test_options_reach_the_captioner(echo: Echo, photo: Path) -> None:
    detail = fr.describe(photo, (2, 3, 6, 8), "in one short phrase", return_details=True)
    assert isinstance(detail, fr.Description)
    assert echo.calls[0].instruction == "in one short phrase"
    with pytest.raises(TypeError, match="colour"):
        fr.describe(photo, (2, 3, 6, 8), colour=True)


def bomb(path: Path) -> Path:
    """A PNG of a few bytes that declares 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))))
    return path


class TestBadInput:
    """Every one is refused before the model is even asked."""

    @pytest.fixture(autouse=True)
    def _nothing_runs(self, echo: Echo) -> Any:
        yield
        assert not echo.calls

    @pytest.mark.parametrize(
        ("regions", "error", "message"),
        [
            (np.zeros((30, 40), bool), ValueError, "mask: .*empty"),
            (np.ones((40, 30), bool), ValueError, r"mask: .*\(30, 40\).*\(40, 30\)"),
            (np.ones((30, 40, 3), bool), ValueError, "mask: "),
            (np.full((30, 40), np.nan), ValueError, "mask: .*(finite|NaN|nan)"),
            ((50, 50, 60, 60), ValueError, "box: "),
            ((-5, 0, 10, 10), ValueError, "box: "),
            ((10, 10, 5, 5), ValueError, "box: "),
            ((0, 0, float("nan"), 5), ValueError, "box: "),
            (None, TypeError, "region"),
        ],
    )
    def test_regions(self, photo: Path, regions: Any, error: type, message: str) -> None:
        with pytest.raises(error, match=message):
            fr.describe(photo, regions)

    def test_point_outside(self, photo: Path) -> None:
        with pytest.raises(ValueError, match="point"):
            fr.describe(photo, fr.Region.from_points([(100, 5)]))
        with pytest.raises(ValueError, match="point"):
            fr.Region.from_points([(-1, 5)], (30, 40))

    def test_region_of_another_image(self, photo: Path) -> None:
        with pytest.raises(ValueError, match=r"\(30, 40\)"):
            fr.describe(photo, fr.Region.from_box((0, 0, 5, 5), (64, 64)))

    def test_mask_files(self, photo: Path, tmp_path: Path) -> None:
        Image.new("L", (40, 30)).save(tmp_path / "blank.png")
        with pytest.raises(ValueError, match=r"mask: .*empty"):
            fr.describe(photo, tmp_path / "blank.png")
        with pytest.raises(FileNotFoundError, match=r"mask: .*missing\.png"):
            fr.describe(photo, tmp_path / "missing.png")
        with pytest.raises(ValueError, match=r"mask: .*(too many pixels|20000)"):
            fr.describe(photo, bomb(tmp_path / "bomb.png"))

    def test_images(self, tmp_path: Path) -> None:
        (tmp_path / "empty.png").touch()
        (tmp_path / "text.png").write_text("not a picture")
        for name, error, message in [
            ("empty.png", ValueError, r"image: .*empty\.png' is empty \(0 bytes\)"),
            ("text.png", ValueError, r"image: .*text\.png' is not a picture"),
            ("missing.png", FileNotFoundError, r"image: no such file: .*missing\.png"),
            ("", ValueError, "image: .* is a directory"),
        ]:
            with pytest.raises(error, match=message):
                fr.describe(tmp_path / name, (0, 0, 2, 2))
        with pytest.raises(ValueError, match=r"image: .*20000 x 20000.*limit of 178,956,970"):
            fr.describe(bomb(tmp_path / "bomb.png"), (0, 0, 2, 2))

    def test_models(self, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        with pytest.raises(ValueError, match="model: unknown name 'nothing'"):
            fr.describe(photo, (0, 0, 2, 2), model="nothing")
        with pytest.raises(ValueError, match="model: URECA is loaded from its published files"):
            fr.describe(photo, (0, 0, 2, 2), model="ureca")
