"""The hot paths of the model, one folder per operation. Only what is imported here is used from outside.

    from kernels import attention, attention_weights, decode_attention, linear_softcap_cross_entropy
    from kernels import qk_prep, qk_prep_append, sample

Every operation has a definition (`reference.py`, plain PyTorch, also in float64) and a fast PyTorch path
(`torch_impl.py`); `kernels.backend` says which one runs and why. README.md beside this file has the table.
"""

from kernels.attention import attention, attention_weights
from kernels.checks import KernelInputError
from kernels.decode_attention import decode_attention
from kernels.linear_softcap_cross_entropy import linear_softcap_cross_entropy
from kernels.qk_prep import qk_prep, qk_prep_append
from kernels.sample import SampleResult, sample

__all__ = [
    "KernelInputError",
    "SampleResult",
    "attention",
    "attention_weights",
    "decode_attention",
    "linear_softcap_cross_entropy",
    "qk_prep",
    "qk_prep_append",
    "sample",
]
