"""The command line: what it prints, how it ends, what it imports."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import fastregion.models
from fastregion import Description
from fastregion.cli import main
from fastregion.models import Captioner
from fastregion.models.description import Uniqueness
from fastregion.regions import Region

HEAVY = ("torch", "transformers", "torchvision", "timm")


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Canned(Captioner):
    """Says how large a region is."""

    model_type = "canned"

    def __init__(self) -> None:
        self.model_id = "canned"
        self.asked: list[dict[str, Any]] = []

    def describe(self, image: Any, regions: Any, prompt: Any = None, **options: Any) -> Any:
        self.asked.append({"prompt": prompt, **options})
        if options.get("stream"):
            return iter(
                piece
                for index, region in enumerate(regions)
                if region.area != 12  # a text without a word
                for piece in ((index, "a region of "), (index, f"{region.area} pixels"))
            )
        return [
            Description(
                text=f"a region of {region.area} pixels",
                region=region,
                model_id="canned",
                token_ids=(1,),
                token_logprobs=(-0.5,),
                finish_reason="stop",
                timings={"generate": 0.1},
                image=image,
                # The first text is the likelier one wherever it is asked about.
                uniqueness=Uniqueness((-0.5, -1.0), index, 1) if options.get("unique") else None,
            )
            for index, region in enumerate(regions)
        ]

    def ask(self, image: Any, regions: Any, question: str, **options: Any) -> str:
        if len(regions) > 5:
            raise ValueError(f"regions: at most 5, got {len(regions)}")
        if question == "break":
            raise RuntimeError("a kernel failed")
        return f"{question} {len(regions)}"

    def _missing(self, *args: Any) -> Any:
        raise AssertionError("no model is run here")

    build_model = process = encode = append_text = _missing
    decoder = eos_token_ids = property(_missing)


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Canned:
    captioner = Canned()
    monkeypatch.setattr(fastregion.models, "load", lambda name: captioner)
    return captioner


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        code = caught.value.code
        assert isinstance(code, int)
        return Result(code, *capsys.readouterr())

    return run


def process(*arguments: object, **environment: str) -> Result:
    """Run a command as a user does."""
    result = subprocess.run(
        [sys.executable, "-m", "fastregion", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", **environment},
        timeout=120,
        check=False,
    )
    return Result(result.returncode, result.stdout, result.stderr)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    values = np.zeros((30, 40), np.uint8)
    values[5:9, 10:20] = 255
    Image.fromarray(values).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


class TestDescribe:
    def test_one_region_is_one_line(
        self, canned: Canned, run: Callable[..., Result], photo: Path
    ) -> None:
        assert run("describe", photo, "--box", "1,2,5,8") == (0, "a region of 24 pixels\n", "")
        assert canned.asked[0] == {
            "prompt": None,
            "return_details": True,
            "max_new_tokens": 512,
            "temperature": 0.0,
            "seed": None,
            "unique": False,
        }

    def test_several_regions_are_numbered_in_a_fixed_order(
        self, canned: Canned, run: Callable[..., Result], photo: Path, mask: Path, tmp_path: Path
    ) -> None:
        rles = [Region.from_box((0, 0, k, 1), (30, 40)).rle for k in (3, 7)]
        (tmp_path / "regions.json").write_text(json.dumps(rles))
        result = run(
            "describe", photo, "--rle", tmp_path / "regions.json", "--box", "0,0,2,1",
            "--box=0,0,5,1", "--mask", mask,
        )  # fmt: skip
        assert result.code == 0, result.err
        assert result.out.splitlines() == [
            f"{number}: a region of {area} pixels"
            for number, area in enumerate((40, 2, 5, 3, 7), start=1)
        ]

    def test_points(self, canned: Canned, run: Callable[..., Result], photo: Path) -> None:
        one = run("describe", photo, "--point", "20,15")
        assert one.code == 0, one.err
        two = run("describe", photo, "--point", "5,15;35,15")
        assert two.out.count("\n") == 1  # one region
        apart = run("describe", photo, "--point", "5,15", "--point", "35,15")
        assert apart.out.count("\n") == 2

    def test_options(self, canned: Canned, run: Callable[..., Result], photo: Path) -> None:
        run("describe", photo, "--box", "1,2,5,8", "--prompt", "in 5 words", "--max-new-tokens", 9,
            "--temperature", 0.5, "--seed", 3)  # fmt: skip
        assert canned.asked[0] == {
            "prompt": "in 5 words",
            "return_details": True,
            "max_new_tokens": 9,
            "temperature": 0.5,
            "seed": 3,
            "unique": False,
        }

    def test_unique(
        self, canned: Canned, run: Callable[..., Result], photo: Path, tmp_path: Path
    ) -> None:
        boxes = ("--box", "0,0,4,4", "--box", "5,5,9,9", "--unique")
        result = run("describe", photo, *boxes, "--plot", tmp_path / "out.png")
        assert canned.asked[0]["unique"] is True
        assert result.out == "1: a region of 16 pixels\n2: a region of 16 pixels\n"
        assert result.err == "note: text 2 fits region 1 as well\n"
        values = json.loads(run("describe", photo, *boxes, "--json").out)["descriptions"]
        assert [found["uniqueness"]["rank"] for found in values] == [1, 2]
        assert values[0]["uniqueness"]["margin"] == 0.5
        result = run("describe", photo, *boxes, "--stream")
        assert result.code == 2
        assert "--unique: cannot be combined with --stream" in result.err
        assert len(canned.asked) == 2

    def test_json(
        self, canned: Canned, run: Callable[..., Result], photo: Path, mask: Path
    ) -> None:
        result = run("describe", photo, "--mask", mask, "--box", "0,0,2,1", "--json")
        values = json.loads(result.out)
        assert set(values) == {"image", "model", "descriptions"}
        assert (values["image"], values["model"]) == (str(photo), "canned")
        assert [d["region"]["box"] for d in values["descriptions"]] == [
            [10, 5, 20, 9],
            [0, 0, 2, 1],
        ]
        assert values["descriptions"][0]["text"] == "a region of 40 pixels"

    def test_plot(
        self, canned: Canned, run: Callable[..., Result], photo: Path, tmp_path: Path
    ) -> None:
        result = run("describe", photo, "--box", "1,2,5,8", "--plot", tmp_path / "out.png")
        assert result == (0, "a region of 24 pixels\n", "")
        with Image.open(tmp_path / "out.png") as drawing:
            assert drawing.width == 720

    def test_stream(self, canned: Canned, run: Callable[..., Result], photo: Path) -> None:
        result = run("describe", photo, "--box", "1,2,5,8", "--box", "0,0,1,1", "--stream")
        assert result.out == "1: a region of 24 pixels\n2: a region of 1 pixels\n"
        assert len(canned.asked) == 1  # one call: what regions have in common is computed once
        assert canned.asked[0]["batch_size"] == 1
        boxes = [("--box", box) for box in ("0,0,3,4", "0,0,1,1", "0,0,3,4")]
        result = run("describe", photo, *(word for pair in boxes for word in pair), "--stream")
        assert result.out == "1: \n2: a region of 1 pixels\n3: \n"
        assert run("describe", photo, "--box", "1,2,5,8", "--stream").out == (
            "a region of 24 pixels\n"
        )


class TestAsk:
    def test_answer(self, canned: Canned, run: Callable[..., Result], photo: Path) -> None:
        arguments = ("ask", photo, "same color?", "--box", "0,0,1,1", "--box", "2,2,4,4")
        assert run(*arguments) == (0, "same color? 2\n", "")
        values = json.loads(run(*arguments, "--json").out)
        assert values == {
            "image": str(photo),
            "model": "canned",
            "question": "same color?",
            "answer": "same color? 2",
        }

    def test_refusals(self, canned: Canned, run: Callable[..., Result], photo: Path) -> None:
        result = run("ask", photo, "what is <Prompt1>?", "--box", "0,0,1,1")
        assert result.code == 2
        assert "names <Prompt1>" in result.err
        result = run("ask", photo, "which?", *["--box", "0,0,1,1"] * 6)
        assert (result.code, result.err) == (2, "fastregion: error: regions: at most 5, got 6\n")
        assert run("ask", photo, "--box", "0,0,1,1").code == 2


class TestErrors:
    def test_unexpected_errors_are_told_apart(
        self, canned: Canned, run: Callable[..., Result], photo: Path
    ) -> None:
        result = run("ask", photo, "break", "--box", "0,0,1,1")
        assert result.code == 1
        assert result.out == ""
        assert result.err == (
            "fastregion: error: unexpected RuntimeError: a kernel failed (--debug shows where)\n"
        )
        debug = run("ask", photo, "break", "--box", "0,0,1,1", "--debug")
        assert debug.code == 1
        assert "Traceback" in debug.err
        assert "a kernel failed" in debug.err

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ([], "region: give at least one --mask, --box, --point or --rle"),
            (["--box", "1,2,3"], "--box 1,2,3: expected x0,y0,x1,y1, got '1,2,3'"),
            (["--box", "a,b,c,d"], "--box a,b,c,d: expected x0,y0,x1,y1"),
            (["--box", "nan,0,5,5"], "--box nan,0,5,5: expected x0,y0,x1,y1"),
            (["--point", "5"], "--point 5: expected x,y, got '5'"),
            (["--point", ""], "--point"),
            (["--point", "1,2;x"], "expected x,y, got 'x'"),
            (["--rle", "missing.json"], "--rle missing.json: no such file"),
            (["--box", "0,0,2,2", "--stream", "--json"], "--stream: cannot be combined"),
            (["--box", "0,0,2,2", "--plot", "out.txt"], "--plot: must end in"),
            (["--box", "0,0,2,2", "--plot", "nowhere/out.png"], "--plot: folder 'nowhere'"),
            (["--box", "0,0,2,2", "--temperature", "nan"], "temperature"),
            (["--box", "0,0,2,2", "--temperature", "-1"], "'--temperature'"),
            (["--box", "0,0,2,2", "--max-new-tokens", "0"], "'--max-new-tokens'"),
            (["--box", "0,0,2,2", "--seed", "x"], "'--seed'"),
            (["--box", "0,0,2,2", "--prompt", " "], "prompt: is blank"),
            (["--box", "0,0,2,2", "--colour"], "--colour"),
            (["--box"], "--box"),
        ],
    )
    def test_wrong_options(
        self,
        canned: Canned,
        run: Callable[..., Result],
        photo: Path,
        arguments: list[str],
        named: str,
    ) -> None:
        result = run("describe", photo, *arguments)
        assert result.code == 2
        assert result.out == ""
        assert result.err.count("\n") == 1
        assert result.err.startswith("fastregion: error: ")
        assert named in result.err
        assert not canned.asked

    @pytest.mark.parametrize("text", ["{", "", "[" * 100_000, "3", "[]", '{"size": [30, 40]}'])
    def test_wrong_rle_files(
        self, canned: Canned, run: Callable[..., Result], photo: Path, tmp_path: Path, text: str
    ) -> None:
        (tmp_path / "wrong.json").write_text(text)
        result = run("describe", photo, "--rle", tmp_path / "wrong.json")
        assert result.code == 2
        assert result.err.count("\n") == 1
        assert "wrong.json" in result.err

    @pytest.mark.parametrize(
        ("name", "word"),
        [("nothing", "unknown name"), ("ureca", "URECA"), (".", "config.json")],
    )
    def test_wrong_models(
        self,
        run: Callable[..., Result],
        photo: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        word: str,
    ) -> None:
        monkeypatch.chdir(photo.parent)
        result = run("describe", photo, "--box", "0,0,2,2", "--model", name)
        assert result.code == 2
        assert result.err.startswith("fastregion: error: model: ")
        assert word in result.err


def bomb(path: Path) -> Path:
    """A PNG of a few bytes that declares 20,000 x 20,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))))
    return path


class TestBadInputInAProcess:
    """As a user meets it: one line that names the argument, exit code 2, no traceback."""

    @staticmethod
    def save(path: Path, values: np.ndarray) -> None:
        Image.fromarray(values).save(path)

    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.save(tmp_path / "blank.png", np.zeros((30, 40), np.uint8))
        self.save(tmp_path / "turned.png", np.full((40, 30), 255, np.uint8))
        self.save(
            tmp_path / "colored.png",
            np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8),
        )
        Image.fromarray(np.full((30, 40), np.nan, np.float32)).save(tmp_path / "nan.tiff")
        (tmp_path / "empty.png").touch()
        (tmp_path / "text.png").write_text("not a picture\n")
        bomb(tmp_path / "bomb.png")
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (["photo.png", "--mask", "blank.png"], ["--mask blank.png", "mask: ", "empty"]),
            (["photo.png", "--mask", "turned.png"], ["mask: ", "(30, 40)", "(40, 30)"]),
            (["photo.png", "--mask", "colored.png"], ["--mask colored.png", "mask: "]),
            (["photo.png", "--mask", "nan.tiff"], ["--mask nan.tiff", "mask: "]),
            (["photo.png", "--mask", "empty.png"], ["mask: ", "empty.png", "0 bytes"]),
            (["photo.png", "--mask", "bomb.png"], ["--mask bomb.png: mask: ", "pixels"]),
            (["empty.png", "--box", "0,0,9,9"], ["image: ", "empty.png", "0 bytes"]),
            (["text.png", "--box", "0,0,9,9"], ["image: ", "text.png", "not a picture"]),
            (["bomb.png", "--box", "0,0,9,9"], ["image: ", "20000 x 20000", "178,956,970"]),
            (["missing.png", "--box", "0,0,9,9"], ["image: no such file", "missing.png"]),
            ([".", "--box", "0,0,9,9"], ["image: ", "is a directory"]),
            (["photo.png", "--box", "50,50,60,60"], ["--box 50,50,60,60", "box: "]),
            (["photo.png", "--box", "-5,0,10,10"], ["--box -5,0,10,10", "box: "]),
            (["photo.png", "--box", "9,9,3,3"], ["--box 9,9,3,3", "box: "]),
            (["photo.png", "--point", "100,5"], ["--point 100,5", "point"]),
            (["photo.png", "--point", "-1,5"], ["--point -1,5", "point"]),
        ],
    )
    def test_bad_input(self, arguments: list[str], named: list[str]) -> None:
        result = process("describe", *arguments)
        assert result.code == 2, result.err
        assert result.out == ""
        assert result.err.count("\n") == 1, result.err
        assert "Traceback" not in result.err
        for part in named:
            assert part in result.err

    def test_debug_shows_the_traceback(self) -> None:
        result = process("describe", "photo.png", "--box", "-5,0,10,10", "--debug")
        assert result.code == 2
        assert "Traceback" in result.err
        assert result.err.splitlines()[-1].startswith("fastregion: error: --box -5,0,10,10: box: ")


class TestHelp:
    @pytest.mark.parametrize(
        ("arguments", "taught"),
        [
            (["--help"], ["fastregion describe street.jpg --box", "Exit codes", "ask", "info"]),
            (["describe", "--help"], ["--mask", "--box", "--point", "--rle", "--plot", "--json"]),
            (["ask", "--help"], ["<Prompt0>", "QUESTION"]),
            (["info", "-h"], ["--json"]),
            (["bench", "--help"], ["--op", "--threads"]),
            (["segment", "--help"], ["--panoptic"]),
            (["train", "--help"], ["RECIPE", "KEY=VALUE", "--output", "--dry-run", "torchrun"]),
            (["eval", "--help"], ["eval scenes", "--judge", "--compare", "--resume"]),
            (["--version"], [fastregion.__version__]),
        ],
    )
    def test_help(
        self, run: Callable[..., Result], arguments: list[str], taught: list[str]
    ) -> None:
        result = run(*arguments)
        assert result.code == 0
        for part in taught:
            assert part in result.out
        assert "\\b" not in result.out  # click's mark of what is not wrapped

    def test_no_arguments_show_the_help(self, run: Callable[..., Result]) -> None:
        result = run()
        assert result.code == 2
        assert "fastregion describe street.jpg" in result.out + result.err

    @pytest.mark.parametrize("arguments", [["--help"], ["describe", "--help"], ["eval", "-h"]])
    def test_help_imports_nothing_heavy(self, arguments: list[str]) -> None:
        code = (
            "import sys\n"
            "from fastregion.cli import main\n"
            "try:\n"
            f"    main({arguments})\n"
            "except SystemExit as done:\n"
            "    assert done.code == 0\n"
            f"print('heavy:', *sorted(set(sys.modules) & set({HEAVY})))\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        assert result.stdout.splitlines()[-1] == "heavy:"

    def test_bad_input_is_told_without_importing_torch(self, photo: Path) -> None:
        code = (
            "import sys\n"
            "from fastregion.cli import main\n"
            "try:\n"
            f"    main(['describe', {str(photo)!r}, '--box', '-5,0,10,10'])\n"
            "except SystemExit as done:\n"
            "    assert done.code == 2\n"
            f"print('heavy:', *sorted(set(sys.modules) & set({HEAVY})))\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
        assert result.stdout.splitlines()[-1] == "heavy:"


class TestInfo:
    def test_json(self, run: Callable[..., Result]) -> None:
        result = run("info", "--json")
        assert result.code == 0, result.err
        facts = json.loads(result.out)
        assert facts["fastregion"] == fastregion.__version__
        assert facts["models"][0]["name"] == "fastregion/mini"
        assert facts["linear"] in ("torch", "onednn")
        operators = {operator["name"]: operator for operator in facts["operators"]}
        assert set(operators) == set(fastregion.ops.OPERATORS)
        for operator in operators.values():
            for device in ("cpu", "cuda"):
                assert operator["forward"][device] in ("reference", device)
        native = facts["native"]
        assert native["available"] == (native["cpu_isa"] is not None)

    def test_tables(self, run: Callable[..., Result]) -> None:
        result = run("info")
        assert result.code == 0, result.err
        for part in (fastregion.__version__, "native module", "roi_replay", "fastregion/mini"):
            assert part in result.out


class TestBench:
    def test_rows_as_json(self, run: Callable[..., Result]) -> None:
        result = run("bench", "--op", "rle_area", "--seconds", 0, "--json")
        assert result.code == 0
        report = json.loads(result.out)
        assert report["threads"] == 1
        assert [row["operator"] for row in report["rows"]] == ["rle_area"] * 2
        for row in report["rows"]:
            assert row["ours_ms"] > 0
            assert row["bytes"] > 0

    def test_a_table(self, run: Callable[..., Result]) -> None:
        result = run("bench", "--op", "rle_area", "--seconds", 0)
        assert result.code == 0
        assert "of roof" in result.out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--op", "nonsense"], "--op: there is no 'nonsense', only roi_replay"),
            (["--device", "tpu"], "--device: expected cpu or cuda, got 'tpu'"),
        ],
    )
    def test_refused(self, run: Callable[..., Result], arguments: list[str], message: str) -> None:
        result = run("bench", *arguments)
        assert result.code == 2
        assert message in result.err
