"""The sizes that are timed when nobody names any: on a CPU those of small models, on a GPU those of the goals."""

from kernels.benchmark_cases import LETTERS, Case

LOSS = "linear_softcap_cross_entropy"


def _case(op: str, kind: str, dtype: str, *sizes: int) -> Case:
    return Case(op, kind, dict(zip(LETTERS[op], sizes, strict=True)), dtype)


CPU = (
    _case("attention", "forward", "float32", 1, 2048, 1, 1, 64, 512),
    _case("attention", "forward", "float32", 1, 2048, 4, 4, 64, 512),
    _case("attention", "forward", "float32", 1, 1024, 4, 4, 64, -1),
    _case("attention", "training", "bfloat16", 8, 256, 4, 4, 64, 128),
    _case("decode_attention", "equal lengths", "float32", 1, 1500, 4, 4, 64, -1),
    _case("decode_attention", "different lengths", "float32", 8, 1500, 4, 4, 64, -1),
    _case("sample", "top-p, recorded", "float32", 1, 65536),
    _case("sample", "top-p, flat", "float32", 1, 65536),
    _case("sample", "top-k, recorded", "float32", 1, 32768),
    _case("sample", "temperature", "float32", 1, 32768),
    _case("qk_prep", "forward", "float32", 1, 2048, 4, 4, 64),
    _case(LOSS, "training", "float32", 1024, 128, 2048),
)
CPU_MORE = (
    _case("attention", "forward", "float32", 1, 2048, 4, 2, 64, 512),
    _case("attention", "forward", "bfloat16", 1, 2048, 4, 4, 64, 512),
    _case("attention", "training", "float32", 8, 256, 4, 4, 64, 128),
    _case("decode_attention", "equal lengths", "float32", 8, 200, 4, 4, 64, -1),
    _case("sample", "top-p, recorded", "float32", 8, 65536),
    _case("sample", "top-k and top-p, recorded", "float32", 8, 32768),
    _case("qk_prep", "forward", "float32", 1, 1, 4, 4, 64),
    _case("qk_prep", "training", "float32", 8, 256, 4, 4, 64),
    _case(LOSS, "training", "bfloat16", 1024, 128, 2048),
)

# 16,384 tokens a call, as published figures have it; ten heads of 128 are nanochat's depth 20.
GPU = (
    *(_case("attention", "forward", "bfloat16", 16384 // T, T, 16, 16, 128, -1) for T in (2048, 8192)),
    *(_case("attention", "forward", "bfloat16", 16384 // T, T, 16, 16, 128, 512) for T in (2048, 8192)),
    _case("attention", "backward", "bfloat16", 4, 4096, 16, 16, 128, -1),
    _case("attention", "backward", "bfloat16", 4, 4096, 16, 16, 128, 512),
    _case("decode_attention", "equal lengths", "bfloat16", 32, 2048, 10, 10, 128, -1),
    _case("decode_attention", "different lengths", "bfloat16", 16, 8192, 32, 8, 128, -1),
    _case("sample", "top-k, recorded", "float32", 1, 32768),
    _case("sample", "temperature", "float32", 128, 32768),
    _case("sample", "top-k and top-p, recorded", "float32", 128, 32768),
    _case("qk_prep", "training", "bfloat16", 8, 2048, 10, 10, 128),
    _case(LOSS, "training", "bfloat16", 16384, 1280, 32768),
)
GPU_MORE = (
    _case("attention", "forward", "bfloat16", 4, 4096, 16, 16, 128, -1),
    _case("attention", "forward", "bfloat16", 4, 4096, 16, 16, 64, -1),
    _case("attention", "forward", "bfloat16", 4, 4096, 16, 16, 128, 512),
    _case("attention", "forward", "bfloat16", 4, 4096, 16, 4, 128, -1),
    _case("attention", "training", "bfloat16", 8, 2048, 10, 10, 128, 512),
    _case("attention", "backward", "bfloat16", 8, 2048, 16, 16, 64, -1),
    _case("decode_attention", "equal lengths", "bfloat16", 1, 32768, 32, 8, 128, -1),
    _case("decode_attention", "equal lengths", "bfloat16", 1, 2048, 10, 10, 128, -1),
    _case("decode_attention", "equal lengths", "bfloat16", 32, 8192, 10, 10, 128, 512),
    _case("sample", "top-p, recorded", "float32", 1, 65536),
    _case("sample", "top-p, flat", "float32", 1, 65536),
    _case("qk_prep", "forward", "bfloat16", 8, 2048, 10, 10, 128),
    _case(LOSS, "training", "bfloat16", 4096, 768, 32768),
)
