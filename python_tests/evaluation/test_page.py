"""The HTML page: nothing of what a model, a judge or a file says runs, and nothing is loaded."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toy_benchmark import Toy, write_pictures

from fastregion.evaluation.benchmarks.base import Item
from fastregion.evaluation.page import picture_of, write_page
from fastregion.evaluation.result import Entry, ItemResult, Result

EVIL = "</p><script>alert(1)</script><img src=http://example.org/a.png onerror=alert(2)>\"'&"


def make_result(count: int = 3) -> Result:
    items = {
        f"{k} {EVIL}": ItemResult(
            group="odd" if k % 2 else "even",
            text=None if k == 1 else f"text {k} {EVIL}",
            answers={f"call {EVIL}": [f"said {EVIL}", "again"]},
            numbers={f"right {EVIL}": EVIL},
        )
        for k in range(count)
    }
    names = list(items)
    return Result(
        header={"model": EVIL, "benchmark": "toy", "version": 1, "judge": EVIL, "prompt": None},
        table={f"right {EVIL}": Entry(value=0.25, low=0.1, high=0.5, count=3)},
        notes=[f"note {EVIL}"],
        missing={names[1]: f"reason {EVIL}"},
        failures=[names[2]],
        items=items,
    )


def make_items(result: Result) -> list[Item]:
    return [Item(id=name, group=found.group) for name, found in result.items.items()]


class Reader(HTMLParser):
    """What stands in the page: tags with their attributes, text, and the ids in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(tmp_path: Path, result: Result, show: Any = lambda item: None) -> Reader:
    write_page(tmp_path / "report.html", result, make_items(result), show)
    return Reader((tmp_path / "report.html").read_text())


def test_everything_is_escaped(tmp_path: Path) -> None:
    reader = read(tmp_path, make_result())
    assert sum(tag == "script" for tag, _ in reader.tags) == 1  # ours
    assert not any(tag == "img" for tag, _ in reader.tags)
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    for text in ("text 0", "said", "note", "reason", "right", "call"):
        assert f"{text} {EVIL}" in reader.text  # and still to be read


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    reader = read(tmp_path, make_result(), lambda item: "data:image/jpeg;base64,AA==")
    sources = [v for _, attributes in reader.tags for k, v in attributes.items()
               if k in ("src", "href", "srcset", "data", "action")]  # fmt: skip
    assert sources == ["data:image/jpeg;base64,AA=="] * 3
    policies = [a["content"] for tag, a in reader.tags if "http-equiv" in a]
    assert policies[0].startswith("default-src 'none'; img-src data:;")


def test_failures_come_first_and_are_marked(tmp_path: Path) -> None:
    reader = read(tmp_path, make_result())
    articles = [attributes for tag, attributes in reader.tags if tag == "article"]
    assert [article.get("class") for article in articles] == ["failure", "failure", None]
    assert [article["data-group"] for article in articles] == ["odd", "even", "even"]
    places = [reader.text.index(f"{k} {EVIL}") for k in (1, 2, 0)]
    assert places == sorted(places)
    assert "no answer" in reader.text


def test_many_items_are_shown_in_part(tmp_path: Path) -> None:
    reader = read(tmp_path, make_result(260))
    assert sum(tag == "article" for tag, _ in reader.tags) == 200
    assert "200 of 260 items are shown, failures first" in reader.text


def test_groups_can_be_chosen(tmp_path: Path) -> None:
    reader = read(tmp_path, make_result())
    assert sum(tag == "option" for tag, _ in reader.tags) == 3
    assert sum(tag == "select" for tag, _ in reader.tags) == 1


def test_columns_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    text = read(tmp_path, make_result()).text
    assert "spread" not in text
    assert "0.1 to 0.5" in text
    assert "prompt" not in text  # of the header; it is None


def decode(url: str) -> Any:
    match = re.fullmatch(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", url)
    assert match is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(match[1]))))


def test_pictures_are_small_and_show_the_region(tmp_path: Path) -> None:
    pixels = np.full((600, 900, 3), 120, np.uint8)
    Image.fromarray(pixels).save(write_pictures(tmp_path) / "0.png")
    show = picture_of(Toy(), tmp_path)
    url = show(Item(id="a", image="0.png", masks=((0, 0, 300, 300),)))
    assert url is not None
    drawn = decode(url)
    assert max(drawn.shape) == 320
    assert drawn[40, 40].mean() == pytest.approx(120, abs=12)
    assert drawn[180, 250].mean() < 70  # dimmed outside
    assert show(Item(id="b", image="none.png")) is None  # results without their data


def test_of_a_video_the_frame_in_the_middle_is_shown(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    item = Item(id="v", frames=("0.png", "3.png", "0.png"), masks=(None, (0, 0, 4, 4), None))
    url = picture_of(Toy(), tmp_path)(item)
    assert url is not None
    assert decode(url)[50, 50].mean() == pytest.approx(120, abs=12)
    unseen = Item(id="v", frames=("3.png",), masks=(None,))
    assert picture_of(Toy(), tmp_path)(unseen)
