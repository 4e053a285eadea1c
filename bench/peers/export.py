"""Writes what the peers need of a model: its ONNX form in f32, with --int8 also ONNX Runtime's dynamic quantisations,
and with --adapter a directory `merged` with the LoRA adapter merged into the model.

    python export.py --model DIR [--adapter DIR] --out DIR [--int8]

The merge is the engine's own: W + (alpha / r) * B @ A in float64, rounded once. Where the model cannot be exported,
`model.onnx.failed` says why, and the peers that need the file do not start.
"""

import argparse
import json
import shutil
import traceback
from pathlib import Path

import torch
from network import Network
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

PREFIX = "base_model.model."


def merge(model_dir: Path, adapter_dir: Path, out: Path) -> None:
    """Saves the model with the adapter, which may bring the head of a bare encoder."""
    config = json.loads((adapter_dir / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    adapter = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in load_file(adapter_dir / "adapter_model.safetensors").items()
    }
    labels = {name: tensor.shape[0] for name, tensor in adapter.items() if name.endswith("classifier.weight")}
    more = {"num_labels": next(iter(labels.values()))} if labels else {}
    model = AutoModelForSequenceClassification.from_pretrained(model_dir, dtype=torch.float32, **more)
    state = model.state_dict()
    for name, tensor in adapter.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            update = adapter[f"{module}.lora_B.weight"].double() @ tensor.double()
            state[f"{module}.weight"] = (state[f"{module}.weight"].double() + scale * update).float()
        elif ".lora_" not in name:
            state[name] = tensor.float()
    model.load_state_dict(state)
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (model_dir / name).exists():
            shutil.copy(model_dir / name, out / name)


def export(model_dir: Path, file: Path) -> None:
    """The model as ONNX, with rows and tokens as free axes. Lengths in the example are odd ones, so that no size of the
    model is taken for them."""
    network = Network(model_dir)
    ids, mask = torch.full((3, 11), 7, dtype=torch.long), torch.ones((3, 11), dtype=torch.long)
    mask[1, 9:] = 0
    axes = {0: "rows", 1: "tokens"}
    torch.onnx.export(
        network,
        (ids, mask, torch.zeros_like(ids))[: len(network.inputs)],
        str(file),
        input_names=network.inputs,
        output_names=["logits"],
        dynamic_axes={name: axes for name in network.inputs} | {"logits": {0: "rows"}},
        opset_version=17,
        dynamo=False,
    )


def quantize(file: Path) -> None:
    """ONNX Runtime's dynamic quantisation to int8: as it comes, and per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(file, file.with_name("model.int8.onnx"), weight_type=QuantType.QInt8)
    per_channel = file.with_name("model.int8-per-channel.onnx")
    quantize_dynamic(file, per_channel, per_channel=True, weight_type=QuantType.QInt8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--int8", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = args.model
    if args.adapter is not None:
        model = args.out / "merged"
        merge(args.model, args.adapter, model)
    file, failed = args.out / "model.onnx", args.out / "model.onnx.failed"
    try:
        export(model, file)
        if args.int8:
            quantize(file)
        failed.unlink(missing_ok=True)
    except Exception as error:
        traceback.print_exc()
        failed.write_text(f"torch.onnx: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
