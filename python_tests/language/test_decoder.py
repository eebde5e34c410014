"""The lean forward against that of transformers, on random decoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastregion.language import PackedPrompts, append_tokens, generate, pack, score
from fastregion.language.decoder import IncrementalDecoder

Make = Callable[..., Any]


def reference_logits(decoder: nn.Module, prompts: PackedPrompts, side: str = "right") -> Tensor:
    """Logits ``[total_tokens, vocab]`` from the decoder's own forward on a padded batch."""
    padded = prompts.pad(side)  # type: ignore[arg-type]
    with torch.no_grad():
        logits: Tensor = decoder(**padded._replace(labels=None)._asdict()).logits
    return logits[padded.attention_mask.bool()]


def packed_logits(decoder: nn.Module, prompts: PackedPrompts) -> Tensor:
    model = IncrementalDecoder(decoder)
    return model.logits(model.prefill(prompts))


def stepped_logits(decoder: nn.Module, prompts: PackedPrompts, texts: Tensor) -> Tensor:
    """Logits ``[T, B, vocab]`` after each token of ``texts [T, B]``, read one at a time."""
    model = IncrementalDecoder(decoder)
    cache = model.new_cache(prompts)
    model.prefill(prompts, cache)
    return torch.stack([model.step(tokens, cache) for tokens in texts])


ROPE = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
}

CASES = [
    ("llama", {"kv_heads": 1}),
    ("llama", {"kv_heads": 2}),
    ("llama", {"kv_heads": 4, "tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 16, "rms_norm_eps": 1e-2}),
    ("llama", {"hidden_act": "gelu"}),
    ("qwen2", {"kv_heads": 1, "rms_norm_eps": 1e-5}),
    ("qwen2", {"kv_heads": 4, "tie_word_embeddings": True}),
    *[("llama", {"rope_parameters": rope}) for rope in ROPE.values()],
]


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_prefill_equals_transformers(
    make_decoder: Make, make_prompts: Make, kind: str, settings: dict[str, Any], side: str
) -> None:
    decoder = make_decoder(kind, **settings)
    prompts = make_prompts()
    expected = reference_logits(decoder, prompts, side)
    torch.testing.assert_close(packed_logits(decoder, prompts), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=str)
def test_steps_equal_one_forward(
    make_decoder: Make, make_prompts: Make, kind: str, settings: dict[str, Any]
) -> None:
    decoder = make_decoder(kind, **settings)
    prompts = make_prompts()
    texts = torch.randint(61, (4, prompts.batch_size), generator=torch.Generator().manual_seed(1))
    whole = append_tokens(prompts, texts.T.tolist(), decoder.get_input_embeddings())
    assert whole.labels is not None
    expected = reference_logits(decoder, whole)[whole.labels >= 0].view(-1, 4, 61).transpose(0, 1)
    actual = stepped_logits(decoder, prompts, texts)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)


def test_float64_is_computed_in_float64(make_decoder: Make, make_prompts: Make) -> None:
    # transformers normalises in float32 even then, so the truth is the same forward without that
    decoder, prompts = make_decoder().double(), make_prompts(dtype=torch.float64)
    batched = packed_logits(decoder, prompts)
    alone = torch.cat([packed_logits(decoder, prompts.select([i])) for i in range(len(prompts))])
    assert batched.dtype == torch.float64
    torch.testing.assert_close(batched, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(batched, reference_logits(decoder, prompts), rtol=1e-5, atol=1e-5)


def test_bfloat16_is_no_worse_than_transformers(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder().bfloat16(), make_prompts(dtype=torch.bfloat16)
    exact_decoder = make_decoder().bfloat16().double()
    # the angles of the rounded inverse frequencies, so that both compute the same function
    exact = reference_logits(exact_decoder, prompts.to(dtype=torch.float64))
    budget = (reference_logits(decoder, prompts).double() - exact).abs().max()
    error = (packed_logits(decoder, prompts).double() - exact).abs().max()
    floor = torch.finfo(torch.bfloat16).eps * exact.abs().max()
    assert error <= 2 * budget + floor, f"error {error:.2e}, transformers {budget:.2e}"


def test_positions_are_those_of_the_prompts(make_decoder: Make) -> None:
    decoder = make_decoder()
    plain = pack([torch.randn(6, 32)])
    gaps = torch.tensor([0, 3, 4, 9, 20, 21])
    shifted = PackedPrompts(plain.embeddings, plain.cu_seqlens, gaps)
    actual = packed_logits(decoder, shifted)
    torch.testing.assert_close(actual, reference_logits(decoder, shifted), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(actual, packed_logits(decoder, plain), atol=1e-3)


def test_prompts_and_decoder_are_left_alone(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    weights = {name: weight.clone() for name, weight in decoder.state_dict().items()}
    embeddings = prompts.embeddings.clone()
    generate(decoder, prompts, max_new_tokens=3, eos_token_ids=[])
    assert torch.equal(prompts.embeddings, embeddings)
    for name, weight in decoder.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    loss = decoder(**prompts.pad()._replace(labels=None)._asdict()).logits.sum()
    loss.backward()  # nothing of the decoder became an inference tensor


def test_weights_are_read_anew_in_each_call(make_decoder: Make, make_prompts: Make) -> None:
    decoder, prompts = make_decoder(), make_prompts()
    before = packed_logits(decoder, prompts)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(1.1)
    after = packed_logits(decoder, prompts)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, reference_logits(decoder, prompts), rtol=1e-5, atol=1e-4)


def test_autocast_and_training_mode_change_nothing(make_decoder: Make, make_prompts: Make) -> None:
    decoder = make_decoder(attention_dropout=0.5)
    prompts = append_tokens(make_prompts(), [[1, 2]] * 5, decoder.get_input_embeddings())
    expected = score(decoder, prompts)
    plain = generate(decoder, prompts, max_new_tokens=4, eos_token_ids=[])
    decoder.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(score(decoder, prompts), expected)
        assert generate(decoder, prompts, max_new_tokens=4, eos_token_ids=[]) == plain


class TestRefuses:
    def test_other_architectures(self) -> None:
        with pytest.raises(TypeError, match=r"expected a transformers Llama.* got Linear"):
            IncrementalDecoder(nn.Linear(2, 2))

    def test_a_decoder_without_head(self, make_decoder: Make) -> None:
        with pytest.raises(TypeError, match="got LlamaModel"):
            IncrementalDecoder(make_decoder().model)

    def test_adapters(self, make_decoder: Make) -> None:
        class Adapter(nn.Linear):
            pass

        decoder = make_decoder()
        decoder.model.layers[1].self_attn.v_proj = Adapter(32, 16)
        with pytest.raises(TypeError, match=r"v_proj must be a torch.nn.Linear, got Adapter"):
            IncrementalDecoder(decoder)

    def test_sliding_windows(self, make_decoder: Make) -> None:
        decoder = make_decoder(
            "qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=1
        )
        with pytest.raises(NotImplementedError, match="sliding_attention"):
            IncrementalDecoder(decoder)

    def test_longrope(self, make_decoder: Make) -> None:
        rope = {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
        }
        with pytest.raises(NotImplementedError, match="longrope"):
            IncrementalDecoder(make_decoder(rope_parameters=rope))

    def test_mixed_dtypes(self, make_decoder: Make) -> None:
        decoder = make_decoder()
        decoder.model.layers[0].mlp.double()
        with pytest.raises(TypeError, match=r"one floating dtype, got .*float32.*float64"):
            IncrementalDecoder(decoder)

    def test_weights_that_are_not_there(self, make_decoder: Make) -> None:
        with pytest.raises(ValueError, match=r"on one device, got \['meta'\]"):
            IncrementalDecoder(make_decoder().to("meta"))

    @pytest.mark.parametrize(
        ("prompts", "error", "message"),
        [
            (torch.zeros(3, 32), TypeError, "expected PackedPrompts, got Tensor"),
            (pack([torch.zeros(3, 31)]), ValueError, "decoder's 32, got 31"),
            (pack([torch.zeros(3, 32).double()]), TypeError, r"float32, got torch.float64; conv"),
            (pack([torch.zeros(513, 32)]), ValueError, "max_position_embeddings 512, got 512"),
        ],
        ids=["type", "width", "dtype", "context"],
    )
    def test_prompts_that_do_not_fit(
        self, make_decoder: Make, prompts: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            IncrementalDecoder(make_decoder()).check(prompts)
