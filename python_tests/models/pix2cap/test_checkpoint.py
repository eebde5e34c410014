"""Pix2Cap's files: the published key layout, our folder, and what is wrong with a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_pix2cap
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import fastregion as fr
from fastregion.models.pix2cap import Pix2CapCaptioner, Pix2CapConfig
from fastregion.models.pix2cap.checkpoint import PUBLISHED
from fastregion.models.pix2cap.modeling import Pix2CapModel

FILE = "model_state_dict.pt"
_PREDICTOR = "sem_seg_head.predictor."
_TEXTUAL = f"{_PREDICTOR}text_decoder.textual."


def published_state(model: nn.Module) -> dict[str, Tensor]:
    return {PUBLISHED.published(name): value for name, value in model.state_dict().items()}


def same_weights(one: Pix2CapCaptioner, other: Pix2CapCaptioner) -> bool:
    found, expected = one.model.state_dict(), other.model.state_dict()
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], expected[key]) for key in expected
    )


def test_published_settings_give_the_published_layout() -> None:
    model = Pix2CapModel(Pix2CapConfig())
    state = published_state(model)
    assert len(state) == 1043
    assert all(parameter.is_meta for parameter in model.parameters())

    def millions(module: nn.Module) -> float:
        return round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 2)

    assert round(millions(model), 1) == 408.4
    assert millions(model.backbone) == 205.75
    assert millions(model.pixel_decoder) == 32.19
    assert millions(model.predictor) == 170.47
    assert millions(model.text_encoder.lang_encoder) + 0.26 == pytest.approx(63.43, abs=0.011)
    assert millions(model.caption_head) == 66.99
    for key, shape in {
        "backbone.patch_embed.proj.weight": (192, 3, 7, 7),
        "backbone.layers.0.downsample.proj.weight": (384, 192, 3, 3),
        "backbone.layers.2.blocks.17.modulation.f.weight": (1541, 768),
        "backbone.layers.2.blocks.17.modulation.focal_layers.3.0.weight": (768, 1, 9, 9),
        "backbone.layers.3.blocks.1.gamma_2": (1536,),
        "backbone.layers.3.blocks.0.modulation.h.weight": (1536, 1536, 1, 1),
        "backbone.norm3.weight": (1536,),
        "sem_seg_head.pixel_decoder.adapter_3.weight": (512, 768, 1, 1),
        "sem_seg_head.pixel_decoder.layer_4.norm.weight": (512,),
        "sem_seg_head.pixel_decoder.input_proj.weight": (512, 1536, 1, 1),
        "sem_seg_head.pixel_decoder.transformer.encoder.layers.5.linear1.weight": (2048, 512),
        f"{_PREDICTOR}self_attn_mask": (1, 278, 278),
        f"{_PREDICTOR}query_feat.weight": (201, 512),
        f"{_PREDICTOR}transformer_cross_attention_layers.8.multihead_attn.in_proj_weight": (
            1536,
            512,
        ),
        f"{_PREDICTOR}transformer_self_attention_layers.8.self_attn.in_proj_bias": (1536,),
        f"{_PREDICTOR}transformer_ffn_layers.8.linear2.weight": (512, 2048),
        f"{_PREDICTOR}lang_encoder.logit_scale": (),
        f"{_PREDICTOR}lang_encoder.lang_encoder.positional_embedding": (77, 512),
        f"{_PREDICTOR}lang_encoder.lang_encoder.token_embedding.weight": (49408, 512),
        f"{_PREDICTOR}lang_encoder.lang_encoder.resblocks.11.mlp.c_fc.weight": (2048, 512),
        f"{_PREDICTOR}bbox_embed.layers.2.weight": (4, 512),
        f"{_PREDICTOR}pos_embed_caping.weight": (77, 512),
        f"{_PREDICTOR}caping_embed": (512, 512),
        f"{_PREDICTOR}object_proj.weight": (256, 512),
        f"{_TEXTUAL}object_feature_projection.0.weight": (768, 256),
        f"{_TEXTUAL}embedding.positions.weight": (1024, 768),
        f"{_TEXTUAL}transformer.encoder.layer.5.attention.self.query.weight": (768, 768),
        f"{_TEXTUAL}transformer.encoder.layer.5.attention.output.LayerNorm.bias": (768,),
        f"{_TEXTUAL}output.weight": (30522, 768),
        "criterion.empty_weight": (134,),
    }.items():
        assert tuple(state[key].shape) == shape, key
    assert state[f"{_PREDICTOR}self_attn_mask"].dtype == torch.bool
    weight = state["criterion.empty_weight"]
    assert weight[:-1].eq(1).all()
    assert weight[-1] == pytest.approx(0.1)
    assert f"{_PREDICTOR}input_proj.0.weight" not in state


def test_maps_of_another_width_are_projected() -> None:
    config = tiny_pix2cap.config(encoder=tiny_pix2cap.EncoderConfig(convs_dim=64, mask_dim=16))
    state = published_state(Pix2CapModel(config))
    assert tuple(state[f"{_PREDICTOR}input_proj.2.weight"].shape) == (32, 64, 1, 1)


def test_our_folder(tmp_path: Path) -> None:
    captioner = tiny_pix2cap.captioner()
    captioner.save_pretrained(tmp_path / "ours")
    found = fr.load(tmp_path / "ours")
    assert isinstance(found, Pix2CapCaptioner)
    assert found.config == captioner.config
    assert same_weights(found, captioner)
    names = set(load_file(tmp_path / "ours" / "model.safetensors"))
    assert names < set(published_state(captioner.model))
    for one, other in (
        (found.tokenizer, captioner.tokenizer),
        (found.class_tokenizer, captioner.class_tokenizer),
    ):
        text = "the dog's on top, sing - ok"
        assert one.encode(text, add_special_tokens=True) == other.encode(
            text, add_special_tokens=True
        )
        assert one.decode(one.encode(text)) == other.decode(one.encode(text))
    assert found.model.caption_head.output.weight is found.model.caption_head.embedding.words.weight
    half = fr.load(tmp_path / "ours")
    half.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    again = fr.load(tmp_path / "half", dtype=torch.bfloat16)
    assert next(again.model.parameters()).dtype == torch.bfloat16


def published_folder(folder: Path) -> Pix2CapCaptioner:
    captioner = tiny_pix2cap.captioner()
    tiny_pix2cap.write_vocabularies(folder)
    captioner.save_published(folder / FILE)
    (folder / "config.json").write_text(json.dumps(captioner.config.to_dict()), encoding="utf-8")
    return captioner


def test_published_file(tmp_path: Path) -> None:
    captioner = published_folder(tmp_path)
    state = torch.load(tmp_path / FILE, weights_only=True)
    assert list(state) == list(published_state(captioner.model))
    assert torch.equal(
        state[f"{_TEXTUAL}output.weight"], state[f"{_TEXTUAL}embedding.words.weight"]
    )
    found = fr.load(tmp_path / FILE)
    assert isinstance(found, Pix2CapCaptioner)
    assert found.config == captioner.config
    assert found.model_id == tmp_path.name
    assert same_weights(found, captioner)
    assert next(fr.load(tmp_path / FILE, dtype=torch.float16).model.parameters()).dtype == (
        torch.float16
    )


def test_a_folder_without_settings_has_the_published_ones(tmp_path: Path) -> None:
    published_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"must have shape \(192, 3, 7, 7\), got \(8, 3, 7, 7\)"):
        fr.load(tmp_path)


def without(key: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without(f"{_PREDICTOR}object_proj.bias"),
            rf"no file has tensor '{_PREDICTOR}object_proj\.bias' \(1 of",
        ),
        (
            lambda state: state.update({f"{_PREDICTOR}class_embed": torch.zeros(3, 4)}),
            rf"'{_PREDICTOR}class_embed' must have shape \(32, 16\), got \(3, 4\)",
        ),
        (
            lambda state: state.update({"backbone.norm9.weight": torch.zeros(3)}),
            r"unknown tensor 'backbone\.norm9\.weight'",
        ),
        (
            lambda state: state.update({f"{_PREDICTOR}self_attn_mask": torch.zeros(1, 73, 73)}),
            r"must be bool, got float32",
        ),
    ],
)
def test_what_is_wrong_with_the_tensors_is_named(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    published_folder(tmp_path)
    state = torch.load(tmp_path / FILE, weights_only=True)
    change(state)
    torch.save(state, tmp_path / FILE)
    with pytest.raises(ValueError, match=message) as caught:
        fr.load(tmp_path / FILE)
    assert FILE in str(caught.value)


def test_nothing_but_tensors_is_read(tmp_path: Path) -> None:
    published_folder(tmp_path)
    torch.save({"backbone.norm0.weight": Path("/")}, tmp_path / FILE)
    with pytest.raises(ValueError, match="holds more than tensors, or is damaged; it was not exec"):
        fr.load(tmp_path / FILE)
    (tmp_path / FILE).write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="damaged"):
        fr.load(tmp_path / FILE)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Pix2CapCaptioner.from_published(tmp_path / "nothing.pt")


def test_vocabularies_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    tiny_pix2cap.captioner().save_published(tmp_path / FILE)
    with pytest.raises(
        FileNotFoundError, match="has no folder 'tokenizer_bert', and the vocabulary 'bert-base-un"
    ):
        fr.load(tmp_path / FILE)


def test_tokenizers_must_fit() -> None:
    words, classes = tiny_pix2cap.tokenizer_pair()
    with pytest.raises(ValueError, match=r"^tokenizer: must have at most the 26 tokens"):
        Pix2CapCaptioner(tiny_pix2cap.config(), classes, classes)
    small = tiny_pix2cap.config(text=tiny_pix2cap.TextConfig(width=16, heads=2, vocab_size=9))
    with pytest.raises(ValueError, match=r"^class_tokenizer: must have at most the 9 tokens"):
        Pix2CapCaptioner(small, words, classes)
