"""Writes the model that the peers run: a BERT backbone with Assay's LoRA adapter merged, as a Hugging Face directory,
and its ONNX forms (f32, and ONNX Runtime's dynamic int8).

    python export.py --model DIR [--adapter DIR] --out DIR

The merge is the engine's own: W + (alpha / r) * B @ A in float64, rounded once.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig

PREFIX = "base_model.model."


def merged_state(model_dir: Path, adapter_dir: Path | None) -> tuple[dict, int]:
    """The tensors of a BertForSequenceClassification, and its number of labels."""
    state = load_file(model_dir / "model.safetensors")
    if "embeddings.word_embeddings.weight" in state:
        state = {f"bert.{name}": tensor for name, tensor in state.items()}
    state.pop("bert.embeddings.position_ids", None)
    if adapter_dir is not None:
        config = json.loads((adapter_dir / "adapter_config.json").read_text())
        scale = config["lora_alpha"] / config["r"]
        adapter = {
            name.removeprefix(PREFIX): tensor
            for name, tensor in load_file(adapter_dir / "adapter_model.safetensors").items()
        }
        for name, tensor in adapter.items():
            if name.endswith(".lora_A.weight"):
                module = name.removesuffix(".lora_A.weight")
                update = adapter[f"{module}.lora_B.weight"].double() @ tensor.double()
                state[f"{module}.weight"] = (state[f"{module}.weight"].double() + scale * update).float()
            elif ".lora_" not in name:
                state[name] = tensor.float()
    return state, state["classifier.weight"].shape[0]


def export_onnx(model: torch.nn.Module, out: Path) -> None:
    """The model in f32, and with ONNX Runtime's dynamic quantisation to int8: as it comes, and per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    ids = torch.ones((2, 8), dtype=torch.long)
    axes = {0: "rows", 1: "tokens"}
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        model,
        (ids, ids, torch.zeros_like(ids)),
        str(out / "model.onnx"),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: axes for name in names} | {"logits": {0: "rows"}},
        opset_version=17,
        dynamo=False,
    )
    quantize_dynamic(out / "model.onnx", out / "model.int8.onnx", weight_type=QuantType.QInt8)
    per_channel = out / "model.int8-per-channel.onnx"
    quantize_dynamic(out / "model.onnx", per_channel, per_channel=True, weight_type=QuantType.QInt8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    state, labels = merged_state(args.model, args.adapter)
    config = BertConfig.from_pretrained(args.model, num_labels=labels)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.load_state_dict(state)
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (args.model / name).exists():
            shutil.copy(args.model / name, args.out / name)
    export_onnx(model, args.out)


if __name__ == "__main__":
    main()
