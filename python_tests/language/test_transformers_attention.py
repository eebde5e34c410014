"""transformers' own models with our attention against the same models with theirs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastregion._torchvision_guard import import_transformers
from fastregion.language.transformers_attention import (
    ATTENTION,
    AttentionCache,
    use_fastregion_attention,
)

StaticCache: Any = import_transformers("cache_utils").StaticCache
Make = Callable[..., Any]
KINDS = [("llama", 1), ("llama", 2), ("llama", 4), ("qwen2", 2)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=KINDS, ids=str)
def pair(request: pytest.FixtureRequest, make_decoder: Make, device: str) -> tuple[Any, Any]:
    """A decoder with transformers' attention, and its twin with ours."""
    kind, kv_heads = request.param
    theirs = make_decoder(kind, kv_heads=kv_heads).to(device)
    theirs.set_attn_implementation("eager")
    ours = copy.deepcopy(theirs)
    use_fastregion_attention(ours)
    assert ours.config._attn_implementation == ATTENTION
    return theirs, ours


def ragged(lengths: tuple[int, ...], side: str = "left", device: str = "cpu") -> dict[str, Tensor]:
    """Random token ids, padded."""
    longest = max(lengths)
    ids = torch.randint(61, (len(lengths), longest))
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(longest - length, None) if side == "left" else slice(length)
        mask[row, place] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def greedy(model: Any, inputs: dict[str, Tensor], **settings: Any) -> Tensor:
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    ids: Tensor = model.generate(**inputs, **{**options, **settings})
    return ids


@pytest.mark.parametrize("lengths", [(7,), (5, 5), (3, 11, 1, 8)], ids=str)
@pytest.mark.parametrize("own_cache", [True, False])
def test_generate_gives_the_same_ids(
    pair: tuple[Any, Any], device: str, lengths: tuple[int, ...], own_cache: bool
) -> None:
    theirs, ours = pair
    inputs = ragged(lengths, device=device)
    cache = {"past_key_values": AttentionCache()} if own_cache else {}
    assert greedy(ours, inputs, **cache).tolist() == greedy(theirs, inputs).tolist()


def test_beams_give_the_same_ids(pair: tuple[Any, Any], device: str) -> None:
    theirs, ours = pair
    inputs = ragged((4, 9), device=device)
    actual = greedy(ours, inputs, num_beams=3, past_key_values=AttentionCache())
    assert actual.tolist() == greedy(theirs, inputs, num_beams=3).tolist()


def test_shared_prefixes_give_the_same_ids(pair: tuple[Any, Any], device: str) -> None:
    theirs, ours = pair
    prefixes, prefix_of = ragged((9, 4), device=device), [0, 1, 0, 0]
    suffixes = ragged((3, 6, 1, 5), device=device)
    whole = {
        name: torch.cat((prefixes[name][prefix_of], suffixes[name]), dim=1) for name in suffixes
    }
    prefix = AttentionCache()
    with torch.no_grad():
        positions = (prefixes["attention_mask"].cumsum(1) - 1).clamp(min=0)
        ours(**prefixes, position_ids=positions, past_key_values=prefix)
    actual = greedy(ours, whole, past_key_values=prefix.share(prefix_of))
    assert actual.tolist() == greedy(theirs, whole).tolist()
    again = greedy(ours, whole, past_key_values=prefix.share(prefix_of))  # nothing was overwritten
    assert again.tolist() == actual.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_blocks_of_tokens_equal_one_forward(pair: tuple[Any, Any], device: str, side: str) -> None:
    theirs, ours = pair
    inputs = ragged((12, 5, 9), side, device)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(**inputs, position_ids=positions).logits
        cache, parts = AttentionCache(), []
        for begin, end in ((0, 4), (4, 5), (5, 12)):
            parts.append(
                ours(
                    input_ids=inputs["input_ids"][:, begin:end],
                    attention_mask=inputs["attention_mask"][:, :end],
                    position_ids=positions[:, begin:end],
                    past_key_values=cache,
                ).logits
            )
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(torch.cat(parts, dim=1)[real], expected[real], rtol=1e-5, atol=2e-5)


def test_training_gives_the_same_gradients(pair: tuple[Any, Any], device: str) -> None:
    theirs, ours = pair
    inputs = ragged((6, 10), device=device)
    first = inputs["attention_mask"].cumsum(1) < 2  # padding predicts the first token: no meaning
    labels = inputs["input_ids"].masked_fill(first, -100)
    for model in pair:
        model.train()
        model(**inputs, labels=labels).loss.backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name
        )


def test_the_mask_is_read_once_a_pass(make_decoder: Make) -> None:
    ours = make_decoder(num_hidden_layers=3)
    use_fastregion_attention(ours)
    inputs = ragged((5, 9, 2), "right")
    cache = AttentionCache()
    for begin, end in ((0, 4), (4, 9)):
        with torch.no_grad(), CountedOperators() as calls:
            ours(
                input_ids=inputs["input_ids"][:, begin:end],
                attention_mask=inputs["attention_mask"][:, :end],
                past_key_values=cache,
            )
        assert calls.counts["aten::nonzero"] == 1
        assert calls.counts["aten::aminmax"] == 1
        assert calls.counts["aten::masked_fill_"] == (begin == 0)
    with CountedOperators() as calls:
        ours(**inputs, use_cache=False)  # as in training: the host does not look
    assert calls.counts["aten::masked_fill_"] == 1
    assert not {"aten::nonzero", "aten::aminmax", "aten::_local_scalar_dense"} & set(calls.counts)


class CountedOperators(TorchDispatchMode):
    """Counts the operators that run in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def test_rejected_candidates_are_cropped(pair: tuple[Any, Any], device: str) -> None:
    """Prompt lookup proposes tokens, of which the model keeps some."""
    theirs, ours = pair
    inputs = {"input_ids": torch.tensor([5, 9, 2, 7], device=device).repeat(1, 6)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    cache = AttentionCache()
    cropped: list[int] = []
    crop = cache.crop
    cache.crop = lambda count: (cropped.append(count), crop(count))
    settings = {"prompt_lookup_num_tokens": 3, "past_key_values": cache}
    actual = greedy(ours, inputs, **settings)
    assert actual.tolist() == greedy(theirs, inputs).tolist()
    assert min(cropped) < 0
    assert cache.get_seq_length() == actual.shape[1] - 1


@pytest.mark.parametrize("own_cache", [True, False])
def test_odd_head_widths(make_decoder: Make, own_cache: bool) -> None:
    theirs = make_decoder(head_dim=12)
    ours = copy.deepcopy(theirs)
    use_fastregion_attention(ours)
    inputs = ragged((5, 9))
    cache = {"past_key_values": AttentionCache()} if own_cache else {}
    assert greedy(ours, inputs, **cache).tolist() == greedy(theirs, inputs).tolist()


def test_buffers_grow(make_decoder: Make) -> None:
    theirs = make_decoder()
    ours = copy.deepcopy(theirs)
    use_fastregion_attention(ours)
    inputs = ragged((3, 5))
    actual = greedy(ours, inputs, max_new_tokens=300, past_key_values=AttentionCache())
    assert actual.tolist() == greedy(theirs, inputs, max_new_tokens=300).tolist()


def test_a_long_block_leaves_room(make_decoder: Make) -> None:
    """Rows are as long as the tokens of the longest sequence, and some more."""
    ours = make_decoder()
    use_fastregion_attention(ours)
    cache = AttentionCache()
    with torch.no_grad():
        for part in (ragged((200, 3)), ragged((300, 300))):
            mask = torch.ones(2, cache.get_seq_length(), dtype=torch.int64)
            mask[1, :197] = 0
            part["attention_mask"] = torch.cat((mask, part["attention_mask"]), dim=1)
            ours(**part, past_key_values=cache)
    blocks = cache.layers[0].keys.shape[2]
    assert 16 * blocks == 768  # 200 + 300 + 256, in blocks of 16


class TestRefused:
    def test_not_a_transformers_model(self) -> None:
        with pytest.raises(TypeError, match="model: expected a transformers model, got Linear"):
            use_fastregion_attention(nn.Linear(2, 2))

    def test_sliding_windows(self, make_decoder: Make) -> None:
        decoder = make_decoder(
            "qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=0
        )
        with pytest.raises(NotImplementedError, match=r"got layer types .'sliding_attention'."):
            use_fastregion_attention(decoder)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"attention_mask": torch.zeros(1, 1, 4, 4)}, r"attention_mask must be \[batch"),
            ({"position_ids": torch.tensor([[0, 1, 0, 1]])}, "several sequences in one row"),
        ],
    )
    def test_masks(self, make_decoder: Make, settings: dict[str, Any], message: str) -> None:
        ours = make_decoder()
        use_fastregion_attention(ours)
        with pytest.raises(NotImplementedError, match=message):
            ours(input_ids=torch.randint(61, (1, 4)), use_cache=False, **settings)

    def test_dropout(self, make_decoder: Make) -> None:
        ours = make_decoder(attention_dropout=0.1)
        use_fastregion_attention(ours)
        with pytest.raises(NotImplementedError, match=r"dropout must be 0, got 0\.1"):
            ours.train()(input_ids=torch.randint(61, (1, 4)))

    @pytest.mark.parametrize("masked", [False, True])
    def test_static_cache(self, make_decoder: Make, masked: bool) -> None:
        """At a prompt as well as at a step of a full cache, where its free columns have gone."""
        ours = make_decoder()
        use_fastregion_attention(ours)
        inputs = ragged((4, 2)) if masked else {"input_ids": torch.randint(61, (1, 4))}
        cache = StaticCache(ours.config, max_cache_len=16)
        with torch.no_grad(), pytest.raises(NotImplementedError, match=r"as in a StaticCache; use"):
            ours(**inputs, past_key_values=cache)
        full = StaticCache(ours.config, max_cache_len=4)
        with torch.no_grad():
            ours(**inputs, past_key_values=full)
            with pytest.raises(NotImplementedError, match=r"as in a StaticCache; use"):
                ours(input_ids=torch.randint(61, (1, 1)), past_key_values=full)

    def test_cropping_padding(self, make_decoder: Make) -> None:
        ours = make_decoder()
        use_fastregion_attention(ours)
        cache = AttentionCache()
        with torch.no_grad():
            ours(**ragged((4, 2), "right"), past_key_values=cache)
            ours(input_ids=torch.randint(61, (2, 1)), past_key_values=cache)
        cache.crop(-1)
        with pytest.raises(NotImplementedError, match=r"without padding .* newest 0, got 1"):
            cache.crop(-1)

    def test_gradients_through_the_cache(self, make_decoder: Make) -> None:
        ours = make_decoder()
        use_fastregion_attention(ours)
        with pytest.raises(ValueError, match=r"AttentionCache: is for inference.*no_grad\(\)"):
            ours.train()(**ragged((4,)), past_key_values=AttentionCache())

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_a_model_with_another_attention(self, make_decoder: Make, attention: str) -> None:
        theirs = make_decoder()
        theirs.set_attn_implementation(attention)
        message = r"AttentionCache: must be used by .* call use_fastregion_attention\(model\) first"
        with pytest.raises(ValueError, match=message):
            greedy(theirs, ragged((4, 2)), past_key_values=AttentionCache())
        prefix = AttentionCache()
        with torch.no_grad():
            theirs(**ragged((3,)), past_key_values=prefix)
        with pytest.raises(ValueError, match=message):
            prefix.share([0])

    def test_sharing_nothing(self) -> None:
        with pytest.raises(ValueError, match="must hold the prefixes already, got an empty one"):
            AttentionCache().share([0])

    def test_sharing_what_is_not_there(self, make_decoder: Make) -> None:
        ours = make_decoder()
        use_fastregion_attention(ours)
        prefix = AttentionCache()
        with torch.no_grad():
            ours(**ragged((3,)), past_key_values=prefix)
        with pytest.raises(ValueError, match=r"prefix_of must be in 0\.\.0, got 2 for sequence 1"):
            prefix.share([0, 2])
