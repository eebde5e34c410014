from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_data import box_rle, changed, judge_template, write_json, write_picture

from fastregion.evaluation.benchmarks.annotated_video import VideoBenchmark
from fastregion.evaluation.benchmarks.base import Prediction
from fastregion.evaluation.benchmarks.videorefer_d import VideoReferD
from fastregion.evaluation.benchmarks.videorefer_q import VideoReferQ
from fastregion.images import load_image


def marks(*numbers: int) -> dict[str, Any]:
    return {str(n): {"segmentation": box_rle(n, 0, n + 10, 10)} for n in numbers}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_json(
        tmp_path / "VideoRefer-Bench-D.json",
        [
            {
                "id": 4,
                "video": "clip",
                "caption": "A dog runs.",
                "frame_idx": "3",
                "annotation": [marks(3, 1)],
            }
        ],
    )
    write_json(
        tmp_path / "VideoRefer-Bench-Q.json",
        [
            {
                "id": 9,
                "video": "clip",
                "Question": "Does <object1><region> chase <object2><region>? <object1><region>!",
                "type": "Basic Questions",
                "options": ["(A) yes", "(B) no"],
                "Answer": "(B) no",
                "frame_idx": "1",
                "annotation": [marks(0, 1), marks(1, 2)],
            }
        ],
    )
    for number in range(5):
        write_picture(tmp_path / "videos" / "clip" / f"{number:05}.png", (number * 10, 0, 0))
    return tmp_path


def reds(frames: Any) -> list[int]:
    return [int(load_image(frame)[0, 0, 0]) for frame in frames]


def test_d_shows_the_marked_frames(data: Path) -> None:
    (item,) = VideoReferD().items(data)
    assert reds(VideoReferD().picture(item, data)) == [10, 30]
    assert len(item.frames) == len(item.masks) == 2
    assert item.masks == (marks(1)["1"]["segmentation"], marks(3)["3"]["segmentation"])


def test_d_single_frame(data: Path) -> None:
    benchmark = VideoReferD(single_frame=True)
    (item,) = benchmark.items(data)
    assert not item.frames
    assert item.masks == (marks(3)["3"]["segmentation"],)
    assert reds([benchmark.picture(item, data)]) == [30]
    changed(data / "VideoRefer-Bench-D.json", 0, "frame_idx", value="2")
    with pytest.raises(ValueError, match=r"frame_idx: expected a marked frame, \[1, 3\], got '2'"):
        benchmark.items(data)


def test_d_message(data: Path) -> None:
    (item,) = VideoReferD().items(data)
    prediction = Prediction(item="4", text="A cat sleeps.")
    wording = judge_template("videorefer_d.txt")
    (call,) = VideoReferD().judge_calls(item, prediction, wording, data)
    assert "A dog runs." in call.messages[1]["content"]
    assert "A cat sleeps." in call.messages[1]["content"]
    assert call.attempts == 5
    # A judge that does what the template asks for is read.
    asked = call.messages[0]["content"].replace("NUMBER", "3")
    assert VideoReferD().readable(item, "review", asked)
    assert not VideoReferD().readable(item, "review", "1. Subject Correspondence: 3")


def test_q_asks_about_all_objects(data: Path) -> None:
    (item,) = VideoReferQ().items(data)
    query = VideoReferQ().query(item, "GAR")
    assert query.joint
    assert query.prompt == (
        "Does <Prompt0> chase <Prompt1>? <Prompt0>! (A) yes (B) no. "
        "Answer with the option's letter from the given choices directly."
    )
    assert reds(VideoReferQ().picture(item, data)) == [0, 10, 20]
    first, second = item.masks
    assert [mask is None for mask in first] == [False, False, True]
    assert [mask is None for mask in second] == [True, False, False]


def test_q_single_frame(data: Path) -> None:
    benchmark = VideoReferQ(single_frame=True)
    (item,) = benchmark.items(data)
    assert not item.frames
    assert item.masks == (marks(1)["1"]["segmentation"], marks(1)["1"]["segmentation"])
    assert reds([benchmark.picture(item, data)]) == [10]
    changed(data / "VideoRefer-Bench-Q.json", 0, "frame_idx", value="2")  # only of one object
    with pytest.raises(ValueError, match=r"frame_idx: expected a marked frame, \[1\], got '2'"):
        benchmark.items(data)


@pytest.mark.parametrize(
    ("variant", "what"),
    [(VideoReferQ, "questions about videos"), (VideoReferD, "videos")],
)
def test_models_without_videos_are_told_of_single_frames(
    data: Path, variant: type[VideoBenchmark], what: str
) -> None:
    said = rf"model: m takes no {what}, which videorefer-. needs; .*single_frame=true"
    with pytest.raises(NotImplementedError, match=said):
        asked(variant(), data)
    assert asked(variant(single_frame=True), data) == "(B) no"


class PicturesOnly:
    model_id, model_type = "m", "other"

    def describe(self, image: Any, *_: Any, **__: Any) -> list[str]:
        return [self.ask(image)]

    def ask(self, image: Any, *_: Any, **__: Any) -> str:
        if isinstance(image, list):
            raise NotImplementedError("no videos")
        return "(B) no"


def asked(benchmark: VideoBenchmark, data: Path) -> str:
    (item,) = benchmark.items(data)
    query, picture = benchmark.query(item, "other"), benchmark.picture(item, data)
    (answered,) = benchmark.predict(PicturesOnly(), picture, [item], query)
    return answered.text


def test_q_empty_answer_is_wrong(data: Path) -> None:
    items = VideoReferQ().items(data)
    scores = VideoReferQ().score(items, {"9": Prediction(item="9", text="")}, {})
    assert scores.table == {"Basic Questions": 0.0, "average": 0.0}


def test_a_video_file_is_decoded(data: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(data / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 80, 60, "yuv420p"
        for number in range(5):
            gray = np.full((60, 80, 3), 40 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    changed(data / "VideoRefer-Bench-D.json", 0, "video", value="clip.mp4")
    (item,) = VideoReferD().items(data)
    assert reds(VideoReferD().picture(item, data)) == pytest.approx([40, 120], abs=6)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("annotation",), [], "row 0: annotation: expected at least 1 values"),
        (("annotation",), [{}], "row 0: annotation: expected at least one frame"),
        (("annotation", 0, "x"), {}, "x: expected the number of a frame"),
        (("annotation", 0, "1"), {"segmentation": 3}, "segmentation: expected an object, got 3"),
        (("caption",), 5, "row 0: caption: expected text, got 5"),
    ],
)
def test_bad_data(data: Path, place: Any, value: Any, message: str) -> None:
    changed(data / "VideoRefer-Bench-D.json", 0, *place, value=value)
    with pytest.raises(ValueError, match=message):
        VideoReferD().items(data)


def test_missing_videos_and_frames(data: Path) -> None:
    (item,) = VideoReferD().items(data)
    (data / "videos" / "clip" / "00004.png").unlink()
    (data / "videos" / "clip" / "00003.png").unlink()
    with pytest.raises(ValueError, match="has 3 frames, expected frame 3"):
        VideoReferD().picture(item, data)
    changed(data / "VideoRefer-Bench-D.json", 0, "video", value="other")
    (item,) = VideoReferD().items(data)
    with pytest.raises(FileNotFoundError, match="data: no video 'other'"):
        VideoReferD().picture(item, data)
