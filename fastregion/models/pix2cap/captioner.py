"""Pix2Cap as a captioner: segments of a picture, and captions of segments or of given regions."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from fastregion.images import ImageSource, RgbImage
from fastregion.language import (
    GeneratedText,
    PackedPrompts,
    ReadPrompts,
    Tokenizer,
    append_tokens,
)
from fastregion.language.evaluating import evaluating
from fastregion.models.base import Captioner
from fastregion.models.categories import Category
from fastregion.models.inputs import single_image
from fastregion.models.pix2cap import checkpoint
from fastregion.models.pix2cap.caption_head import MAX_TOKENS
from fastregion.models.pix2cap.captions import (
    BEGIN,
    END,
    caption_ids,
    likeliest_beams,
    tidy,
)
from fastregion.models.pix2cap.class_vectors import ClassVectors
from fastregion.models.pix2cap.config import MODEL_TYPE, InferenceConfig, Pix2CapConfig
from fastregion.models.pix2cap.modeling import SIZE_DIVISOR, Pix2CapModel
from fastregion.models.pix2cap.output import STRIDE, Pix2CapOutput
from fastregion.models.pix2cap.postprocessing import (
    keep_queries,
    merge_segments,
    resize_masks,
    segments,
)
from fastregion.models.pix2cap.processing import (
    Pix2CapBatch,
    inference_size,
    normalise,
    pad_batch,
    resize,
)
from fastregion.models.pix2cap.region_queries import matching_queries, region_shares
from fastregion.models.pix2cap.vocabulary import check_beams, named_categories, with_thresholds
from fastregion.models.request import RegionRequest, Sampling
from fastregion.models.segment import Segment
from fastregion.models.shared_prompts import SharedPrompts
from fastregion.models.weights import Layout, load_weights

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Pix2CapCaptioner"]

_MASKS_AT_A_TIME = 8  # resized to the picture's size: bounds the memory
_OUTPUT = "output"  # of an image's predictions, among what a request keeps


class Pix2CapCaptioner(Captioner):
    """Finds and captions the segments of a picture; captions given regions.

    Made here, its weights lie on the ``meta`` device: load them (:func:`fastregion.load`) or call
    ``captioner.model.init_weights()``.

    ``describe`` captions a region by the query whose mask is most like it. Captions have at most
    38 tokens between their ends, whatever ``max_new_tokens``. With ``num_beams`` B, captions are
    written that begin with the B likeliest first words, each continued greedily, and the likeliest
    is taken: that is the published search. Texts that are streamed come as they are decoded: with
    spaces around hyphens and apostrophes, which whole captions do not have.

    Args:
        config: sizes, and the names of the classes.
        tokenizer: of captions: BERT's, uncased.
        class_tokenizer: of class names: CLIP's.
        model_id: name for people.

    Raises:
        ValueError: tokenizers and config do not fit.
    """

    model_type: ClassVar[str] = MODEL_TYPE
    config_class: ClassVar[type[Pix2CapConfig]] = Pix2CapConfig
    layout: Layout = checkpoint.PUBLISHED

    config: Pix2CapConfig
    model: Pix2CapModel

    def __init__(
        self,
        config: Pix2CapConfig,
        tokenizer: Tokenizer,
        class_tokenizer: Tokenizer,
        *,
        model_id: str | None = None,
    ) -> None:
        for name, found, expected in (
            ("tokenizer", len(tokenizer), config.text_decoder.vocab_size),
            ("class_tokenizer", len(class_tokenizer), config.text.vocab_size),
        ):
            if found > expected:
                raise ValueError(
                    f"{name}: must have at most the {expected} tokens of the config, got {found}"
                )
        self.class_tokenizer = class_tokenizer
        self._class_vectors = ClassVectors(class_tokenizer)
        super().__init__(config, tokenizer, model_id=model_id)

    @classmethod
    def from_published(cls, file: str | os.PathLike[str], *, model_id: str | None = None) -> Self:
        """Load the published weights; see ``checkpoint`` for what may lie beside them.

        Args:
            file: ``model_state_dict.pt``, or the same tensors in a safetensors file.
            model_id: name for people; that of the file's folder by default.

        Raises:
            FileNotFoundError: the weights, or a vocabulary, are missing.
            ValueError: a damaged file, or one of another model; the message names file and key.
        """
        path = Path(file).resolve()
        if not path.is_file():
            raise FileNotFoundError(f"model: there is no file {os.fspath(file)!r}")
        tokenizer, class_tokenizer = checkpoint.read_tokenizers(path.parent)
        config = checkpoint.read_config(path.parent, class_tokenizer)
        captioner = cls(config, tokenizer, class_tokenizer, model_id=model_id or path.parent.name)
        load_weights(captioner.model, path, cls.layout)
        return captioner

    @classmethod
    def without_weights(
        cls, folder: Path, config: Pix2CapConfig, dtype: torch.dtype | None
    ) -> Self:
        """Build the captioner of our folder, in this dtype, from everything but the weights."""
        captioner = cls(
            config,
            Tokenizer.from_file(folder),
            Tokenizer.from_file(folder / checkpoint.CLASS_TOKENIZER),
        )
        captioner.model.to(dtype)
        return captioner

    def save_published(self, file: str | os.PathLike[str]) -> None:
        """Write the weights as the published flat dictionary, in torch's format.

        Settings and vocabularies are not part of it; :meth:`save_pretrained` writes everything.
        """
        checkpoint.save_published(self.model, Path(file))

    def texts(self) -> dict[str, str]:
        """The vocabulary of class names."""
        return {checkpoint.CLASS_TOKENIZER: self.class_tokenizer.backend.to_str(pretty=True) + "\n"}

    def build_model(self) -> Pix2CapModel:
        """The model, without weights."""
        return Pix2CapModel(self.config)

    @property
    def decoder(self) -> nn.Module:
        """The caption head."""
        return self.model.caption_head

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """The end of a caption."""
        return (self.tokenizer.token_id(END),)

    # ---- segments ----

    def segment(
        self,
        image: ImageSource,
        classes: Sequence[str] | None = None,
        *,
        stuff: Collection[str] = (),
        num_beams: int | None = None,
        mask_threshold: float | None = None,
        overlap_threshold: float | None = None,
    ) -> list[Segment]:
        """Find the segments of a picture and caption them.

        Args:
            image: anything :func:`fastregion.images.load_image` reads.
            classes: names of what to look for, any words; None for the model's own classes. The
                vectors of names are made at their first use, which takes a while, and kept.
            stuff: which of ``classes`` are stuff, of which a picture has one segment at most.
            num_beams: first words that a caption's search begins with; None for the config's.
            mask_threshold: a query counts above this probability of its class; None: the config's.
            overlap_threshold: a segment must keep this share of its mask; None: the config's.

        Returns:
            Segments that do not overlap, in the order of their ids; may be none.

        Raises:
            FileNotFoundError, TypeError, ValueError: an argument is not as described; the message
                begins with its name.
        """
        categories: Sequence[Category] = self.config.categories
        if classes is not None:
            categories = named_categories(classes, stuff)
        elif stuff:
            raise ValueError("stuff: must be among classes, which are the model's own")
        beams = self.config.text_decoder.beam_size if num_beams is None else num_beams
        check_beams(beams, self.config.text_decoder.vocab_size)
        inference = with_thresholds(self.config.inference, mask_threshold, overlap_threshold)
        pixels = single_image(self, image)
        with evaluating(self.model), torch.inference_mode():
            text_embeddings = self.text_embeddings([category.name for category in categories])
            output, input_size = self._predict(pixels, text_embeddings)
        return self.merge(
            output,
            input_size,
            pixels.shape[:2],
            categories=categories,
            inference=inference,
            num_beams=beams,
        )

    @torch.inference_mode()
    def merge(
        self,
        output: Pix2CapOutput,
        input_size: tuple[int, int],
        size: tuple[int, int],
        *,
        categories: Sequence[Category],
        inference: InferenceConfig,
        num_beams: int,
    ) -> list[Segment]:
        """Segments of one picture from its predictions; only what becomes one is captioned.

        Args:
            output: of one picture.
            input_size: its height and width in the network, without padding.
            size: height and width of the segments.
            categories: the K classes.
            inference: thresholds.
            num_beams: as for :meth:`segment`.
        """
        kept = keep_queries(output.class_logits[0], inference.object_mask_threshold)
        height, width = output.mask_logits.shape[2:]
        padded_size = STRIDE * height, STRIDE * width
        masks = (
            mask
            for some in torch.split(output.mask_logits[0, kept.queries], _MASKS_AT_A_TIME)
            for mask in resize_masks(some, padded_size, input_size, size)
        )
        things = [index for index, category in enumerate(categories) if category.isthing]
        panoptic, merged = merge_segments(kept, masks, size, things, inference.overlap_threshold)
        queries = [segment.query for segment in merged]
        captions = self.caption(output.object_features[0, queries], num_beams=num_beams)
        texts = {query: text.text for query, text in zip(queries, captions, strict=True)}
        return segments(panoptic, merged, categories, texts)

    def caption(self, object_features: Tensor, *, num_beams: int = 1) -> list[GeneratedText]:
        """Captions of objects.

        Args:
            object_features: ``[N, 2, D]``, some of ``Pix2CapOutput.object_features``.
            num_beams: as for :meth:`segment`.
        """
        if not len(object_features):
            return []
        with evaluating(self.model.caption_head), torch.inference_mode():
            prompts = self._prompts(object_features)
        return self.generate(prompts, _sampling(num_beams), None)

    def text_embeddings(self, names: Sequence[str]) -> Tensor:
        """T, ``[len(names) + 1, dim_proj]``: vectors of class names, and that of"no object".

        Those that were asked for last are kept, while the text encoder stays as it is.
        """
        return self._class_vectors.of(self.model.text_encoder, names)

    # ---- captions of given regions ----

    def process(self, request: RegionRequest) -> Pix2CapBatch:
        """Keep what is captioned; an image's predictions are made once, for all of its regions.

        Raises:
            NotImplementedError: an instruction or a question, which Pix2Cap cannot be given.
        """
        if request.instruction is not None:
            raise NotImplementedError(
                f"prompt: {self.model_id} captions regions and takes no instruction or question"
            )
        return Pix2CapBatch(image=request.image, regions=request.regions, kept=request.kept)

    def encode(self, batch: Pix2CapBatch) -> PackedPrompts:
        """Find the query of each region, and lay out what its caption continues."""
        if _OUTPUT not in batch.kept:
            weight = self.model.predictor.class_embed
            batch.kept[_OUTPUT] = self._predict(batch.image, weight.new_empty(0, weight.shape[1]))
        output, input_size = batch.kept[_OUTPUT]
        mask_logits = output.mask_logits[0, :-1]
        height, width = mask_logits.shape[1:]
        shares = [
            region_shares(region.mask, input_size, (height, width), self.device)
            for region in batch.regions
        ]
        queries = matching_queries(torch.stack(shares), mask_logits)
        return self._prompts(output.object_features[0, queries])

    def append_text(self, prompts: PackedPrompts, texts: Sequence[str]) -> PackedPrompts:
        """Continue each prompt with a caption, cut as in training, and its end."""
        ids = [caption_ids(text, self.tokenizer)[1:] for text in texts]
        positions = torch.cat([torch.arange(1, 1 + len(caption)) for caption in ids])
        embedding, device = self.model.caption_head.embedding, self.device
        return append_tokens(prompts, ids, lambda tokens: embedding(tokens, positions.to(device)))

    def generate(
        self,
        prompts: PackedPrompts | SharedPrompts | ReadPrompts,
        sampling: Sampling,
        generator: torch.Generator | None,
    ) -> list[GeneratedText]:
        """Captions, tidied up; with several beams, by the published search."""
        if sampling.num_beams == 1:
            found = super().generate(prompts, sampling, generator)
        else:
            assert not isinstance(prompts, SharedPrompts), "encode() makes none"
            found = self._search(prompts, sampling)
        return [replace(one, text=tidy(one.text)) for one in found]

    def candidates(self, prompts: ReadPrompts, sampling: Sampling) -> list[list[GeneratedText]]:
        """Captions of a plain beam search, tidied up."""
        found = super().candidates(prompts, sampling)
        return [[replace(one, text=tidy(one.text)) for one in texts] for texts in found]

    def check_sampling(self, sampling: Sampling) -> None:
        """With beams: neither length penalty, early stopping nor stop strings; a token for each."""
        if sampling.num_beams == 1:
            return
        plain = _sampling(sampling.num_beams, sampling.max_new_tokens)
        if replace(sampling, seed=None) != plain:
            raise NotImplementedError(
                f"num_beams: {self.model_id} searches without length_penalty, early_stopping and "
                "stop"
            )
        check_beams(sampling.num_beams, self.config.text_decoder.vocab_size)

    def _search(
        self, prompts: PackedPrompts | ReadPrompts, sampling: Sampling
    ) -> list[GeneratedText]:
        """The likeliest of the greedy continuations of each of the likeliest first words."""
        found = likeliest_beams(
            self.model.caption_head,
            prompts,
            num_beams=sampling.num_beams,
            max_new_tokens=sampling.max_new_tokens,
            end=self.tokenizer.token_id(END),
        )
        return [
            GeneratedText(**vars(one), text=self.tokenizer.decode(one.token_ids)) for one in found
        ]

    # ---- inside ----

    def _prompts(self, object_features: Tensor) -> PackedPrompts:
        return self.model.caption_head.prompts(object_features, self.tokenizer.token_id(BEGIN))

    def _predict(
        self, image: RgbImage, text_embeddings: Tensor
    ) -> tuple[Pix2CapOutput, tuple[int, int]]:
        """Predictions for one picture, and its size in the network, without padding."""
        size = inference_size(image.shape[:2])
        pixels = torch.from_numpy(resize(image, size)).permute(2, 0, 1).to(self.device)
        normal = normalise(pixels, self.config.pixel_mean, self.config.pixel_std)
        batch = pad_batch([normal], SIZE_DIVISOR)
        output: Pix2CapOutput = self.model(
            batch.to(self.model.predictor.class_embed.dtype), text_embeddings
        )
        return output, size


def _sampling(num_beams: int, max_new_tokens: int = MAX_TOKENS) -> Sampling:
    """Greedy, or the published search."""
    return Sampling(max_new_tokens=max_new_tokens, temperature=0.0, seed=None, num_beams=num_beams)
