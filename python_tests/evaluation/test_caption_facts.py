"""Facts read out of sentences, against a table written by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fastregion.evaluation.caption_facts import (
    CaptionFacts,
    NeighborStatement,
    UniqueStatement,
    read_caption,
)


def near(relation: str, color: str | None = None, shape: str | None = None) -> NeighborStatement:
    return NeighborStatement(relation=relation, color=color, shape=shape)


TABLE: list[tuple[str, dict[str, Any]]] = [
    (
        "A small red striped square in the top left, on a green background.",
        {
            "colors": ("red",),
            "patterns": ("striped",),
            "shapes": ("square",),
            "size": "small",
            "place": "top left",
            "backgrounds": ("green",),
        },
    ),
    (
        "A large, light-blue round region with white dots near the centre of the image, inside a "
        "red ring-shaped region.",
        {
            "colors": ("blue", "white"),
            "patterns": ("dotted",),
            "shapes": ("round",),
            "size": "large",
            "place": "center",
            "neighbors": (near("inside", "red", "ring-shaped"),),
        },
    ),
    # the ground of a pattern is the main colour, wherever it stands
    (
        "White dots on a red square, in the middle of the picture.",
        {
            "colors": ("red", "white"),
            "patterns": ("dotted",),
            "shapes": ("square",),
            "place": "center",
        },
    ),
    (
        "Thin blue stripes on a yellow triangle, on white.",
        {
            "colors": ("yellow", "blue"),
            "patterns": ("striped",),
            "shapes": ("triangular",),
            "backgrounds": ("white",),
        },
    ),
    (
        "It is striped in red and blue and lies at the top.",
        {"colors": ("red", "blue"), "patterns": ("striped",), "place": "top"},
    ),
    (
        "A grey-and-white checkered oval at the upper right, against a dark brown background, "
        "cut off by the right edge.",
        {
            "colors": ("gray", "white"),
            "patterns": ("checkered",),
            "shapes": ("oval",),
            "place": "top right",
            "backgrounds": ("brown",),
            "cut_edges": ("right",),
        },
    ),
    # the words of a neighbour are not the region's own
    (
        "Tiny plain black object in the centre, in front of a large green striped round region.",
        {
            "colors": ("black",),
            "patterns": ("plain",),
            "size": "tiny",
            "place": "center",
            "neighbors": (near("in front of", "green", "round"),),
        },
    ),
    (
        "A plain yellow triangle in a red circular region at the top right.",
        {
            "colors": ("yellow",),
            "patterns": ("plain",),
            "shapes": ("triangular",),
            "place": "top right",
            "neighbors": (near("inside", "red", "round"),),
        },
    ),
    (
        "A huge crescent fading from orange to yellow in the lower left corner, overlapping a "
        "purple triangle.",
        {
            "colors": ("orange", "yellow"),
            "patterns": ("gradient",),
            "shapes": ("crescent",),
            "size": "huge",
            "place": "bottom left",
            "neighbors": (near("overlapping", "purple", "triangular"),),
        },
    ),
    (
        "Overlapping another region, a brown blob.",
        {
            "colors": ("brown",),
            "shapes": ("irregular",),
            "neighbors": (near("overlapping"),),
        },
    ),
    # uniqueness
    (
        "The leftmost of three red circles, tiny and plain, in the left part of the picture.",
        {
            "colors": ("red",),
            "patterns": ("plain",),
            "shapes": ("round",),
            "size": "tiny",
            "place": "left",
            "uniques": (UniqueStatement(kind="leftmost", count=3, color="red", shape="round"),),
        },
    ),
    (
        "Small blue star-shaped region at the right, the larger of two blue star-shaped regions.",
        {
            "colors": ("blue",),
            "shapes": ("star-shaped",),
            "size": "small",
            "place": "right",
            "uniques": (
                UniqueStatement(kind="largest", count=2, color="blue", shape="star-shaped"),
            ),
        },
    ),
    (
        "Of the 3 green squares, this is the topmost one.",
        {
            "colors": ("green",),
            "shapes": ("square",),
            "uniques": (UniqueStatement(kind="topmost", count=3, color="green", shape="square"),),
        },
    ),
    (
        "The second from the left of four gray crosses, small and speckled with white specks.",
        {
            "colors": ("gray", "white"),
            "patterns": ("speckled",),
            "shapes": ("cross-shaped",),
            "size": "small",
            "uniques": (
                UniqueStatement(
                    kind="leftmost", count=4, color="gray", shape="cross-shaped", rank=2
                ),
            ),
        },
    ),
    (
        "The only orange ring in the picture, touching the bottom edge of the image",
        {
            "colors": ("orange",),
            "shapes": ("ring-shaped",),
            "cut_edges": ("bottom",),
            "uniques": (UniqueStatement(kind="only", color="orange", shape="ring-shaped"),),
        },
    ),
    (
        "The left one of two, an oval.",
        {"shapes": ("oval",), "uniques": (UniqueStatement(kind="leftmost", count=2),)},
    ),
    # negations
    (
        "A red region that is not striped.",
        {"colors": ("red",), "denied_patterns": ("striped",)},
    ),
    (
        "Neither striped nor dotted, without a hole, white.",
        {"colors": ("white",), "denied_patterns": ("striped", "dotted"), "hole": False},
    ),
    ("It has no pattern.", {"patterns": ("plain",)}),
    ("None of them.", {}),
    ("", {}),
    # holes, edges, several edges
    (
        "A medium-sized irregular pink region with a round hole in the middle, at the bottom.",
        {
            "colors": ("pink",),
            "shapes": ("irregular",),
            "hole": True,
            "size": "medium-sized",
            "place": "bottom",
        },
    ),
    (
        "An elongated white rectangle on the left, cut off by the left and bottom edges.",
        {
            "colors": ("white",),
            "shapes": ("elongated", "rectangular"),
            "place": "left",
            "cut_edges": ("left", "bottom"),
        },
    ),
    ("A green area cut off at the top.", {"colors": ("green",), "cut_edges": ("top",)}),
    (
        "The region extends beyond the right side of the image.",
        {"cut_edges": ("right",)},
    ),
    # places in other words
    ("center left", {"place": "left"}),
    ("in the top center", {"place": "top"}),
    ("at the bottom, toward the right-hand side", {"place": "bottom right"}),
    ("in the lower-middle of the frame", {"place": "bottom"}),
    # sizes, colours and shapes in other words
    ("a very large doughnut", {"size": "huge", "shapes": ("ring-shaped",)}),
    ("a big reddish-brown disc", {"size": "large", "colors": ("brown",), "shapes": ("round",)}),
    ("a violet plus-shaped patch", {"colors": ("purple",), "shapes": ("cross-shaped",)}),
    ("a pale greyish region", {"colors": ("gray",)}),
    ("polka-dotted and grey-coloured", {"patterns": ("dotted",), "colors": ("gray",)}),
    # backgrounds in other words
    (
        "Its main colour is brown. The background is mostly yellow.",
        {"colors": ("brown",), "backgrounds": ("yellow",)},
    ),
    ("black, surrounded by green", {"colors": ("black",), "backgrounds": ("green",)}),
    (
        "a white star with a blue background",
        {"colors": ("white",), "shapes": ("star-shaped",), "backgrounds": ("blue",)},
    ),
    (
        "on a red and black background, a green oval",
        {"colors": ("green",), "shapes": ("oval",), "backgrounds": ("red", "black")},
    ),
    # the size of dots is not the size of the region
    (
        "A huge orange region with tiny white dots",
        {"size": "huge", "colors": ("orange", "white"), "patterns": ("dotted",)},
    ),
]


@pytest.mark.parametrize(("caption", "expected"), TABLE, ids=[row[0][:50] for row in TABLE])
def test_reads_exactly_the_facts_of_the_table(caption: str, expected: dict[str, Any]) -> None:
    assert read_caption(caption) == CaptionFacts(**expected)


@pytest.mark.parametrize(
    "variant",
    [
        "A small red and blue striped oval region at the top left, on a gray background.",
        "a SMALL red-and-blue striped oval, at the top-left; on a grey background",
        "Striped red and blue, oval and small, in the upper left corner, against grey.",
        "On a gray background in the top left: a small elliptical region, red with blue stripes.",
        "The region is oval, small, and red with thin blue stripes. It lies in the upper left. "
        "The background is gray.",
        "Set against a light grey backdrop, a small, dark red, blue-striped oval, top left.",
    ],
)
def test_word_order_spelling_and_articles_make_no_difference(variant: str) -> None:
    expected = read_caption(
        "A small red and blue striped oval region at the top left, on a gray background."
    )
    assert dataclasses.astuple(expected)[0] == ("red", "blue")
    assert read_caption(variant) == expected


def test_refuses_what_is_no_text() -> None:
    with pytest.raises(TypeError, match="caption: expected str, got NoneType"):
        read_caption(None)  # type: ignore[arg-type]
