"""Makes the tiny models of this folder, their tokenizers, and float64 logits by Hugging Face's own code.

    python3 -m venv target/golden-venv
    target/golden-venv/bin/pip install torch==2.15.0 transformers==5.24.0 sentence-transformers==6.2.0
    target/golden-venv/bin/python testdata/models/make.py [NAME ...]

Each model is a Hugging Face directory with a `golden.json` beside its weights:

    {"note", "model", "max_length", "cases": [{"query"?, "document"?, "ids", "type_ids"?, "logits"}]}

Cases with texts were tokenised by `tokenizers` from the directory's own `tokenizer.json`; the others are made of ids
alone. `type_ids` is absent where the family has no token types. `logits` of the embedding model are the mean of the
last hidden states, scaled to unit length. Logits are computed from the weights as saved, that is after rounding to the
stored type, one row at a time, so that no padding and no mask takes part. Where the library computes a part of a
float64 model in float32 (`exact` lists them), that part is computed in float64 here; rotary angles alone are float32,
as in every engine.

Layouts that the library does not write are made by renaming: ModernBERT's older config.json, the files of GTE's authors
with their scaled frequencies, and jina-reranker-v2's names.

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
from types import SimpleNamespace

import torch
import transformers
from safetensors.torch import load_file, save_file
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
    # Changes the network after it is loaded.
    loaded: object = None
    # Rewrites the directory's files once the logits are known.
    stored: object = None


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


def deberta(heads, longest, **more):
    return dict(
        hidden_size=48, num_attention_heads=heads, intermediate_size=64, num_hidden_layers=2,
        max_position_embeddings=longest, relative_attention=True, share_att_key=True, pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm", **more,
    )


def gte(heads, theta, **more):
    return dict(
        hidden_size=32, num_attention_heads=heads, intermediate_size=40, num_hidden_layers=3, pad_token_id=1,
        max_position_embeddings=1024, rope_parameters={"rope_type": "default", "rope_theta": theta}, **more,
    )


NTK_FACTOR = 8.0


def scale_frequencies(network):
    """The scaling of the GTE authors' code; its theta times the factor is in the configuration already."""
    rotary = network.gte.rotary_emb
    rotary.inv_freq = rotary.inv_freq / NTK_FACTOR ** (2 / (2 * len(rotary.inv_freq)))


def rename(directory, names, changes):
    """Rewrites tensors by a function of them all, and the configuration by its changes; None removes a field."""
    tensors = load_file(directory / "model.safetensors")
    save_file(names(tensors), directory / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((directory / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def fuse(tensors, layer, fused, parts):
    """Stacks tensors of one layer in one."""
    for kind in ["weight", "bias"]:
        stored = [f"{layer}.{part}.{kind}" for part in parts]
        if stored[0] in tensors:
            tensors[f"{layer}.{fused}.{kind}"] = torch.cat([tensors.pop(name) for name in stored])


def gte_of_its_authors(directory):
    # The library keeps the authors' names when it saves, except for the first.
    names = lambda tensors: {name.replace("gte.", "new.", 1): tensor for name, tensor in tensors.items()}
    code = "Alibaba-NLP/new-impl--"
    rename(directory, names, {
        "architectures": ["NewForSequenceClassification"], "model_type": "new", "rope_parameters": None,
        "rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": NTK_FACTOR}, "position_embedding_type": "rope",
        "layer_norm_type": "layer_norm", "logn_attention_scale": False, "pack_qkv": True,
        "auto_map": {
            "AutoConfig": code + "configuration.NewConfig",
            "AutoModelForSequenceClassification": code + "modeling.NewForSequenceClassification",
        },
    })


def jina(directory):
    def names(tensors):
        renamed = {}
        for name, tensor in tensors.items():
            for old, new in [
                ("embeddings.LayerNorm", "emb_ln"), ("encoder.layer.", "encoder.layers."),
                ("attention.output.dense", "mixer.out_proj"), ("attention.output.LayerNorm", "norm1"),
                ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"), ("output.LayerNorm", "norm2"),
            ]:
                name = name.replace(old, new)
            renamed[name] = tensor
        for layer in range(2):
            parts = [f"attention.self.{part}" for part in ["query", "key", "value"]]
            fuse(renamed, f"roberta.encoder.layers.{layer}", "mixer.Wqkv", parts)
        return renamed

    # The hub's file has no model_type.
    rename(directory, names, {
        "model_type": None, "position_embedding_type": "absolute", "use_flash_attn": True,
        "auto_map": {
            "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
    })


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
    "ettin": Tiny(
        T.ModernBertModel, modernbert(2, 8, "mean", 160000.0, 160000.0), "bpe",
        longest=520, long_rows=[511, 512, 513], spread=0.3,
    ),
    "deberta-v3": Tiny(
        T.DebertaV2ForSequenceClassification,
        deberta(3, 520, position_buckets=32, position_biased_input=False, type_vocab_size=0), "unigram",
        longest=520, long_rows=[255, 511, 512, 513],
    ),
    "deberta-v2": Tiny(
        T.DebertaV2ForSequenceClassification, deberta(2, 140, type_vocab_size=2), labels=3, longest=140,
    ),
    "gte": Tiny(
        T.GteForSequenceClassification, gte(1, 160000.0, type_vocab_size=2), "unigram",
        longest=520, long_rows=[511, 512, 513], spread=0.3,
    ),
    "gte-new": Tiny(
        T.GteForSequenceClassification, gte(2, 20000.0 * NTK_FACTOR, type_vocab_size=1), "unigram", longest=1024,
        long_rows=[513], loaded=scale_frequencies, stored=gte_of_its_authors,
    ),
    "jina-v2": Tiny(
        T.XLMRobertaForSequenceClassification, roberta(2, 32, 64, 130), "unigram", spread=0.3, stored=jina,
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
    if tiny.kind is T.ModernBertModel:
        head_modules(directory, tiny)
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


def head_modules(directory, tiny):
    """The modules of ettin's rerankers, saved by sentence-transformers: a head of two Dense and a LayerNorm."""
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    hidden = tiny.config["hidden_size"]
    parts = [
        Pooling(hidden, "cls"),
        Dense(hidden, hidden, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(hidden),
        Dense(hidden, tiny.labels, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    listed = [("", "sentence_transformers.base.modules.transformer.Transformer")]
    for index, part in enumerate(parts, start=1):
        randomise(part, tiny.spread)
        folder = f"{index}_{type(part).__name__}"
        (directory / folder).mkdir(exist_ok=True)
        part.to(tiny.dtype).save(str(directory / folder))
        listed.append((folder, f"{type(part).__module__}.{type(part).__qualname__}"))
    listed = [{"idx": idx, "name": str(idx), "path": path, "type": kind} for idx, (path, kind) in enumerate(listed)]
    (directory / "modules.json").write_text(json.dumps(listed, indent=2) + "\n")
    saved = {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity", "prompts": {}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(saved, indent=2) + "\n")


class WithModules(torch.nn.Module):
    """A bare encoder and the modules beside it, as sentence-transformers loads them."""

    def __init__(self, directory, encoder, dtype):
        from sentence_transformers.util import import_from_string

        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        listed = json.loads((directory / "modules.json").read_text())[1:]
        load = lambda module: import_from_string(module["type"]).load(str(directory / module["path"]))
        self.parts = torch.nn.ModuleList([load(module) for module in listed]).to(dtype).eval()

    def forward(self, **inputs):
        features = {"token_embeddings": self.encoder(**inputs).last_hidden_state, **inputs}
        for part in self.parts:
            features = part(features)
        return SimpleNamespace(logits=features["scores"])


def exact():
    """Has the library compute in float64 what it computes in float32 even for float64 models."""
    from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta_v2
    from transformers.models.gte import modeling_gte as gte
    from transformers.models.modernbert import modeling_modernbert as modernbert

    def tables(inv_freq, x, positions):
        angles = positions[..., None].float() * inv_freq.float()
        angles = torch.cat((angles, angles), dim=-1).to(x.dtype)
        return angles.cos(), angles.sin()

    modernbert.ModernBertRotaryEmbedding.forward = lambda self, x, position_ids, layer_type: tables(
        getattr(self, f"{layer_type}_inv_freq"), x, position_ids
    )
    gte.GteRotaryEmbedding.forward = lambda self, x, position_ids: tables(self.inv_freq, x, position_ids)
    # The same formulas without a cast.
    modernbert.apply_rotary_pos_emb = gte.apply_rotary_pos_emb
    modernbert.eager_attention_forward = gte.eager_attention_forward
    deberta_v2.scaled_size_sqrt = lambda query, factor: torch.sqrt(
        torch.tensor(query.size(-1) * factor, dtype=query.dtype)
    )


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
    def load(dtype):
        network = tiny.kind.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()
        if tiny.loaded:
            tiny.loaded(network)
        return WithModules(directory, network, dtype) if tiny.kind is T.ModernBertModel else network

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
    exact()
    for name, tiny in MODELS.items():
        if not names or name in names:
            directory = HERE / name
            directory.mkdir(exist_ok=True)
            save(name, tiny, directory)
            golden(name, tiny, directory)
            if tiny.stored:
                tiny.stored(directory)


if __name__ == "__main__":
    main(sys.argv[1:])
