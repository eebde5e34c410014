"""Teaches the built-in captioner the words of your own pictures, in ten minutes on a CPU.

    python examples/finetune_mini.py FOLDER --output runs/mine

FOLDER holds pictures, masks and rows.jsonl, one line for each region:

    {"image": "kitchen.jpg", "mask": "kitchen_mug.png", "caption": "A mug with a chipped rim."}

A mask is a PNG, a box [x0, y0, x1, y1], a polygon or a COCO RLE. Every fifth row is held out; how
likely the captioner finds their captions is told before and after. The result is a captioner like
any other: fastregion describe kitchen.jpg --box 40,60,220,300 --model runs/mine/model

Needs: pip install "fastregion[train]".
"""

import argparse
import json
from pathlib import Path
from typing import Any

import fastregion as fr
from fastregion.training import read_recipe, train
from fastregion.training.data import DataSource, check_records, open_source

EVERY = 5  # rows, of which one is held out
SHOWN = 3  # captions printed before and after


def finetune(folder: Path, output: Path, **length: float) -> tuple[float, float]:
    """Trains on most rows of a folder.

    Args:
        folder: holds rows.jsonl and what it names.
        output: gets the run; the captioner is in its subfolder model.
        length: minutes=..., steps=... or epochs=....

    Returns:
        Mean log-probability per token of the held-out captions before and after.
    """
    output.mkdir(parents=True, exist_ok=True)
    training, held_out = split_rows(folder, output)
    recipe = read_recipe(
        "mini",
        {
            **length,
            "start_from": "fastregion/mini",
            "data": [training],
            "batch_size": 8,
            "options.facts_share": 0.0,
            "optimizer.learning_rate": 5e-4,
            "schedule.warmup_steps": 10,
            "schedule.decay_share": 0.5,
        },
    )
    before = judge(fr.load("fastregion/mini"), held_out)
    train(recipe, output)
    return before, judge(fr.load(str(output / "model")), held_out)


def split_rows(folder: Path, output: Path) -> tuple[dict[str, Any], DataSource]:
    """Writes the rows for training and the others into two files; sources of both."""
    rows = (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if row.strip()]
    if len(rows) < EVERY:
        raise SystemExit(
            f"{folder / 'rows.jsonl'}: expected at least {EVERY} rows, got {len(rows)}"
        )
    sources = []
    for name, own in (
        ("train", [row for k, row in enumerate(rows) if (k + 1) % EVERY]),
        ("held_out", rows[EVERY - 1 :: EVERY]),
    ):
        file = output / f"{name}.jsonl"
        file.write_text("".join(f"{row}\n" for row in own), encoding="utf-8")
        place = str(folder)
        sources.append({"format": "jsonl", "path": str(file), "images": place, "masks": place})
    return sources[0], DataSource(**sources[1])


def judge(captioner: fr.Captioner, source: DataSource) -> float:
    """Prints a few captions, and tells how likely the captioner finds the right ones."""
    records = open_source(source)
    found = check_records(records)
    found.require(max_bad_share=1.0)  # one good row at least; bad ones are left out
    records = found.usable(records)
    scores = []
    for number in range(len(records)):
        record = records[number]
        image, regions = record.image(), list(record.regions())
        right = [captions[0] for captions in record.captions]
        scores += captioner.score(image, regions, right)
        if number < SHOWN:
            said = captioner.describe(image, regions)
            print(*(f"  {a!r}, right is {b!r}" for a, b in zip(said, right, strict=True)), sep="\n")
    return sum(scores) / len(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds pictures, masks and rows.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to train")
    given = parser.parse_args()
    before, after = finetune(given.folder, given.output, minutes=given.minutes)
    print(json.dumps({"log-probability before": round(before, 3), "after": round(after, 3)}))


if __name__ == "__main__":
    main()
