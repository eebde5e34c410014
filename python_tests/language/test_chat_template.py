"""Chat templates of checkpoints: found, rendered in a sandbox, and named when they fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastregion.language import ChatTemplate

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] "
    "{% for part in m.content if part.type == 'image' %}<image>{% endfor %}"
    "{% for part in m.content if part.type == 'text' %}{{ part.text | trim }}{% endfor %};"
    "{% endfor %}{% if add_generation_prompt %}[{{ role }}]{% endif %}"
)
MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": " What? "}, {"type": "image"}]},
]


def test_a_conversation_as_text() -> None:
    template = ChatTemplate(TEMPLATE, special_tokens={"bos_token": "<s>"})
    assert template.render(MESSAGES, role="a") == "<s>[user] <image>What?;[a]"
    text = template.render(MESSAGES, add_generation_prompt=False)
    assert text == "<s>[user] <image>What?;"


def test_where_templates_are_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no chat_template\.jinja"):
        ChatTemplate.from_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "one"}))
    assert ChatTemplate.from_pretrained(tmp_path).render([]) == "one"
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": "two"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert ChatTemplate.from_pretrained(tmp_path).render([]) == "two"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "three"}))
    assert ChatTemplate.from_pretrained(tmp_path).render([]) == "three"
    (tmp_path / "chat_template.jinja").write_text("four {{ eos_token }}")
    template = ChatTemplate.from_pretrained(tmp_path, {"eos_token": "é"})
    assert template.render([]) == "four é"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"tokenizer_config\.json: chat_template: must be a text, got int"),
        ([{"name": "tools", "template": "x"}], r"chat_template: has no template named 'default'"),
        ([{"name": "default"}], r"chat_template: must be a text or a list of name and template"),
        ({"default": 5}, r"chat_template: must be a text, got int"),
    ],
)
def test_files_that_have_none(tmp_path: Path, value: object, message: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ValueError, match=message):
        ChatTemplate.from_pretrained(tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"chat_template\.jinja: is not UTF-8"):
        ChatTemplate.from_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text("{")
    with pytest.raises(ValueError, match=r"chat_template\.json': not valid JSON"):
        ChatTemplate.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", r"file: TemplateSyntaxError"),
        ("{{ raise_exception('only one system turn') }}", r"file: .*only one system turn"),
        ("{{ ''.__class__.__mro__ }}", r"file: SecurityError"),
        ("{{ messages.append(1) }}", r"file: SecurityError"),
        ("{{ messages[0].content + 1 }}", r"file: TypeError"),
    ],
)
def test_templates_that_fail_are_named(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ChatTemplate(template, "file").render([{"role": "user", "content": "a"}])


def test_a_template_is_a_text_of_bounded_length() -> None:
    with pytest.raises(TypeError, match="chat_template: must be a string, got int"):
        ChatTemplate(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at most 1048576 characters"):
        ChatTemplate(" " * (2**20 + 1))
