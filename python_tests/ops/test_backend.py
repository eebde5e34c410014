"""The choice of backend, what it says, and the table of operators."""

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastregion.ops
from fastregion.ops import OPERATORS, backend, roi_replay
from fastregion.ops import backend as backend_function

MODULE = sys.modules["fastregion.ops.backend"]
OPERATOR_NAMES = sorted(OPERATORS)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTREGION_BACKEND", raising=False)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch):
    """Replaces the native module: None, or one with or without CUDA kernels."""

    def replace(module: SimpleNamespace | None) -> None:
        monkeypatch.setattr(MODULE, "native_module", lambda: module)

    return replace


@pytest.mark.parametrize("name", OPERATOR_NAMES)
def test_table(name: str) -> None:
    entry = OPERATORS[name]
    assert entry.name == name
    assert hasattr(torch.ops.fastregion, name)
    assert set(entry.native + entry.native_backward) <= {"cpu", "cuda"}
    assert hasattr(torch.ops.fastregion, f"{name}_backward") == bool(entry.differentiable)
    if entry.differentiable:  # the gradient has one itself, or refuses: torch would take it for 0
        has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
        assert has_kernel(f"fastregion::{name}_backward", "Autograd")
    assert hasattr(fastregion.ops, name) or name in ("pack_bits", "unpack_bits")


def test_automatic_choice(native) -> None:
    native(SimpleNamespace(cuda_compiled=True))
    assert backend("roi_replay", "cpu") == "cpu"
    assert backend("roi_replay_backward", torch.device("cpu")) == "cpu"
    assert backend("roi_replay", "mps") == "reference"
    native(None)
    assert backend("roi_replay", "cpu") == "reference"


def test_a_device_without_a_kernel_says_so(native, caplog: pytest.LogCaptureFixture) -> None:
    native(SimpleNamespace(cuda_compiled=True))
    with caplog.at_level(logging.DEBUG, logger="fastregion.ops.backend"):
        assert backend("mask_tiles_backward", "cuda") == "reference"
    sentence = "mask_tiles_backward: there is no cuda kernel for this operator"
    assert sentence in caplog.text
    with pytest.raises(NotImplementedError, match=sentence):
        backend("mask_tiles_backward", "cuda", force="cuda")


def test_forced(native, monkeypatch: pytest.MonkeyPatch) -> None:
    native(SimpleNamespace(cuda_compiled=False))
    assert backend("roi_replay", "cpu", force="reference") == "reference"
    with pytest.raises(ValueError, match="the cpu backend needs cpu tensors, got cuda:0"):
        backend("roi_replay", "cuda:0", force="cpu")
    monkeypatch.setenv("FASTREGION_BACKEND", "reference")
    assert backend("roi_replay", "cpu") == "reference"
    assert backend("roi_replay", "cpu", force="cpu") == "cpu"
    assert backend("roi_replay", "cpu", force="auto") == "cpu"
    monkeypatch.setenv("FASTREGION_BACKEND", "fast")
    with pytest.raises(ValueError, match=r"FASTREGION_BACKEND must be auto, .* got 'fast'"):
        backend("roi_replay", "cpu")


def test_forced_without_the_native_module(native) -> None:
    native(None)
    with pytest.raises(ImportError, match=r"without its native module .*pip install \."):
        roi_replay(torch.zeros(1, 1, 1), (1, 1), torch.zeros(1, 4), (1, 1), backend="cpu")


def test_unknown_operator() -> None:
    with pytest.raises(KeyError, match="roi_replya: no such operator, there are roi_replay"):
        backend("roi_replya", "cpu")


def test_module_and_function_share_a_name() -> None:
    assert backend_function is MODULE.backend


def test_missing_native_module_warns_once_and_runs() -> None:
    """In a fresh process in which the native module cannot be imported."""
    script = """
import sys, warnings
sys.modules["fastregion._C"] = None
import torch
from fastregion.ops import roi_replay
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        out = roi_replay(torch.ones(1, 4, 3), (1, 1), torch.tensor([[0., 0, 2, 2]]), (2, 2))
assert torch.equal(out, torch.ones(1, 4, 3)), out
print([str(w.message) for w in caught])
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("native module") == 1, result.stdout


def test_importing_the_package_does_not_import_operators() -> None:
    script = "import sys, fastregion; sys.exit('fastregion.ops' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_the_readme_shows_the_registry() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for operator in OPERATORS.values():
        assert f"| `{operator.name}` | {operator.contract} |" in readme
