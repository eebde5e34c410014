"""A model folder as a judge: tiny models with random weights, saved and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from fastregion.evaluation.data_urls import data_url
from fastregion.evaluation.judges.choose import local_chat
from fastregion.evaluation.judges.local import LocalModel

WORDS = [*"abcdefghij", "user", "<image>", "</s>", "yes", "no", "judge", ":", "?"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{{ '<image>' if p['type'] == 'image' else p['text'] }} "
    "{% endfor %}{% endif %} {% endfor %}{% if add_generation_prompt %}judge :{% endif %}"
)


def make_tokenizer(template: str | None = TEMPLATE) -> Any:
    words = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="</s>",
        pad_token="</s>",
        chat_template=template,
        extra_special_tokens={"image_token": "<image>"},
    )


def text_config() -> Any:
    return transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, eos_token_id=WORDS.index("</s>"),
        pad_token_id=WORDS.index("</s>"), bos_token_id=None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("judge") / "tiny-judge"
    transformers.LlamaForCausalLM(text_config()).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def ask(judge: LocalModel, text: Any, **options: Any) -> Any:
    return judge.ask([{"role": "user", "content": text}], options)


def test_answers_are_those_of_the_model(folder: Path) -> None:
    judge = LocalModel(folder, "cpu")
    answer = ask(judge, "a b c", max_tokens=6, temperature=0, top_p=1, presence_penalty=0)
    tokenizer = make_tokenizer()
    ids = tokenizer("user : a b c judge :", return_tensors="pt").input_ids
    model = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    found = ids
    for _ in range(6):
        with torch.no_grad():
            found = torch.cat([found, model(found).logits[:, -1:].argmax(-1)], 1)
        if found[0, -1] == WORDS.index("</s>"):
            break
    new = found[0, ids.shape[1] :]
    assert answer.text == tokenizer.decode(new, skip_special_tokens=True).strip()
    assert answer.usage == {"prompt_tokens": ids.shape[1], "completion_tokens": len(new)}
    assert ask(judge, "a b c", max_tokens=6) == answer  # greedy where nothing is said
    parts = [{"type": "text", "text": "a b c"}]
    assert ask(judge, parts, max_tokens=6) == answer


def test_drawing_is_repeatable(folder: Path) -> None:
    judge = LocalModel(folder, "cpu")
    drawn = {
        seed: [ask(judge, "a", max_tokens=20, temperature=5.0, seed=seed).text for _ in range(2)]
        for seed in (1, 2)
    }
    for first, second in drawn.values():
        assert first == second
    assert drawn[1] != drawn[2]


def test_the_name_tells_weights_apart(folder: Path, tmp_path: Path) -> None:
    name = LocalModel(folder, "cpu").name
    assert name.startswith("tiny-judge ")
    other = tmp_path / "tiny-judge"
    torch.manual_seed(4)
    transformers.LlamaForCausalLM(text_config()).save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    assert local_chat(f"local:{other}").name not in ("tiny-judge", name)


def test_what_it_cannot_do(folder: Path, tmp_path: Path) -> None:
    judge = LocalModel(folder, "cpu")
    picture = {"type": "image_url", "image_url": {"url": data_url(np.zeros((8, 8, 3), np.uint8))}}
    with pytest.raises(ValueError, match="sees no pictures"):
        ask(judge, [picture])
    with pytest.raises(ValueError, match="judge: a local model has no option n=3"):
        ask(judge, "a", n=3)
    with pytest.raises(FileNotFoundError, match=r"judge: .* is no folder with a model"):
        LocalModel(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"judge: .* cannot be loaded"):
        LocalModel(tmp_path)


def test_a_model_without_a_chat_template(tmp_path: Path) -> None:
    transformers.LlamaForCausalLM(text_config()).save_pretrained(tmp_path)
    make_tokenizer(None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"judge: .* has no chat template"):
        LocalModel(tmp_path)


def test_a_model_with_a_processor_sees_pictures(tmp_path: Path) -> None:
    torch.manual_seed(5)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=16, patch_size=8,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text_config(), image_token_index=WORDS.index("<image>")
    )
    model = transformers.LlavaForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16),
        make_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(tmp_path)
    judge = LocalModel(tmp_path, "cpu")

    def say(gray: int) -> Any:
        url = data_url(np.full((20, 30, 3), gray, np.uint8))
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "a ?"}]
        return ask(judge, parts, max_tokens=12)

    assert (
        say(0).usage["prompt_tokens"] == len(["user", ":", "a", "?", "judge", ":"]) + 4
    )  # 2 x 2 patches
    assert len({say(gray).text for gray in (0, 90, 255)}) > 1
    with pytest.raises(ValueError, match="judge: expected a picture as a data URL"):
        ask(judge, [{"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}])
