"""Describes parts of a photograph and draws them: the picture of the README.

    python examples/describe_regions.py [OUT.png]

The photograph is that of Eileen Collins (NASA, public domain) from scikit-image's sample set.
"""

import sys
from pathlib import Path

import fastregion as fr
from fastregion.models.description import plot_descriptions

HERE = Path(__file__).parent

# Outlines in pixels, drawn by hand: x0, y0, x1, y1, ...
OUTLINES = {
    "suit": [58, 260, 112, 210, 130, 250, 190, 285, 232, 295, 236, 330, 240, 440, 238, 512,
             195, 512, 194, 480, 175, 462, 150, 470, 110, 500, 25, 512, 22, 430, 30, 330],
    "hair": [154, 70, 170, 50, 195, 30, 235, 16, 270, 26, 295, 60, 301, 90, 285, 120,
             272, 132, 268, 100, 262, 88, 225, 82, 190, 72, 185, 95, 180, 118, 160, 105],
    "patch": [171, 349, 190, 354, 203, 368, 208, 386, 203, 404, 190, 418, 171, 423, 152, 418,
              139, 404, 134, 386, 139, 368, 152, 354],
    "visor": [283, 480, 290, 430, 310, 385, 345, 360, 385, 352, 430, 362, 465, 400, 485, 450,
              490, 512, 285, 512],
    "canton": [0, 0, 44, 0, 63, 88, 40, 118, 14, 146, 0, 158],
    "tank": [397, 30, 402, 10, 412, 0, 424, 4, 434, 22, 437, 60, 436, 180, 425, 180, 410, 150,
             398, 75],
}  # fmt: skip


def main() -> None:
    photograph = HERE / "astronaut.jpg"
    regions = [
        fr.Region.from_polygon([outline], size=(512, 512), label=name)
        for name, outline in OUTLINES.items()
    ]
    captioner = fr.load("fastregion/mini")
    descriptions = captioner.describe(photograph, regions, return_details=True)
    for description in descriptions:
        print(f"{description.region.label:>8}: {description.text}")
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "describe_regions.png"
    plot_descriptions(descriptions, out)


if __name__ == "__main__":
    main()
