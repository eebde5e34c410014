"""Training samples of mini: regions as tiles, and exchanges about them as packed token ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from fastregion.language import IGNORED_LABEL, Tokenizer
from fastregion.models.mini.captioner import instruction_text
from fastregion.models.mini.config import MiniConfig
from fastregion.models.mini.modeling import mentioned_region
from fastregion.models.mini.processing import RegionTiles
from fastregion.scenes.wording import Exchange
from fastregion.training.mini_tokenizer import pattern_tokens


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt with its regions, their facts as classes, and several exchanges about them.

    Where ``unknown_pattern``, the pattern words in the exchanges only hold a place: they are read
    but not learned, so that a sentence without a pattern stays the exception.
    """

    tiles: RegionTiles
    facts: tuple[list[int], ...]
    exchanges: tuple[Exchange, ...]
    unknown_pattern: bool = False


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples, whose regions' facts are ``facts [R, F]``.

    Several exchanges share the vision prefix of their sample: ``input_ids [B, L]`` holds them one
    after the other, ``segments [B, L]`` says which exchange a token belongs to (0 = padding) and
    ``offsets [B, L]`` its place in it. ``mentions [B, L]`` is the region, among those of the
    batch, that a token of an instruction names, -1 elsewhere.
    """

    tiles: RegionTiles
    regions_per_prompt: tuple[int, ...]
    facts: Tensor
    input_ids: Tensor
    labels: Tensor
    segments: Tensor
    offsets: Tensor
    mentions: Tensor

    def to(self, device: torch.device) -> Batch:
        """Moves every tensor."""
        moved = {
            item.name: getattr(self, item.name).to(device)
            for item in fields(self)
            if item.name != "regions_per_prompt"
        }
        return replace(self, **moved)


def prompt_tokens(sample: Sample, tokenizer: Tokenizer, config: MiniConfig) -> int:
    """Tokens of the decoder that a sample takes: its tiles', and its exchanges'."""
    cells = (config.thumbnail_size // config.vision.stride) ** 2
    replayed = sum(
        size**2
        for size in (config.replay_size, config.texture_replay_size, config.thumbnail_replay_size)
    )
    text = sum(
        len(asked) + len(answered)
        for asked, answered in _token_ids(sample, tokenizer, config.eos_token_id)
    )
    return 1 + cells + len(sample.facts) * (1 + replayed) + text


def _token_ids(
    sample: Sample, tokenizer: Tokenizer, eos_token_id: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Instruction and answer of every exchange."""
    for prompt, answer in sample.exchanges:
        yield tokenizer.encode(instruction_text(prompt)), [*tokenizer.encode(answer), eos_token_id]


def collate(samples: Sequence[Sample], tokenizer: Tokenizer, config: MiniConfig) -> Batch:
    """Joins samples and packs the exchanges of each behind its prefix."""
    rows = []
    patterns = pattern_tokens(tokenizer)
    first = 0  # region of the sample among all regions of the batch
    for sample in samples:
        ids: list[int] = []
        labels: list[int] = []
        segments: list[int] = []
        offsets: list[int] = []
        mentions: list[int] = []
        count = len(sample.facts)
        texts = _token_ids(sample, tokenizer, config.eos_token_id)
        for number, (asked, answered) in enumerate(texts, start=1):
            ids += asked + answered
            labels += [IGNORED_LABEL] * len(asked)
            labels += [
                IGNORED_LABEL if sample.unknown_pattern and token in patterns else token
                for token in answered
            ]
            segments += [number] * (len(asked) + len(answered))
            offsets += range(len(asked) + len(answered))
            named = (mentioned_region(token, count, config) for token in asked)
            mentions += [-1 if region is None else first + region for region in named]
            mentions += [-1] * len(answered)
        rows.append((ids, labels, segments, offsets, mentions))
        first += count
    length = max(max(len(row[0]) for row in rows), 1)
    padded = [
        torch.tensor([row[k] + [fill] * (length - len(row[k])) for row in rows])
        for k, fill in enumerate((0, IGNORED_LABEL, 0, 0, -1))
    ]
    return Batch(
        tiles=RegionTiles.concatenate([sample.tiles for sample in samples]),
        regions_per_prompt=tuple(len(sample.tiles.details) for sample in samples),
        facts=torch.tensor([labels for sample in samples for labels in sample.facts]),
        input_ids=padded[0],
        labels=padded[1],
        segments=padded[2],
        offsets=padded[3],
        mentions=padded[4],
    )
