"""Makes a model of a known reranker's shape with random weights: as fast as that one, and its scores mean nothing.

    python shape.py NAME --texts PAIRS.json --out DIR

The directory is one of Hugging Face: configuration, f32 weights, a tokenizer of the model's kind that is trained on the
pairs' texts, and the head's modules where the model has them. Special tokens have the numbers 0 to 3 in all of them.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers as T
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

# Of tokenizers: about 1.3 tokens a word of the texts that they are trained on, as large ones have of other texts.
VOCABULARY = 8000
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
# Of matrices. Wider than a fresh model's, so that scores of different pairs differ.
SPREAD = 0.04


@dataclass
class Shape:
    """A model's class, sizes, tokenizer and longest row in tokens."""

    kind: type
    sizes: dict
    tokenizer: str
    longest: int = 512
    modules: bool = False


def sizes(layers, hidden, heads, intermediate, vocabulary, **more):
    return dict(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=intermediate,
        vocab_size=vocabulary, pad_token_id=1, **more,
    )


def roberta(layers, hidden, heads, intermediate, positions=514):
    # 250,002 words; the first position is pad_token_id + 1.
    return sizes(
        layers, hidden, heads, intermediate, 250002, max_position_embeddings=positions, type_vocab_size=1,
        layer_norm_eps=1e-5, bos_token_id=0, eos_token_id=2,
    )


def modernbert(layers, hidden, heads, intermediate, **more):
    tokens = dict(bos_token_id=0, cls_token_id=0, eos_token_id=2, sep_token_id=2)
    return sizes(layers, hidden, heads, intermediate, 50368, max_position_embeddings=8192, **tokens, **more)


def deberta(layers, hidden, heads, intermediate):
    return sizes(
        layers, hidden, heads, intermediate, 128100, max_position_embeddings=512, relative_attention=True,
        position_buckets=256, share_att_key=True, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm",
        position_biased_input=False, type_vocab_size=0, layer_norm_eps=1e-7,
    )


BERT, ROBERTA = T.BertForSequenceClassification, T.XLMRobertaForSequenceClassification
MODERNBERT, DEBERTA = T.ModernBertForSequenceClassification, T.DebertaV2ForSequenceClassification
SHAPES = {
    "ms-marco-MiniLM-L6-v2": Shape(BERT, sizes(6, 384, 12, 1536, 30522, max_position_embeddings=512), "wordpiece"),
    "ms-marco-MiniLM-L12-v2": Shape(BERT, sizes(12, 384, 12, 1536, 30522, max_position_embeddings=512), "wordpiece"),
    "mmarco-mMiniLMv2-L12-H384-v1": Shape(ROBERTA, roberta(12, 384, 12, 1536), "unigram"),
    "bge-reranker-base": Shape(ROBERTA, roberta(12, 768, 12, 3072), "unigram"),
    "bge-reranker-large": Shape(ROBERTA, roberta(24, 1024, 16, 4096), "unigram"),
    "gte-reranker-modernbert-base": Shape(
        MODERNBERT, modernbert(22, 768, 12, 1152, classifier_pooling="mean"), "bpe", 8192
    ),
    "ettin-reranker-17m-v1": Shape(T.ModernBertModel, modernbert(7, 256, 4, 384), "bpe", 8192, modules=True),
    "ettin-reranker-32m-v1": Shape(T.ModernBertModel, modernbert(10, 384, 6, 576), "bpe", 8192, modules=True),
    "mxbai-rerank-xsmall-v1": Shape(DEBERTA, deberta(12, 384, 6, 1536), "unigram"),
    "mxbai-rerank-base-v1": Shape(DEBERTA, deberta(12, 768, 12, 3072), "unigram"),
}


def tokenizer(kind, texts):
    limits = dict(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False)
    # The tokens of a pair, and their types where the model has them.
    pair = "<s>:0 $A:0 </s>:0 $B:1 </s>:1"
    if kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(**limits)
    elif kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **limits)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **limits)
        pair = "<s> $A </s> </s> $B </s>"
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=pair, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made


def randomise(network):
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, SPREAD)
        elif name.endswith("bias"):
            parameter.data.normal_(0, SPREAD)


def save_modules(shape, directory):
    """A head in modules of sentence-transformers: the first token's state, two Dense and a LayerNorm."""
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    hidden = shape.sizes["hidden_size"]
    parts = [
        Pooling(hidden, "cls"),
        Dense(hidden, hidden, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(hidden),
        Dense(hidden, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    listed = [("", "sentence_transformers.base.modules.transformer.Transformer")]
    for index, part in enumerate(parts, start=1):
        randomise(part)
        folder = f"{index}_{type(part).__name__}"
        (directory / folder).mkdir(exist_ok=True)
        part.save(str(directory / folder))
        listed.append((folder, f"{type(part).__module__}.{type(part).__qualname__}"))
    listed = [{"idx": idx, "name": str(idx), "path": path, "type": kind} for idx, (path, kind) in enumerate(listed)]
    (directory / "modules.json").write_text(json.dumps(listed, indent=2) + "\n")
    saved = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity", "prompts": {}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(saved, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(SHAPES))
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shape = SHAPES[args.name]
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(17)
    labels = {} if shape.modules else {"num_labels": 1}
    network = shape.kind(shape.kind.config_class(**shape.sizes, **labels))
    randomise(network)
    # One file, as these models have it.
    network.save_pretrained(args.out, max_shard_size="8GB")
    if shape.modules:
        save_modules(shape, args.out)
    texts = sorted({text for pair in json.loads(args.texts.read_text()) for text in pair})
    tokenizer(shape.tokenizer, texts).save(str(args.out / "tokenizer.json"))
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if shape.kind is BERT else [])
    named = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": shape.longest}
    settings |= {"model_input_names": inputs, **named}
    (args.out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
