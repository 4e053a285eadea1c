"""Makes the tiny models of this folder, their tokenizers, and float64 logits by Hugging Face's own code.

    python3 -m venv target/golden-venv
    target/golden-venv/bin/pip install torch==2.15.0 transformers==5.23.0
    target/golden-venv/bin/python testdata/models/make.py [NAME ...]

Each model is a Hugging Face directory with a `golden.json` beside its weights:

    {"note", "model", "max_length", "cases": [{"query"?, "document"?, "ids", "type_ids"?, "logits"}]}

Cases with texts were tokenised by `tokenizers` from the directory's own `tokenizer.json`; the others are made of ids
alone. `type_ids` is absent where the family has no token types. `logits` of the embedding model are the mean of the
last hidden states, scaled to unit length. Logits are computed from the weights as saved, that is after rounding to the
stored type, one row at a time, so that no padding and no mask takes part. ModernBERT's rotary tables stay float32 as
in PyTorch.

Weights are spread wide, norms and biases too, and no embedding row is zero, not even the padding token's: a mistake in
any of them shows in the logits.
"""

import json
import math
import random
import string
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
TEXTS = HERE.parent.parent / "examples"
LENGTHS = [1, 2, 3, 7, 15, 16, 17, 31, 33, 63, 64, 65, 96, 127, 128, 129]
PAIRS = [
    ("", ""),
    ("why is the sky blue", "Air scatters blue light."),
    ("why is the sky blue", "The sea is blue, and bread is baked."),
    ("a", ""),
    ("a literal <pad>", "and a [PAD] in a document"),
    ("Überfluß, naïve café", "1984: tabs\tand\nnewlines, 東京"),
]


@dataclass
class Tiny:
    """One model: its class, what its config.json says, and how it is stored."""

    kind: type
    config: dict
    tokenizer: str = "wordpiece"
    labels: int = 1
    # Longest row in tokens.
    longest: int = 130
    # Rows longer than LENGTHS.
    long_rows: list = field(default_factory=list)
    dtype: torch.dtype = torch.float16
    # Standard deviation of the weights.
    spread: float = 0.2


def bert(heads, hidden, intermediate, longest=130, **more):
    sizes = dict(hidden_size=hidden, num_attention_heads=heads, intermediate_size=intermediate)
    return dict(sizes, num_hidden_layers=2, max_position_embeddings=longest, **more)


def roberta(heads, hidden, intermediate, longest):
    # The first position is pad_token_id + 1, so the table has two rows more than the longest row has tokens.
    return bert(
        heads, hidden, intermediate, longest + 2, layer_norm_eps=1e-5, type_vocab_size=1,
        pad_token_id=1, bos_token_id=0, eos_token_id=2,
    )


def modernbert(heads, window, pooling, global_theta, local_theta):
    rope = lambda theta: {"rope_type": "default", "rope_theta": theta}
    return dict(
        rope_parameters={"full_attention": rope(global_theta), "sliding_attention": rope(local_theta)},
        hidden_size=32, num_attention_heads=heads, intermediate_size=48, num_hidden_layers=4,
        max_position_embeddings=1024, local_attention=window, global_attn_every_n_layers=3,
        classifier_pooling=pooling, pad_token_id=1, bos_token_id=0, cls_token_id=0, eos_token_id=2, sep_token_id=2,
    )


T = transformers
T.logging.set_verbosity_error()
T.logging.disable_progress_bar()
MODELS = {
    "bert-hd16-3labels": Tiny(
        T.BertForSequenceClassification, bert(3, 48, 60, longest=512), labels=3, longest=512, long_rows=[257, 511],
    ),
    "bert-hd32": Tiny(T.BertForSequenceClassification, bert(2, 64, 40)),
    "bert-hd64": Tiny(T.BertForSequenceClassification, bert(1, 64, 40)),
    "bert-embedding": Tiny(T.BertModel, bert(2, 32, 48), dtype=torch.float32),
    "xlm-roberta": Tiny(
        T.XLMRobertaForSequenceClassification, roberta(2, 32, 64, 1024), "unigram",
        longest=1024, long_rows=[511, 512, 513, 1023, 1024], spread=0.3,
    ),
    "roberta": Tiny(T.RobertaForSequenceClassification, roberta(3, 48, 64, 133), "bpe", labels=3, longest=133),
    "camembert": Tiny(
        T.CamembertForSequenceClassification, roberta(1, 32, 80, 512), "unigram",
        longest=512, long_rows=[255, 512], dtype=torch.bfloat16, spread=0.3,
    ),
    "distilbert": Tiny(
        T.DistilBertForSequenceClassification,
        dict(dim=48, n_heads=3, hidden_dim=96, n_layers=2, max_position_embeddings=130),
    ),
    "electra": Tiny(T.ElectraForSequenceClassification, bert(1, 32, 80, embedding_size=32), labels=2, spread=0.3),
    "electra-projected": Tiny(T.ElectraForSequenceClassification, bert(3, 48, 64, embedding_size=20)),
    "modernbert-cls": Tiny(
        T.ModernBertForSequenceClassification, modernbert(2, 8, "cls", 160000.0, 10000.0), "bpe",
        longest=1024, long_rows=[300, 1024], spread=0.3,
    ),
    "modernbert-mean": Tiny(
        T.ModernBertForSequenceClassification, modernbert(1, 16, "mean", 80000.0, 20000.0), "bpe",
        longest=1024, long_rows=[300, 777], spread=0.3,
    ),
}


def passages():
    return [json.loads(line) for line in (TEXTS / "passages.jsonl").read_text().splitlines()]


def wordpiece():
    """BERT's uncased tokenizer over letters, digits, some punctuation and the commonest words of the examples."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,:;?!'-()"]
    letters = string.ascii_lowercase + string.digits
    vocabulary += [*letters, *(f"##{letter}" for letter in letters)]
    counts = {}
    for word in " ".join(passages()).lower().replace(",", " ").replace(".", " ").split():
        if word.isascii() and word.isalpha() and len(word) > 1:
            counts[word] = counts.get(word, 0) + 1
    vocabulary += sorted(counts, key=lambda word: (-counts[word], word))[: 160 - len(vocabulary)]
    ids = {token: id for id, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.add_special_tokens(vocabulary[:5])
    return tokenizer


def unigram():
    """SentencePiece's unigram model as XLM-R has it, without the character map. Not trained, as that gives other pieces
    each time: common substrings of words, scored by how often they occur."""
    counts = {}
    words = ["▁" + word for word in " ".join(passages()).split()]
    for word in words:
        for start in range(len(word)):
            for end in range(start + 1, min(start + 5, len(word)) + 1):
                counts[word[start:end]] = counts.get(word[start:end], 0) + 1
    alphabet = ["▁", *string.ascii_letters, *string.digits, *".,:;?!'-"]
    common = sorted(set(counts) - set(alphabet), key=lambda piece: (-counts[piece] * (len(piece) - 1), piece))
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = alphabet + common[: 200 - len(special) - len(alphabet)]
    scores = [round(math.log(counts.get(piece, 0.1) / len(words)), 4) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram([*((token, 0.0) for token in special), *zip(pieces, scores)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = roberta_pairs()
    tokenizer.add_special_tokens(special)
    return tokenizer


def bpe():
    """RoBERTa's byte-level BPE with few merges."""
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(passages(), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = roberta_pairs()
    return tokenizer


def roberta_pairs():
    return processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )


def randomise(network, spread):
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, spread)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.2)
        else:
            parameter.normal_(1, 0.3)


def save(name, tiny, directory):
    tokenizer = {"wordpiece": wordpiece, "unigram": unigram, "bpe": bpe}[tiny.tokenizer]()
    config = tiny.kind.config_class(
        **tiny.config, vocab_size=tokenizer.get_vocab_size(), num_labels=tiny.labels, initializer_range=tiny.spread
    )
    torch.manual_seed(sum(name.encode()))
    network = tiny.kind(config)
    randomise(network, tiny.spread)
    network.to(tiny.dtype).save_pretrained(directory)
    (directory / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n")
    # What the hub's XLM-R says: no limit of the tokenizer's own.
    most = 1000000000000000019884624838656 if name == "xlm-roberta" else tiny.longest
    (directory / "tokenizer_config.json").write_text(json.dumps({"model_max_length": most}) + "\n")
    if tiny.kind is T.BertModel:
        modules(directory)
    if name == "modernbert-mean":
        older(directory / "config.json")


def modules(directory):
    """The files by which sentence-transformers knows how to pool."""
    prefix = "sentence_transformers.models."
    parts = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    listed = [{"idx": int(id), "name": id, "path": path, "type": prefix + kind} for id, path, kind in parts]
    (directory / "modules.json").write_text(json.dumps(listed) + "\n")
    (directory / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling/config.json").write_text(json.dumps(pooling) + "\n")


def older(path):
    """Rewrites ModernBERT's config.json as transformers 4 wrote it, which most of the hub has."""
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config.pop("layer_types")
    config["global_rope_theta"] = rope["full_attention"]["rope_theta"]
    config["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
    config["layer_norm_eps"] = config["norm_eps"]
    config["position_embedding_type"] = "absolute"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def rows(name, tiny, tokenizer, pad):
    """Ids, token types and texts of every case."""
    tokenizer.enable_truncation(tiny.longest, strategy="longest_first")
    long = ("blue sky " * 40, " ".join(passages()))
    for query, document in [*PAIRS, long]:
        encoded = tokenizer.encode(query, document)
        yield encoded.ids, encoded.type_ids, {"query": query, "document": document}
    generator = random.Random(name)
    words = [id for id in range(tokenizer.get_vocab_size()) if id != pad]
    draw = lambda length: generator.choices(words, k=length)
    for length in [*LENGTHS, *tiny.long_rows, tiny.longest]:
        second = generator.randint(0, length)
        yield draw(length), [int(index >= second) for index in range(length)], {}
    # The padding token is an ordinary one inside a row: users may write it.
    spread = [draw(9) + [pad] + draw(9), [pad] + draw(20) + [pad, pad] + draw(3)]
    for inside in [[pad], [pad, pad], [pad, 5], [5, pad], *spread]:
        yield inside, [0] * len(inside), {}


def compute(network, ids, types):
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if types is not None:
        inputs["token_type_ids"] = torch.tensor([types])
    outputs = network(**inputs)
    if isinstance(network, T.BertModel):
        return torch.nn.functional.normalize(outputs.last_hidden_state[0].mean(0), dim=0).tolist()
    return outputs.logits[0].tolist()


def golden(name, tiny, directory):
    load = lambda dtype: tiny.kind.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()
    network, single = load(torch.float64), load(torch.float32)
    typed = getattr(network.config, "type_vocab_size", 1) > 1
    cases, worst, spread = [], 0.0, []
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for ids, types, texts in rows(name, tiny, tokenizer, network.config.pad_token_id):
        types = types if typed else None
        logits = compute(network, ids, types)
        worst = max(worst, *(abs(a - b) for a, b in zip(logits, compute(single, ids, types))))
        spread.append(logits[0])
        cases.append({**texts, "ids": ids, **({"type_ids": types} if typed else {}), "logits": logits})
    assert max(len(case["ids"]) for case in cases) == tiny.longest
    body = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
    torch_version = torch.__version__.split("+")[0]
    note = f"float64 logits by torch {torch_version} and transformers {T.__version__}; made by make.py"
    head = f'"note": "{note}", "model": "{network.config.model_type}", "max_length": {tiny.longest}'
    (directory / "golden.json").write_text(f'{{{head}, "cases": [\n{body}\n]}}\n')
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    print(f"{name}: {len(cases)} cases, {size // 1000} kB, logits {min(spread):.2f} to {max(spread):.2f}, "
          f"float32 is off by {worst:.1e}")


@torch.no_grad()
def main(names):
    for name, tiny in MODELS.items():
        if not names or name in names:
            directory = HERE / name
            directory.mkdir(exist_ok=True)
            save(name, tiny, directory)
            golden(name, tiny, directory)


main(sys.argv[1:])
