"""Text encoders as data, in the way of `signatures`; the conditions are those of ``comfy.sd.detect_te_model``."""

from __future__ import annotations

from .signatures import Signature

_LANGUAGE_MODEL = r"model\.(language_model\.)?layers\.0\."
_TABLES = (r"(.*\.)?embed_tokens(_per_layer)?", r"(model\.)?lm_head", r"(model\.)?visual\.pos_embed")
"""``lm_head`` is a Linear, but the loader renames its weight alone and leaves the scales behind."""

TEXT_ENCODERS = (
    Signature(
        "t5",
        "T5 text encoder",
        (r"encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight",),
        not_linear=(r"shared", r".*relative_attention_bias", *_TABLES),
        recipe="t5",
    ),
    Signature(
        "gemma",
        "Gemma text encoder",
        (_LANGUAGE_MODEL + r"post_feedforward_layernorm\.weight",),
        not_linear=(*_TABLES, r"vision_model\.embeddings\.position_embedding"),
        recipe="text-encoder",
    ),
    Signature(
        "qwen2.5-vl",
        "Qwen2.5-VL text encoder",
        (_LANGUAGE_MODEL + r"self_attn\.k_proj\.bias",),
        not_linear=_TABLES,
        recipe="text-encoder",
    ),
    Signature(
        "qwen3.5",
        "Qwen3.5 text encoder",
        (_LANGUAGE_MODEL + r"linear_attn\.A_log",),
        not_linear=_TABLES,
        recipe="text-encoder",
    ),
    Signature(
        "qwen3",
        "Qwen3 text encoder",
        (_LANGUAGE_MODEL + r"self_attn\.q_norm\.weight",),
        not_linear=_TABLES,
        recipe="text-encoder",
    ),
    Signature(
        "mistral",
        "Mistral / Llama text encoder",
        (_LANGUAGE_MODEL + r"post_attention_layernorm\.weight", _LANGUAGE_MODEL + r"mlp\.gate_proj\.weight"),
        not_linear=_TABLES,
        recipe="text-encoder",
    ),
)

QUANTIZED_ENCODERS = (
    "gemma2_2b",
    "llama",
    "ministral3_3b",
    "mistral3_24b",
    "qwen25_3b",
    "qwen25_7b",
    "qwen3_06b",
    "qwen3_2b",
    "qwen3_4b",
    "qwen3_8b",
    "qwen3vl",
    "qwen3vl_32b",
    "qwen3vl_4b",
    "qwen3vl_8b",
    "t5xxl",
    "umt5xxl",
)
"""Text encoders of all-in-one files (``text_encoders.NAME.transformer.``) whose quantization ComfyUI looks for.

``clip_target`` of ``comfy/supported_models.py`` calls ``t5_xxl_detect`` or ``llama_detect`` for these and builds
all others (CLIP, ByT5, T5-base …) without quantized layers.
"""

ENCODER_NOT_LINEAR = (r".*embed.*", r"(.*\.)?shared", r".*relative_attention_bias", r"(.*\.)?lm_head")
"""What a text encoder that no signature matches holds in no Linear: tables, told by their usual names."""
