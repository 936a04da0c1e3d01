"""Facts from configurations and headers, for the families and formats that matter."""

import json

import pytest
from model_files import (
    LLAMA,
    checkpoint,
    gguf,
    llama_tensors,
    only_config,
    safetensors,
    sharded,
)

from llmops.checkpoint.reader import read_model
from llmops.errors import UsageError


def test_a_dense_model(tmp_path):
    facts = read_model(checkpoint(tmp_path / "m"))
    per_layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128 + 2 * 64
    assert facts.parameters == 2 * per_layer + 2 * 256 * 64 + 64
    assert facts.size_bytes == 2 * facts.parameters
    assert {part.name: part.parameters for part in facts.parts} == {
        "embedding": 256 * 64,
        "lm_head": 256 * 64,
        "attention": 2 * (64 * 64 * 2 + 32 * 64 * 2),
        "mlp": 2 * 3 * 64 * 128,
        "norms": 5 * 64,
    }
    assert (facts.attention, facts.layers, facts.heads, facts.kv_heads, facts.head_dim) == ("GQA", 2, 4, 2, 16)
    assert facts.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    assert facts.dtype == "bfloat16"
    assert facts.complete
    assert facts.exact_sizes
    assert not facts.tokenizer.present
    down = next(linear for linear in facts.linears if linear.name == "model.layers.1.mlp.down_proj")
    assert (down.in_features, down.out_features, down.quantized) == (128, 64, False)
    assert len(facts.linears) == 15


def test_sizes_without_weights_equal_sizes_with_them(tmp_path):
    with_weights = read_model(checkpoint(tmp_path / "a"))
    without = read_model(only_config(tmp_path / "b", LLAMA))
    assert without.parameters == with_weights.parameters
    assert without.size_bytes == with_weights.size_bytes
    assert without.weights == with_weights.weights
    assert not without.complete
    assert not without.exact_sizes


def test_an_index_alone_is_enough(tmp_path):
    directory = sharded(tmp_path / "m")
    whole = read_model(directory)
    for shard in directory.glob("*.safetensors"):
        shard.unlink()
    facts = read_model(directory)
    assert facts.size_bytes == whole.size_bytes
    assert [finding.severity for finding in facts.findings] == ["note"]


def test_a_missing_shard_is_an_error_that_names_it(tmp_path):
    directory = sharded(tmp_path / "m")
    (directory / "model-00002-of-00002.safetensors").unlink()
    errors = [finding for finding in read_model(directory).findings if finding.severity == "error"]
    assert [finding.rule for finding in errors] == ["shard-missing"]
    assert "model-00002-of-00002.safetensors" in errors[0].message


def test_a_shard_missing_without_an_index_is_noticed(tmp_path):
    directory = sharded(tmp_path / "m")
    (directory / "model.safetensors.index.json").unlink()
    (directory / "model-00001-of-00002.safetensors").unlink()
    assert "model-00001-of-00002.safetensors is missing" in [f.message for f in read_model(directory).findings]


def test_a_truncated_shard_is_an_error(tmp_path):
    directory = sharded(tmp_path / "m")
    shard = directory / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    finding = next(f for f in read_model(directory).findings if f.severity == "error")
    assert finding.rule == "shard-damaged"
    assert "truncated" in finding.message
    assert finding.file.endswith(shard.name)


def test_tensors_that_the_index_promises_and_no_file_has(tmp_path):
    directory = sharded(tmp_path / "m")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00002.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert any(f.rule == "tensors-missing" for f in read_model(directory).findings)


def test_an_index_cannot_point_outside_its_directory(tmp_path):
    directory = sharded(tmp_path / "m")
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["weight_map"]["evil"] = "../../etc/passwd"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    facts = read_model(directory)
    assert all("passwd" not in (finding.file or "") for finding in facts.findings)


FAMILIES = {
    # name -> (config, attention, KV elements a token over all layers, context)
    "mha": ({**LLAMA, "num_key_value_heads": 4}, "MHA", 2 * 2 * 4 * 16, 512),
    "mqa": ({**LLAMA, "num_key_value_heads": 1}, "MQA", 2 * 2 * 1 * 16, 512),
    "own head_dim": ({**LLAMA, "head_dim": 32}, "GQA", 2 * 2 * 2 * 32, 512),
    "mistral with window": (
        {**LLAMA, "model_type": "mistral", "sliding_window": 128},
        "GQA, 2 sliding (128)",
        2 * 2 * 2 * 16,
        512,
    ),
    "qwen2 ignores its window": (
        {**LLAMA, "model_type": "qwen2", "sliding_window": 128, "use_sliding_window": False},
        "GQA",
        2 * 2 * 2 * 16,
        512,
    ),
    "gemma 2": (
        {**LLAMA, "model_type": "gemma2", "head_dim": 16, "sliding_window": 64},
        "GQA, 1 full + 1 sliding (64)",
        2 * 2 * 2 * 16,
        512,
    ),
    "mla": (
        {**LLAMA, "model_type": "deepseek_v3", "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
         "v_head_dim": 16, "num_key_value_heads": 4},
        "MLA", 2 * (32 + 8), 512,
    ),
    "linear hybrid": (
        {**LLAMA, "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
         "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
        "GQA, 1 full + 1 linear", 1 * 2 * 2 * 16, 512,
    ),
    "yarn": (
        {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}},
        "GQA", 2 * 2 * 2 * 16, 2048,
    ),
    "llama 3 scaling does not lengthen": (
        {**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}},
        "GQA", 2 * 2 * 2 * 16, 512,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_of_families(tmp_path, name):
    config, attention, elements, context = FAMILIES[name]
    facts = read_model(only_config(tmp_path / "m", config))
    assert (facts.attention, facts.kv_bytes_per_token, facts.context_length) == (attention, 2 * elements, context)


def test_a_multimodal_config_takes_the_family_defaults(tmp_path):
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}  # fmt: skip
    config = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": text,
              "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "num_hidden_layers": 27,
                                "intermediate_size": 4304}}  # fmt: skip
    facts = read_model(only_config(tmp_path / "m", config))
    assert facts.attention == "GQA, 5 full + 29 sliding (1024)"
    assert (facts.heads, facts.kv_heads, facts.vocab, facts.context_length) == (8, 4, 262208, 131072)
    assert facts.multimodal == ("vision",)
    assert facts.tied_embeddings


def test_experts(tmp_path):
    config = {**LLAMA, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2,
              "moe_intermediate_size": 32}  # fmt: skip
    facts = read_model(only_config(tmp_path / "m", config))
    assert (facts.moe.experts, facts.moe.experts_per_token, facts.moe.layers) == (8, 2, 2)
    assert {part.name: part.parameters for part in facts.parts}["experts"] == 2 * 8 * 3 * 64 * 32


def test_gptq_is_counted_unpacked(tmp_path):
    tensors = {name: value for name, value in llama_tensors().items() if "_proj" not in name}
    for index in range(2):
        at = f"model.layers.{index}.mlp.down_proj"
        tensors |= {f"{at}.qweight": ("I32", [128 * 4 // 32, 64]), f"{at}.scales": ("F16", [4, 64]),
                    f"{at}.qzeros": ("I32", [4, 8]), f"{at}.g_idx": ("I32", [128])}  # fmt: skip
    config = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}}
    facts = read_model(checkpoint(tmp_path / "m", config, tensors))
    assert (facts.quantization.method, facts.quantization.bits, facts.quantization.group_size) == ("gptq", 4, 32)
    down = next(linear for linear in facts.linears if linear.name == "model.layers.0.mlp.down_proj")
    assert (down.in_features, down.out_features, down.quantized) == (128, 64, True)
    assert {part.name: part.parameters for part in facts.parts}["mlp"] == 2 * 128 * 64


SCHEMES = [
    ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "awq", 4, 128),
    ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8, None),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "nf4", 4, 64),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 8, None),
    ({"quant_method": "mxfp4"}, "mxfp4", 4, 32),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, "nvfp4", 4, 16),
    ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
        "weights": {"num_bits": 8, "type": "int"}, "input_activations": {"num_bits": 8}}}}, "w8a8", 8, None),
    ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
        "weights": {"num_bits": 4, "type": "int", "group_size": 128}, "input_activations": None}}}, "w4a16", 4, 128),
    ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {
        "weights": {"num_bits": 8, "type": "float"}, "input_activations": {"num_bits": 8}}}}, "fp8", 8, None),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "method", "bits", "group"), SCHEMES)
def test_quantisation_schemes(tmp_path, scheme, method, bits, group):
    facts = read_model(only_config(tmp_path / "m", {**LLAMA, "quantization_config": scheme}))
    assert (facts.quantization.method, facts.quantization.bits, facts.quantization.group_size) == (method, bits, group)
    plain = read_model(only_config(tmp_path / "p", LLAMA))
    assert facts.size_bytes < plain.size_bytes or method == "mxfp4"
    assert facts.parameters == plain.parameters


def test_gguf(tmp_path):
    facts = read_model(gguf(tmp_path / "tiny.gguf"))
    assert (facts.format, facts.name, facts.model_type) == ("gguf", "Tiny", "llama")
    assert facts.quantization.detail == "Q8_0"
    assert (facts.vocab, facts.context_length, facts.kv_bytes_per_token) == (256, 512, 2 * 2 * 2 * 16)
    assert facts.tied_embeddings
    assert facts.licence.name == "apache-2.0"
    assert facts.complete
    assert {part.name for part in facts.parts} == {"embedding", "attention", "mlp", "norms"}


def test_a_directory_with_one_gguf_is_that_gguf(tmp_path):
    gguf(tmp_path / "a.gguf")
    assert read_model(tmp_path).format == "gguf"
    gguf(tmp_path / "b.gguf")
    with pytest.raises(UsageError, match="2 GGUF models"):
        read_model(tmp_path)


def test_a_lora_adapter(tmp_path):
    config = {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "b",
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    a, b = (
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.lora_B.weight",
    )
    safetensors(tmp_path / "adapter_model.safetensors", {a: ("F32", [8, 64]), b: ("F32", [64, 8])})
    facts = read_model(tmp_path)
    assert (facts.format, facts.lora.rank, facts.lora.alpha, facts.lora.target_modules) == (
        "lora",
        8,
        16.0,
        ("q_proj",),
    )
    assert not facts.findings
    safetensors(tmp_path / "adapter_model.safetensors", {a: ("F32", [4, 64])})
    assert [finding.rule for finding in read_model(tmp_path).findings] == ["lora-rank"]


def test_licences_and_tokenizers_are_found(tmp_path):
    directory = checkpoint(tmp_path / "m")
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    facts = read_model(directory)
    assert (facts.licence.name, facts.tokenizer.kind, facts.tokenizer.chat_template) == (
        "apache-2.0",
        "fast",
        "chat_template.jinja",
    )
    (directory / "README.md").unlink()
    (directory / "LICENSE").write_text("Apache License\n   Version 2.0, January 2004\n")
    assert read_model(directory).licence.name == "Apache-2.0"


def test_pickled_weights_are_named_and_not_read(tmp_path):
    directory = only_config(tmp_path / "m", LLAMA)
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x02")
    facts = read_model(directory)
    assert [finding.rule for finding in facts.findings] == ["unsafe-weights"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_size": "big", "num_hidden_layers": -3, "num_attention_heads": 1e300},
        {"text_config": [], "quantization_config": 7, "layer_types": {"a": 1}, "architectures": "X"},
        {"num_hidden_layers": 10**9, "hidden_size": 10**9, "vocab_size": 10**12, "num_attention_heads": 3},
        {**LLAMA, "sliding_window": -1, "rope_scaling": {"factor": "NaN", "rope_type": []}, "num_experts": 2**39},
        {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 0, "group_size": -1}},
        {**LLAMA, "layer_types": ["full_attention"] * 3, "num_kv_shared_layers": 99},
    ],
)
def test_strange_configs_are_read_without_harm(tmp_path, config):
    facts = read_model(only_config(tmp_path / "m", config))
    assert facts.kv_bytes_per_token >= 0


def test_an_encoder_has_no_cache(tmp_path):
    config = {"architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 256, "max_position_embeddings": 512}  # fmt: skip
    facts = read_model(only_config(tmp_path / "m", config))
    assert not facts.is_generative
    assert (facts.attention, facts.kv_bytes_per_token, facts.groups) == ("encoder", 0, ())


def test_an_index_of_wider_weights_does_not_double_the_elements(tmp_path):
    directory = sharded(tmp_path / "m")
    plain = read_model(directory)
    for shard in directory.glob("*.safetensors"):
        shard.unlink()
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["metadata"]["total_size"] *= 2
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_model(directory).weights.split.floats == plain.weights.split.floats
