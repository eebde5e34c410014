"""Teaches GAR or DAM the words of your own pictures by LoRA, on one GPU in an afternoon.

    python examples/finetune_gar_lora.py FOLDER --model HaochenWang/GAR-1B --output runs/a
    python examples/finetune_gar_lora.py FOLDER --system dam --model nvidia/DAM-3B --output runs/b

FOLDER holds pictures, masks and rows.jsonl, one line for each picture or region:

    {"image": "kitchen.jpg", "mask": "kitchen_mug.png", "caption": "A mug with a chipped rim."}
    {"image": "kitchen.jpg", "masks": ["mug.png", "pan.png"], "captions": ["A mug.", "A pan."]}

A mask is a PNG, a box [x0, y0, x1, y1], a polygon or a COCO RLE. The decoder's layers stay as they
are and get low-rank updates; what brings the mask into the vision tower is trained itself. The
result is a captioner like any other (runs/a/model), and runs/a/model/adapter holds the updates
alone, some MB, as peft writes them. Killed or stopped, the same command goes on.

Needs: pip install "fastregion[train]".
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import fastregion as fr
from fastregion.training import read_recipe, train
from fastregion.training.data import DataSource, check_records, open_source

SHOWN = 3  # captions printed at the end

# Parameters that carry the mask, by their published names.
MASK_PATH = {
    "gar": ["mask_patch_embedding.*"],
    "dam": ["context_provider.*", "*.mask_patch_embedding.*"],
}


def finetune(folder: Path, model: str, output: Path, system: str = "gar", **settings: Any) -> Path:
    """Trains on a folder; a finished run is left as it is.

    Args:
        folder: holds rows.jsonl and what it names.
        model: a published checkpoint or a folder.
        output: gets the run.
        system: "gar" or "dam".
        settings: further keys of the recipe.

    Returns:
        The folder of the captioner.
    """
    recipe = read_recipe(
        system,
        {
            "start_from": model,
            "data": [{"format": "jsonl", "path": str(folder / "rows.jsonl")}],
            "lora": {"rank": 16, "alpha": 32.0, "dropout": 0.05, "also_train": MASK_PATH[system]},
            "optimizer.learning_rate": 2e-4,
            "batch_tokens": 8192,  # samples are packed until it is full
            "accumulation": 4,
            "precision": "bf16" if torch.cuda.is_available() else "fp32",
            **settings,
        },
    )
    train(recipe, output)
    return output / "model"


def show(model: Path, folder: Path) -> None:
    """Prints a few captions beside those of the rows."""
    captioner = fr.load(str(model))
    if torch.cuda.is_available():
        captioner.to("cuda")
    records = open_source(DataSource(format="jsonl", path=str(folder / "rows.jsonl")))
    records = check_records(records).usable(records)
    for number in range(min(SHOWN, len(records))):
        record = records[number]
        said = captioner.describe(record.image(), list(record.regions()), max_new_tokens=64)
        for text, captions in zip(said, record.captions, strict=True):
            print(f"  {text!r}, the row says {captions[0]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds pictures, masks and rows.jsonl")
    parser.add_argument("--model", default="HaochenWang/GAR-1B", help="name or folder")
    parser.add_argument("--system", choices=sorted(MASK_PATH), default="gar")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--epochs", type=float, default=3.0, help="how long to train")
    given = parser.parse_args()
    model = finetune(given.folder, given.model, given.output, given.system, epochs=given.epochs)
    show(model, given.folder)


if __name__ == "__main__":
    main()
