"""Flash attention on the CPU: its two functions in plain PyTorch, behind transformers' own path.

Mask preparation, unpadding and the guess at packed sequences are those of transformers.
"""

import contextlib
import math

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel
from transformers import modeling_flash_attention_utils as utils

FLASH = "flash_attention_2"
V4 = Version(transformers.__version__) < Version("5")


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    """[B, Lq, H, D], [B, Lk, Hk, D] twice -> [B, Lq, H, D]; the last query is at the last key."""
    return torch.stack(
        [
            attend(*row, softmax_scale, causal, window_size, softcap)
            for row in zip(q, k, v, strict=True)
        ]
    )


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    """[Tq, H, D], [Tk, Hk, D] twice -> [Tq, H, D]; NaN where the kernel would not write."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    out = torch.full_like(q, torch.nan)
    ends = zip(
        cu_seqlens_q.tolist(),
        cu_seqlens_q.tolist()[1:],
        cu_seqlens_k.tolist(),
        cu_seqlens_k.tolist()[1:],
        strict=False,
    )
    for start_q, end_q, start_k, end_k in ends:
        end_q, end_k = min(end_q, start_q + max_seqlen_q), min(end_k, start_k + max_seqlen_k)
        keys, values = k[start_k:end_k], v[start_k:end_k]
        out[start_q:end_q] = attend(
            q[start_q:end_q], keys, values, softmax_scale, causal, window_size, softcap
        )
    return out


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    causal: bool,
    window: tuple[int, int],
    softcap: float,
) -> Tensor:
    """[Lq, H, D], [Lk, Hk, D] twice -> [Lq, H, D]; zero for a query without keys."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * (scale or 1 / math.sqrt(q.shape[-1]))
    if softcap > 0:
        scores = softcap * (scores / softcap).tanh()
    left, right = window[0], 0 if causal else window[1]
    place = torch.arange(len(q))[:, None] + len(k) - len(q)
    ahead = torch.arange(len(k)) - place  # [Lq, Lk]
    seen = torch.ones_like(ahead, dtype=torch.bool)
    if left >= 0:
        seen &= ahead >= -left
    if right >= 0:
        seen &= ahead <= right
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(0)
    return torch.einsum("hqk,khd->qhd", weights, v)


def install(monkeypatch):
    """Let models that are asked for flash attention find the functions above."""
    functions = [flash_attn_func, flash_attn_varlen_func]
    if not V4:
        functions.append(None)  # for paged caches
    functions += [utils._pad_input, utils._unpad_input]
    monkeypatch.setattr(utils, "_lazy_imports", lambda *_, **__: functions)
    for name in ("_loaded_implementation", "_flash_fn", "_process_flash_kwargs_fn"):
        if hasattr(utils, name):  # what was loaded is loaded anew, then and after the test
            monkeypatch.setattr(utils, name, None)
    for name in ("_flash_attn_can_dispatch", "_flash_attn_2_can_dispatch"):
        if hasattr(PreTrainedModel, name):  # it wants a GPU
            monkeypatch.setattr(PreTrainedModel, name, lambda model, *_, **__: True)


def use(model, implementation):
    """Give a model and its parts another attention."""
    if V4 and model.config.vision_config.model_type == "pixtral":
        # Pixtral's tower fails there: https://github.com/huggingface/transformers/pull/43443
        implementation = {"text_config": implementation, "vision_config": "sdpa"}
    if model.config.vision_config.model_type == "resnet":  # it has no attention
        implementation = {"text_config": implementation}
    model.set_attn_implementation(implementation)


def uses_flash(model):
    return model.config.get_text_config()._attn_implementation == FLASH


@contextlib.contextmanager
def attention(model, implementation):
    before = model.config.get_text_config()._attn_implementation
    if before in (implementation, "eager"):  # some models know nothing else
        yield
        return
    use(model, implementation)
    yield
    use(model, before)
