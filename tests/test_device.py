"""The device choice: every branch with a PyTorch that claims to be another one, and the real machine once."""

import pytest
import torch

from nanochat.device import DeviceError, _runs_on, choose_device


@pytest.fixture
def machine(monkeypatch):
    """Make PyTorch claim GPUs: `machine(cuda=[(name, capability)], built=[...], mps=True)`."""

    def claim(cuda=(), built=("sm_80", "sm_90"), mps=False, cuda_build=True, mps_build=False):
        monkeypatch.setattr(torch.version, "cuda", "12.8" if cuda_build else None)
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cuda))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: cuda[index][0])
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: cuda[index][1])
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.backends.mps, "is_built", lambda: mps or mps_build)

    return claim


def test_auto_without_a_gpu_takes_the_cpu_and_says_why(machine):
    machine(cuda_build=False)
    choice = choose_device()
    assert (choice.device, choice.dtype) == ("cpu", torch.float32)
    assert "built without CUDA" in choice.reason
    assert "built without MPS" in choice.device_reason
    assert "float32" not in choice.device_reason  # training chooses its format itself
    assert "fastest for one text at a time" in choice.dtype_reason


def test_auto_tells_a_missing_driver_from_a_missing_build(machine):
    machine(mps_build=True)
    reason = choose_device().reason
    assert "no working driver" in reason
    assert "macOS 12.3" in reason


def test_a_new_nvidia_gpu_gets_bfloat16(machine):
    machine(cuda=[("NVIDIA H100", (9, 0))], mps=True)
    choice = choose_device()
    assert (choice.device, choice.dtype, choice.name) == ("cuda", torch.bfloat16, "NVIDIA H100")
    assert "9.0" in choice.reason


def test_an_older_nvidia_gpu_gets_float32(machine):
    machine(cuda=[("Tesla T4", (7, 5))], built=["sm_75", "sm_80"])
    choice = choose_device("cuda")
    assert choice.dtype == torch.float32
    assert "7.5" in choice.reason


def test_a_gpu_that_this_build_has_no_code_for_is_not_taken(machine):
    machine(cuda=[("GTX 1080", (6, 1))], built=["sm_75", "sm_80", "sm_90"])
    choice = choose_device()
    assert choice.device == "cpu"
    assert "GTX 1080 (sm_61)" in choice.reason
    with pytest.raises(DeviceError, match="sm_61"):
        choose_device("cuda")


def test_a_second_gpu_by_number(machine):
    machine(cuda=[("first", (8, 0)), ("second", (9, 0))])
    assert choose_device("cuda:1").name == "second"
    assert choose_device("cuda:1").device == "cuda:1"
    with pytest.raises(DeviceError, match="has 2 CUDA devices, numbered from 0"):
        choose_device("cuda:2")


def test_apple_gpu_after_cuda_before_cpu(machine):
    machine(mps=True, cuda_build=False)
    assert choose_device().device == "mps"
    assert choose_device().dtype == torch.float32
    assert choose_device("mps").name == "Apple's GPU"


@pytest.mark.parametrize("requested", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_an_error_with_a_remedy(machine, requested):
    machine(cuda_build=False)
    with pytest.raises(DeviceError, match="use cpu or auto") as caught:
        choose_device(requested)
    assert "\n" not in str(caught.value)
    assert requested in str(caught.value)


@pytest.mark.parametrize(
    "requested", ["", "gpu", "cuda:", "cuda:x", "cpu:1", "mps:1", "cuda:9999", "cuda:-1", "auto:0"]
)
def test_an_unknown_name_is_an_error(requested):
    with pytest.raises(DeviceError, match="unknown"):
        choose_device(requested)


def test_names_are_taken_in_any_case():
    assert choose_device(" CPU ").device == "cpu"


@pytest.mark.parametrize(
    ("architecture", "capability", "runs"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_100", (10, 0), True),
        ("compute_80", (9, 0), True),
        ("compute_90", (8, 0), False),
        ("gfx942", (9, 4), True),
    ],
)
def test_which_machine_code_runs_where(architecture, capability, runs):
    assert _runs_on(architecture, *capability) is runs


def test_the_real_machine_runs_what_was_chosen():
    choice = choose_device()
    one = torch.ones(2, 2, device=choice.device, dtype=choice.dtype)
    assert (one @ one).sum().item() == 8
    described = choice.describe()
    assert choice.device_reason in described
    assert choice.dtype_reason in described
    assert choice.name in described
    assert "\n" not in described
