"""The save matrix: models saved in the ways that transformers, sentence-transformers and PEFT offer, read by `assay`.

    python saves.py --assay PROGRAM --score PROGRAM --work DIR [NAME ...]

`cargo xtask compare-cross-encoder --saves` runs this. It is one file, so that it can be run by itself. Models are tiny
and random, of every family served. Each row saves one, adds it with `assay model add`, and ends in one of these:

    exact        scores are within the tolerance of what PyTorch computes before the save
    refused      `assay model add` says why
    not offered  the library itself refuses this combination: nothing to read
    FAILED       anything else: other scores, a refusal of what must be served, a model that is added and cannot rank

The reference is the network in memory, run as `CrossEncoder.predict` runs it; the row "plain" of each family checks
that the two agree. Rows about tokenizers, and "plain", go through `assay rerank`; the others through the program
`score`, which spares each model the compilation of a guest of its own. NAMEs select rows whose names contain one of
them. Ends with exit code 1 if a row failed.

The file is long because it is one table: each row stands beside those that it differs from.
"""

import argparse
import json
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import common

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

MODELS = Path(__file__).parent.parent / "models"

# Each family with the tiny model that it starts from, and the names of linear layers for LoRA.
FAMILIES = {
    "bert": ("bert-hd32", ["query", "value"]),
    "roberta": ("roberta", ["query", "value"]),
    "xlm-roberta": ("xlm-roberta", ["query", "value"]),
    "camembert": ("camembert", ["query", "value"]),
    "distilbert": ("distilbert", ["q_lin", "v_lin"]),
    "electra": ("electra-projected", ["query", "value"]),
    "modernbert": ("modernbert-cls", ["Wqkv", "Wo"]),
    "deberta-v2": ("deberta-v3", ["query_proj", "value_proj"]),
    "gte": ("gte", ["q_proj", "v_proj"]),
}

PAIRS = [
    ("why is the sky blue", "Air scatters blue light."),
    ("why is the sky blue", "The sea is blue, and bread is baked."),
    ("a", ""),
    ("", "only a document"),
    ("Überfluß, naïve café", "1984: tabs\tand\nnewlines"),
    ("The Sky IS Blue", "AIR, Light; (bread)"),
    ("blue sky " * 8, "light " * 200),
    ("blue sky " * 90, "light " * 200),
]

ROWS = []


def row(name, served=False, guest=False, families=("bert",), ranks=True):
    """Registers a function that saves a model into a folder. `served`: a refusal is a failure. `guest`: scored by
    `assay rerank`. `ranks`: without it, the model may be added if `assay rerank` then refuses it with a reason."""

    def register(save):
        for family in families:
            ROWS.append((f"{family}: {name}", family, save, served, guest, ranks))
        return save

    return register


EVERY = tuple(FAMILIES)


def config_of(family):
    return MODELS / FAMILIES[family][0]


def base(family, seed=1, **config):
    """A random cross-encoder with one label."""
    settings = AutoConfig.from_pretrained(config_of(family), **{"num_labels": 1, **config})
    torch.manual_seed(seed)
    network = AutoModelForSequenceClassification.from_config(settings, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
            else:
                parameter.normal_(0 if name.endswith("bias") else 1, 0.2)
    return network.eval()


def tokenizer_of(family, **settings):
    path = config_of(family)
    config = AutoConfig.from_pretrained(path)
    longest = json.loads((path / "golden.json").read_text())["max_length"]
    wordpiece = family in ("bert", "distilbert", "electra")
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"] if wordpiece else ["<unk>", "<s>", "</s>", "<pad>", None]
    names = ["unk_token", "cls_token", "sep_token", "pad_token", "mask_token"]
    inputs = ["input_ids", "attention_mask"]
    if getattr(config, "type_vocab_size", 1) > 1:
        inputs.insert(1, "token_type_ids")
    given = {name: token for name, token in zip(names, special) if token}
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path / "tokenizer.json"),
        **{"model_max_length": longest, "model_input_names": inputs, **given, **settings},
    )


@torch.no_grad()
def logits(network, tokenizer, longest=None, pairs=PAIRS):
    """As CrossEncoder.predict does it: texts as lists, the longest of a pair cut first, one padded batch."""
    queries, documents = [list(side) for side in zip(*pairs)]
    most = longest or tokenizer.model_max_length
    batch = tokenizer(queries, documents, padding=True, truncation=True, max_length=most, return_tensors="pt")
    return network(**batch).logits.float().tolist()


def finish(folder, family, network, tokenizer=None, want=None):
    """Writes the tokenizer beside a saved model. Returns where the model is, and what it computes."""
    tokenizer = tokenizer or tokenizer_of(family)
    tokenizer.save_pretrained(folder)
    return folder, None, want or logits(network, tokenizer)


# Whole models.


@row("plain", served=True, guest=True, families=EVERY)
def plain(folder, family):
    network = base(family)
    network.save_pretrained(folder)
    saved = finish(folder, family, network)
    theirs = common.predict(CrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"}), PAIRS)
    difference, index = common.largest([row[0] for row in saved[2]], theirs)
    assert difference < 1e-5, f"the reference differs from CrossEncoder.predict by {difference:.1e} at pair {index}"
    return saved


@row("sharded safetensors", families=EVERY)
def sharded(folder, family):
    network = base(family)
    network.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file(), "it is one file"
    return finish(folder, family, network)


def typed(folder, family, dtype):
    network = base(family).to(dtype)
    network.save_pretrained(folder)
    # Loaded again: what a model computes when it is made, such as rotary frequencies, is not rounded then.
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return finish(folder, family, network)


@row("float16", served=True, families=EVERY)
def float16(folder, family):
    return typed(folder, family, torch.float16)


@row("bfloat16", served=True, families=EVERY)
def bfloat16(folder, family):
    return typed(folder, family, torch.bfloat16)


@row("float64")
def float64(folder, family):
    return typed(folder, family, torch.float64)


@row("float8 weights")
def float8(folder, family):
    network = base(family)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.float8_e4m3fn).float()
    network.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}, folder / "model.safetensors")
    return finish(folder, family, network)


@row("norms in float32, the rest in float16", served=True)
def mixed(folder, family):
    network = base(family)
    state = {name: tensor if "norm" in name.lower() else tensor.half() for name, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    network.save_pretrained(folder, state_dict=state)
    return finish(folder, family, network)


@row("CrossEncoder.save_pretrained", served=True, families=EVERY)
def cross_encoder(folder, family):
    network, encoder = loaded(folder, family)
    encoder.save_pretrained(str(folder))
    return folder, None, logits(network, tokenizer_of(family))


def loaded(folder, family, **options):
    """A network, and a CrossEncoder with the same weights."""
    network, first = base(family), folder.with_name(folder.name + "-first")
    network.save_pretrained(first)
    tokenizer_of(family).save_pretrained(first)
    return network, CrossEncoder(str(first), device="cpu", **options)


@row("CrossEncoder.save_pretrained, float16", served=True)
def cross_encoder_half(folder, family):
    network, encoder = loaded(folder, family, model_kwargs={"dtype": "float16"})
    encoder.save_pretrained(str(folder))
    return folder, None, logits(network.half().float(), tokenizer_of(family))


@row("CrossEncoder.save_pretrained(safe_serialization=False)")
def cross_encoder_unsafe(folder, family):
    network, encoder = loaded(folder, family)
    encoder.save_pretrained(str(folder), safe_serialization=False)
    return folder, None, logits(network, tokenizer_of(family))


@row("CrossEncoder with max_length", guest=True)
def cross_encoder_short(folder, family):
    network, encoder = loaded(folder, family, max_length=32)
    encoder.save_pretrained(str(folder))
    want = logits(network, tokenizer_of(family), 32)
    theirs = common.predict(CrossEncoder(str(folder), device="cpu"), PAIRS)
    assert common.largest([row[0] for row in want], theirs)[0] < 1e-5, "CrossEncoder does not keep max_length"
    return folder, None, want


@row("CrossEncoder with a default prompt", guest=True)
def cross_encoder_prompt(folder, family):
    _, encoder = loaded(folder, family, prompts={"light": "blue light: "}, default_prompt_name="light")
    encoder.save_pretrained(str(folder))
    return folder, None, [[score] for score in common.predict(CrossEncoder(str(folder), device="cpu"), PAIRS)]


@row("CrossEncoder with an activation")
def cross_encoder_activation(folder, family):
    network, encoder = loaded(folder, family, activation_fn=torch.nn.Tanh())
    encoder.save_pretrained(str(folder))
    return folder, None, logits(network, tokenizer_of(family))


for options, families in [
    ({"safe_serialization": False}, ("bert",)),
    ({"distributed_checkpoint": True}, ("bert",)),
    ({"save_original_format": False}, EVERY),
]:

    @row(", ".join(f"{name}={value}" for name, value in options.items()), families=families)
    def saved_with(folder, family, options=options):
        network = base(family)
        network.save_pretrained(folder, **options)
        return finish(folder, family, network)


@row("pytorch_model.bin", families=EVERY)
def pickled(folder, family):
    network = base(family)
    network.config.save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    return finish(folder, family, network)


@row("variant='fp16'")
def variant(folder, family):
    network = base(family).half()
    network.save_pretrained(folder, variant="fp16")
    return finish(folder, family, network.float())


@row("state_dict=, the encoder's alone")
def partial(folder, family):
    network = base(family)
    state = {name: tensor for name, tensor in network.state_dict().items() if "classifier" not in name}
    network.save_pretrained(folder, state_dict=state)
    return finish(folder, family, network)


@row("the encoder alone", families=EVERY, ranks=False)
def encoder_alone(folder, family):
    network = base(family)
    network.base_model.save_pretrained(folder)
    return finish(folder, family, network)


@row("torch.compile(network).save_pretrained", families=EVERY)
def compiled(folder, family):
    network = base(family)
    torch.compile(network).save_pretrained(folder)
    return finish(folder, family, network)


def prefixed(folder, family, prefix):
    network = base(family)
    network.save_pretrained(folder)
    state = {prefix + name: tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return finish(folder, family, network)


@row("state dict of torch.compile, _orig_mod.", families=EVERY)
def compiled_state(folder, family):
    return prefixed(folder, family, "_orig_mod.")


@row("state dict of DataParallel, module.", families=EVERY)
def parallel_state(folder, family):
    return prefixed(folder, family, "module.")


@row("state dict of a Lightning module, model.", families=EVERY)
def lightning_state(folder, family):
    return prefixed(folder, family, "model.")


@row("state dict of both, module._orig_mod.")
def both_states(folder, family):
    return prefixed(folder, family, "module._orig_mod.")


@row("Accelerator.save_model", families=EVERY)
def accelerated(folder, family):
    from accelerate import Accelerator

    network = base(family)
    Accelerator(cpu=True).save_model(network, str(folder))
    network.config.save_pretrained(folder)
    return finish(folder, family, network)


@row("Trainer.save_model", served=True)
def trained(folder, family):
    network = base(family)
    options = transformers.TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[])
    trainer = transformers.Trainer(network, options, processing_class=tokenizer_of(family))
    trainer.save_model(str(folder))
    return folder, None, logits(network, tokenizer_of(family))


@row("older names, gamma and beta", served=True)
def older(folder, family):
    network = base(family)
    network.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    for new, old in [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")]:
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors")
    return finish(folder, family, network)


@row("older buffers, position_ids", served=True)
def buffers(folder, family):
    network = base(family)
    network.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    state["bert.embeddings.position_ids"] = torch.arange(network.config.max_position_embeddings)[None]
    save_file(state, folder / "model.safetensors")
    return finish(folder, family, network)


@row("config without architectures", families=EVERY)
def no_architectures(folder, family):
    network = base(family)
    network.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["architectures"]
    path.write_text(json.dumps(config))
    return finish(folder, family, network)


@row("two labels", guest=True, families=("bert", "roberta"))
def two_labels(folder, family):
    network = base(family, num_labels=2)
    network.save_pretrained(folder)
    return finish(folder, family, network)


@row("three labels with names", guest=True)
def three_labels(folder, family):
    names = {0: "contradiction", 1: "entailment", 2: "neutral"}
    network = base(family, id2label=names, label2id={name: id for id, name in names.items()})
    network.save_pretrained(folder)
    return finish(folder, family, network)


for name in ("relu", "gelu_new", "gelu_pytorch_tanh", "silu", "quick_gelu"):

    @row(f"hidden_act {name}")
    def activation(folder, family, name=name):
        network = base(family, hidden_act=name)
        network.save_pretrained(folder)
        return finish(folder, family, network)


@row("one token type")
def one_type(folder, family):
    network = base(family, type_vocab_size=1)
    network.save_pretrained(folder)
    return finish(folder, family, network, tokenizer_of(family, model_input_names=["input_ids", "attention_mask"]))


@row("mean pooling", families=("modernbert",))
def mean_pooling(folder, family):
    network = base(family, classifier_pooling="mean")
    network.save_pretrained(folder)
    return finish(folder, family, network)


@row("biases everywhere", families=("modernbert",))
def all_biases(folder, family):
    network = base(family, classifier_bias=True, attention_bias=True, mlp_bias=True, norm_bias=True)
    network.save_pretrained(folder)
    return finish(folder, family, network)


# Tokenizers.


@row("no tokenizer_config.json", families=EVERY[1:])
@row("no tokenizer_config.json", guest=True)
def no_tokenizer_config(folder, family):
    network = base(family)
    network.save_pretrained(folder)
    # The class is then that of the model's type, which may build the tokenizer anew. The model's positions limit a row.
    longest = tokenizer_of(family).model_max_length
    if family == "gte":
        longest = network.config.max_position_embeddings
    finish(folder, family, network)
    (folder / "tokenizer_config.json").unlink()
    return folder, None, logits(network, AutoTokenizer.from_pretrained(folder), longest)


def plain_network(folder, family, tokenizer=None, want=None):
    network = base(family)
    network.save_pretrained(folder)
    return finish(folder, family, network, tokenizer, want)


@row("no tokenizer.json", families=EVERY)
def no_tokenizer(folder, family):
    saved = plain_network(folder, family)
    (folder / "tokenizer.json").unlink()
    return saved


@row("vocab.txt alone")
def vocabulary(folder, family):
    saved = plain_network(folder, family)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(vocabulary, key=vocabulary.get)))
    (folder / "tokenizer.json").unlink()
    return saved


for name, settings in {
    "model_max_length 32": {"model_max_length": 32},
    "truncation_side left": {"truncation_side": "left"},
    "without token types": {"model_input_names": ["input_ids", "attention_mask"]},
}.items():

    @row(f"tokenizer with {name}", guest=True)
    def tokenizer_setting(folder, family, settings=settings):
        return plain_network(folder, family, tokenizer_of(family, **settings))


@row("tokenizer with padding_side left", guest=True)
def padded_left(folder, family):
    # BERT counts positions from the padding on, so its scores depend on the batch. A pair alone has no padding.
    tokenizer = tokenizer_of(family, padding_side="left")
    network = base(family)
    network.save_pretrained(folder)
    alone = [logits(network, tokenizer, pairs=[pair])[0] for pair in PAIRS]
    return finish(folder, family, network, tokenizer, alone)


@row("BertTokenizer with do_lower_case False", guest=True)
def cased(folder, family):
    network = base(family)
    network.save_pretrained(folder)
    tokenizer_of(family).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tokenizer_class": "BertTokenizer", "do_lower_case": False}))
    theirs = common.predict(CrossEncoder(str(folder), device="cpu"), PAIRS)
    return folder, None, [[score] for score in theirs]


@row("added tokens", guest=True)
def added_tokens(folder, family):
    tokenizer = tokenizer_of(family)
    tokenizer.add_tokens(["scatters", "Überfluß"])
    network = base(family)
    network.resize_token_embeddings(len(tokenizer))
    network.save_pretrained(folder)
    return finish(folder, family, network, tokenizer)


@row("tokenizer larger than the model")
def too_many_tokens(folder, family):
    tokenizer = tokenizer_of(family)
    tokenizer.add_tokens(["scatters"])
    network = base(family)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # PyTorch has no row for the token either.
    return folder, None, [[float("nan")]] * len(PAIRS)


# Adapters.


def disturb(network):
    """Changes what an adapter trains, as training does."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval()


def adapted(folder, family, config, network=None, save=None):
    """A base model, and a PEFT model over it that was trained."""
    network = network or base(family)
    model, adapter = folder / "model", folder / "adapter"
    network.save_pretrained(model)
    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(model)
    tuned = disturb(get_peft_model(network, config))
    (save or (lambda tuned, path: tuned.save_pretrained(path)))(tuned, adapter)
    return model, adapter, logits(tuned, tokenizer)


def lora(family="bert", **options):
    options = {"task_type": TaskType.SEQ_CLS, "target_modules": FAMILIES[family][1], "r": 4, "lora_alpha": 8, **options}
    return LoraConfig(**options)


# An adapter over GTE has the names of transformers' layers, and the model's own file has those of its first code.
@row("LoRA", families=("gte",))
@row("LoRA", served=True, families=tuple(family for family in EVERY if family != "gte"))
def lora_plain(folder, family):
    return adapted(folder, family, lora(family))


@row("LoRA, merged", served=True, families=EVERY)
def lora_merged(folder, family):
    tuned = disturb(get_peft_model(base(family), lora(family)))
    merged = tuned.merge_and_unload().eval()
    merged.save_pretrained(folder)
    return finish(folder, family, merged)


@row("LoRA on all linear layers", families=EVERY)
def lora_all(folder, family):
    return adapted(folder, family, lora(family, target_modules="all-linear"))


@row("LoRA on PEFT's own choice of layers", families=EVERY)
def lora_default(folder, family):
    return adapted(folder, family, lora(family, target_modules=None))


OPTIONS = {
    "a regular expression": {"target_modules": r".*layer\.1.*(query|dense)"},
    "use_rslora": {"use_rslora": True},
    "rank_pattern": {"rank_pattern": {"query": 2}},
    "alpha_pattern": {"alpha_pattern": {"layer.0.attention.self.query": 32}},
    "layers_to_transform": {"layers_to_transform": [1]},
    "exclude_modules": {"target_modules": "all-linear", "exclude_modules": ["pooler.dense"]},
    "modules_to_save classifier": {"modules_to_save": ["classifier"]},
    "modules_to_save pooler": {"modules_to_save": ["classifier", "pooler"]},
    "modules_to_save LayerNorm": {"modules_to_save": ["LayerNorm"]},
    "modules_to_save word_embeddings": {"modules_to_save": ["word_embeddings"]},
    "task_type none": {"task_type": None},
    "task_type FEATURE_EXTRACTION": {"task_type": TaskType.FEATURE_EXTRACTION},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "use_dora": {"use_dora": True},
    "use_dora on all linear layers": {"use_dora": True, "target_modules": "all-linear"},
    "the head": {"target_modules": ["query", "classifier"], "task_type": None},
    "the embeddings": {"target_modules": ["word_embeddings", "query"]},
    "trainable_token_indices": {"trainable_token_indices": {"word_embeddings": [7, 8]}},
    "target_parameters": {"target_modules": [], "target_parameters": ["layer.0.attention.self.query.weight"]},
    "layer_replication": {"layer_replication": [(0, 2), (1, 2)]},
    "use_qalora": {"use_qalora": True, "qalora_group_size": 16},
    "alora_invocation_tokens": {"alora_invocation_tokens": [5, 6]},
    "ensure_weight_tying": {"ensure_weight_tying": True},
    "r 1 and lora_alpha 3": {"r": 1, "lora_alpha": 3},
    "lora_dropout 0.5": {"lora_dropout": 0.5},
    "kasa_config": {"kasa_config": lambda: peft.KasaConfig()},
    "monteclora_config": {"monteclora_config": lambda: peft.MontecloraConfig()},
    "velora_config": {"velora_config": lambda: peft.VeloraConfig()},
    "use_bdlora": {
        "use_bdlora": lambda: peft.BdLoraConfig(target_modules_bd_a=["query"], target_modules_bd_b=["value"], nblocks=2)
    },
    "init_lora_weights loftq": {
        "init_lora_weights": "loftq", "loftq_config": lambda: peft.LoftQConfig(loftq_bits=4),
    },
    **{
        f"init_lora_weights {init}": {"init_lora_weights": init}
        for init in (False, "gaussian", "orthogonal", "mica", "eva", "pissa", "pissa_niter_4", "olora", "lora_ga")
    },
}

for name, options in OPTIONS.items():

    @row(f"LoRA, {name}")
    def lora_option(folder, family, options=options):
        options = {key: value() if callable(value) else value for key, value in options.items()}
        return adapted(folder, family, lora(**options))

    @row(f"LoRA, {name}, merged")
    def lora_option_merged(folder, family, options=options):
        options = {key: value() if callable(value) else value for key, value in options.items()}
        tuned = disturb(get_peft_model(base(family), lora(**options)))
        want = logits(tuned, tokenizer_of(family))
        merged = tuned.merge_and_unload()
        merged.save_pretrained(folder)
        return finish(folder, family, merged, want=want)


@row("LoRA, init_lora_weights corda")
def corda(folder, family):
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    network, config = base(family), lora(init_lora_weights="corda", corda_config=CordaConfig())
    preprocess_corda(network, config, run_model=lambda: logits(network, tokenizer_of(family), pairs=PAIRS[:1]))
    # What the preprocessing leaves at the layers is no part of the model.
    state = network.state_dict()
    clean = base(family)
    clean.load_state_dict(state, strict=False)
    (folder / "model").mkdir()
    tuned = disturb(get_peft_model(network, config))
    tokenizer_of(family).save_pretrained(folder / "model")
    clean.save_pretrained(folder / "model")
    tuned.save_pretrained(folder / "adapter")
    return folder / "model", folder / "adapter", logits(tuned, tokenizer_of(family))


# With a task type PEFT adds the head to `modules_to_save`, and the conversion leaves it out of the file.
for name, task in [("pissa", None), ("olora", None), ("pissa", TaskType.SEQ_CLS), ("olora", TaskType.SEQ_CLS)]:

    @row(f"LoRA, init_lora_weights {name}, converted, {'the head left out' if task else 'no task type'}")
    def converted(folder, family, name=name, task=task):
        config = lora(init_lora_weights=name, task_type=task)
        network, model, adapter = base(family), folder / "model", folder / "adapter"
        network.save_pretrained(model)
        tokenizer = tokenizer_of(family)
        tokenizer.save_pretrained(model)
        tuned, first = get_peft_model(network, config), folder / "first"
        tuned.peft_config["default"].init_lora_weights = True
        tuned.save_pretrained(first)
        tuned.peft_config["default"].init_lora_weights = name
        disturb(tuned)
        want = logits(tuned, tokenizer)
        tuned.save_pretrained(adapter, path_initial_model_for_weight_conversion=str(first))
        return model, adapter, want


@row("LoRA, safe_serialization=False")
def adapter_pickled(folder, family):
    save = lambda tuned, path: tuned.save_pretrained(path, safe_serialization=False)
    return adapted(folder, family, lora(), save=save)


for dtype in (torch.float16, torch.bfloat16):

    @row(f"LoRA in {str(dtype).removeprefix('torch.')}")
    def adapter_half(folder, family, dtype=dtype):
        def save(tuned, path):
            for name, parameter in tuned.named_parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype).float()
            tuned.save_pretrained(path)
            state = load_file(path / "adapter_model.safetensors")
            save_file({name: tensor.to(dtype) for name, tensor in state.items()}, path / "adapter_model.safetensors")

        return adapted(folder, family, lora(), save=save)


@row("LoRA under a name of its own")
def named_adapter(folder, family):
    network = base(family)
    model = folder / "model"
    network.save_pretrained(model)
    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(model)
    tuned = disturb(get_peft_model(network, lora(), adapter_name="mine"))
    tuned.save_pretrained(folder / "adapters")
    return model, folder / "adapters/mine", logits(tuned, tokenizer)


@row("two LoRA adapters, combined by add_weighted_adapter")
def weighted(folder, family):
    network = base(family)
    model = folder / "model"
    network.save_pretrained(model)
    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(model)
    tuned = get_peft_model(network, lora(task_type=None))
    tuned.add_adapter("second", lora(task_type=None))
    disturb(tuned)
    tuned.add_weighted_adapter(["default", "second"], [0.7, 0.4], "both", combination_type="cat")
    tuned.set_adapter("both")
    tuned.save_pretrained(folder / "adapters", selected_adapters=["both"])
    return model, folder / "adapters/both", logits(tuned.eval(), tokenizer)


@row("LoRA from the raw state dict")
def raw_state(folder, family):
    def save(tuned, path):
        tuned.save_pretrained(path)
        trained = [name for name in tuned.state_dict() if "lora_" in name or "classifier" in name]
        state = {name: tuned.state_dict()[name].contiguous() for name in trained}
        save_file(state, path / "adapter_model.safetensors")

    return adapted(folder, family, lora(), save=save)


@row("LoRA whose head was left out of the file")
def headless(folder, family):
    def save(tuned, path):
        tuned.save_pretrained(path)
        state = load_file(path / "adapter_model.safetensors")
        state = {name: tensor for name, tensor in state.items() if "classifier" not in name}
        save_file(state, path / "adapter_model.safetensors")

    return adapted(folder, family, lora(), save=save)


@row("LoRA of another base")
def other_base(folder, family):
    model, adapter, want = adapted(folder, family, lora())
    shutil.rmtree(model)
    deeper = base(family, num_hidden_layers=1)
    deeper.save_pretrained(model)
    tokenizer_of(family).save_pretrained(model)
    return model, adapter, want


@row("the adapter's directory without its base")
def adapter_alone(folder, family):
    _, adapter, want = adapted(folder, family, lora())
    return adapter, None, want


@row("CrossEncoder.add_adapter and save_pretrained", families=("bert", "distilbert", "xlm-roberta", "modernbert"))
def cross_encoder_adapter(folder, family):
    _, encoder = loaded(folder, family)
    encoder.add_adapter(lora(family))
    disturb(encoder)
    encoder.save_pretrained(str(folder / "adapter"))
    theirs = common.predict(encoder, PAIRS)
    return folder.with_name(folder.name + "-first"), folder / "adapter", [[score] for score in theirs]


@row("transformers' own add_adapter and save_pretrained")
def transformers_adapter(folder, family):
    network, model = base(family), folder / "model"
    network.save_pretrained(model)
    tokenizer = tokenizer_of(family)
    tokenizer.save_pretrained(model)
    network.add_adapter(lora())
    disturb(network)
    network.save_pretrained(folder / "adapter")
    return model, folder / "adapter", logits(network, tokenizer)


# Every other kind of adapter that PEFT has.


def other_kinds():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    for kind, config in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items(), key=lambda found: str(found[0].value)):
        if kind.value != "LORA":
            yield kind.value, config


# What some kinds need to be set on so small a model.
NEEDED = {
    "AdaLoraConfig": {"total_step": 10},
    "BOFTConfig": {"boft_block_size": 8},
    "C3AConfig": {"block_size": 8},
    "TrainableTokensConfig": {"target_modules": ["word_embeddings"], "token_indices": [7, 8]},
    "VBLoRAConfig": {"vector_length": 16},
}

for name, config in other_kinds():

    @row(f"PEFT {name}")
    def other_adapter(folder, family, config=config):
        fields = getattr(config, "__dataclass_fields__", {})
        options = {"task_type": TaskType.SEQ_CLS}
        if "target_modules" in fields:
            options["target_modules"] = ["query", "value"]
        if "feedforward_modules" in fields:
            options["feedforward_modules"] = []
        if "num_virtual_tokens" in fields:
            options["num_virtual_tokens"] = 4
        options.update(NEEDED.get(config.__name__, {}))
        # Prompts take positions of their own.
        return adapted(folder, family, config(**options), base(family, max_position_embeddings=200))


# The judge.


def judge(row, number, assay, score, work):
    """(outcome, detail) of a row."""
    name, family, save, served, guest, ranks = row
    folder = work / f"{number:03}"
    folder.mkdir(parents=True)
    try:
        model, adapter, want = save(folder, family)
    except Exception as error:
        # A mistake of this script is no refusal of the library.
        if traceback.extract_tb(error.__traceback__)[-1].filename == __file__:
            raise
        return "not offered", f"{type(error).__name__}: {error}".splitlines()[0]
    stored = f"saves/{number:03}"
    options = ["--adapter", adapter] if adapter else []
    if guest and len(want[0]) > 1:
        # A model of several labels is ranked by the one that its user chooses.
        options += ["--label", "1"]
    add = assay.run("model", "add", model, "--name", stored, *options)
    if add.returncode not in (0, 2):
        return "FAILED", f"model add ended with {add.returncode}: {last(add.stderr)}"
    if add.returncode == 2:
        if not add.stderr.startswith("error: ") or len(add.stderr.strip()) < 20:
            return "FAILED", f"refused without a reason: {add.stderr!r}"
        if served:
            return "FAILED", f"must be served, and is refused: {last(add.stderr)}"
        return "refused", last(add.stderr)
    try:
        if guest or not ranks:
            ours = [[value] for value in assay.scores(PAIRS, stored)]
        else:
            ours = natively(score, assay.data_dir, stored, work)
    except ValueError as error:
        if not ranks:
            return "refused", f"added, and refused by rerank: {last(str(error))}"
        return "FAILED", f"added, and cannot rank: {last(str(error))}"
    if not ranks:
        return "FAILED", "has no trained head, and ranks"
    return compare(ours, want)


def natively(score, data_dir, stored, work):
    pairs = work / "pairs.json"
    pairs.write_text(json.dumps(PAIRS))
    done = subprocess.run([score, data_dir, stored, pairs], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip())
    return json.loads(done.stdout)


def compare(ours, want):
    """Each pair's logits against the reference; one number where the program chose a label."""
    labels = range(len(want[0]))
    if len(ours[0]) == len(want[0]):
        columns = [(label, label) for label in labels]
    elif len(ours[0]) == 1:
        found = [common.largest([row[0] for row in ours], [row[label] for row in want])[0] for label in labels]
        columns = [(0, found.index(min(found)))]
    else:
        return "FAILED", f"{len(ours[0])} logits, PyTorch has {len(want[0])}"
    found = [common.largest([row[left] for row in ours], [row[right] for row in want]) for left, right in columns]
    difference, index = max(found)
    if difference <= common.TOLERANCE:
        return "exact", f"{difference:.1e}"
    return "FAILED", f"differs by {difference:.2g} at pair {index}, {PAIRS[index]!r:.60}"


def last(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return next((line for line in lines if line.startswith(("error", "Error"))), lines[-1] if lines else "")[:300]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("assay", "score", "work"):
        parser.add_argument(f"--{name}", required=True, type=Path)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = args.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    assay = common.Assay(args.assay.resolve(), work / "data")
    rows = [row for row in ROWS if not args.names or any(name in row[0] for name in args.names)]
    assert rows, f"no row's name contains {' or '.join(args.names)}"
    outcomes = {}
    for number, row in enumerate(rows):
        try:
            outcome, detail = judge(row, number, assay, args.score.resolve(), work)
        except Exception as error:
            outcome, detail = "FAILED", f"the script itself: {error}"
            traceback.print_exc()
        outcomes.setdefault(outcome, []).append((row[0], detail))
        print(f"{outcome:12} {row[0]:58} {detail}", flush=True)
        for path in work.glob(f"{number:03}*"):
            shutil.rmtree(path)
    failed = outcomes.pop("FAILED", [])
    counts = ", ".join(f"{len(found)} {outcome}" for outcome, found in sorted(outcomes.items()))
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    print(f"\n{len(rows)} rows with {versions}: {counts}, {len(failed)} failed")
    for name, detail in failed:
        print(f"  {name}: {detail}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
