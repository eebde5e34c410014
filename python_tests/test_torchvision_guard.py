"""The guard against a torchvision that does not match torch, in fresh interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BROKEN = 'raise RuntimeError("operator torchvision::nms does not exist")\n'
COUNT_WARNINGS = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {body}
ours = [str(w.message) for w in caught if "torchvision" in str(w.message)]
print(len(ours), *ours)
"""


def fake_torchvision(folder: Path, init: str) -> Path:
    """Lay down an installed-looking torchvision whose package runs ``init``."""
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(init)
    (package / "extension.py").write_text("")
    for name in ("transforms", "io"):
        (package / name).mkdir()
        (package / name / "__init__.py").write_text("")
    info = folder / "torchvision-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1.0\n")
    (info / "RECORD").write_text("")
    return folder


def run(code: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[1])
    path = [str(site)] if site else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*path, root])}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return fake_torchvision(tmp_path / "site", "from torchvision import extension\n" + BROKEN)


def test_llama_imports_and_runs_beside_a_broken_torchvision(broken: Path) -> None:
    result = run(
        COUNT_WARNINGS.format(
            body="""
    from fastregion._torchvision_guard import ensure, import_transformers
    llama = import_transformers("models.llama")
    ensure()
    import_transformers()
    from transformers import LlamaConfig, LlamaForCausalLM
    assert llama.LlamaForCausalLM is LlamaForCausalLM
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1)
    LlamaForCausalLM(config)"""
        )
        + """
import sys, transformers.utils
print([name for name in sys.modules if name.startswith("torchvision.")])
print(transformers.utils.is_torchvision_available())
try:
    import torchvision
except ImportError:
    print("hidden")
""",
        broken,
    )
    assert result.returncode == 0, result.stderr
    count, leftovers, available, hidden = result.stdout.strip().splitlines()
    assert count.startswith("1 ")
    assert "torchvision::nms" in count
    assert "pip" in count
    assert (leftovers, available, hidden) == ("[]", "False", "hidden")


def test_transformers_that_was_imported_first_forgets_torchvision(broken: Path) -> None:
    result = run(
        """
import warnings
warnings.simplefilter("ignore")
import transformers.utils
assert transformers.utils.is_torchvision_available()
try:
    import transformers.image_utils
except RuntimeError as error:
    assert "torchvision::nms" in str(error)
else:
    raise SystemExit("the fake torchvision does not break transformers: nothing is tested")
from fastregion._torchvision_guard import import_transformers
import_transformers("models.llama").LlamaForCausalLM
""",
        broken,
    )
    assert result.returncode == 0, result.stderr


def test_a_working_torchvision_stays(tmp_path: Path) -> None:
    site = fake_torchvision(tmp_path / "site", "__version__ = '0.1.0'\n")
    result = run(
        COUNT_WARNINGS.format(
            body="from fastregion._torchvision_guard import ensure; ensure(); import torchvision"
        ),
        site,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0"]


def test_without_torchvision_nothing_is_imported() -> None:
    result = run(
        """
import sys, importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torchvision" else real(name)
from fastregion._torchvision_guard import ensure
before = set(sys.modules)
ensure()
print(sorted(set(sys.modules) - before))
"""
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
