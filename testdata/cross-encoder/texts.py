"""500 pairs of real text: documentation and translated messages of the packages in requirements.txt.

The same pairs on every machine: the packages are pinned, and choices are seeded. Lengths go from nothing to more than a
row takes.
"""

import ast
import gettext
import importlib.metadata
import importlib.util
import random
from pathlib import Path

COUNT = 500

LANGUAGES = (
    "ar bg bn cs de el es fa fi fr he hi hu ja ka ko nl pl pt_BR ru sv ta th tr uk vi zh_Hans zh_Hant"
).split()

# Pairs in each language.
PER_LANGUAGE = 12

# Messages in a document, in turn.
MESSAGES = [1, 1, 2, 3, 5, 9, 20, 40, 90, 1, 150, 2]

# Packages whose README and docstrings are read.
DOCUMENTED = ["Django", "peft", "sentence-transformers", "transformers", "tokenizers", "scikit-learn", "numpy", "regex"]

ODD = [
    "",
    " ",
    " \t\r\n",
    "\u0000",
    "\u200b\u200d\ufeff",
    "\ufffd",
    ".",
    "?!?!?!",
    "[SEP]",
    "[CLS] [MASK] [PAD] [UNK]",
    "an [SEP] inside",
    "##ing",
    "a" * 99,
    "a" * 101,
    "word " * 600,
    "東" * 700,
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇪🇺",
    "e\u0301 é ﬁ ½ ① Å İ ß ẞ ı",
    "Z̵̢͝a̷̛l̴̕g̵͠o̸",
    "שָׁלוֹם مَرْحَبًا",
    "\u202eright to left\u202c",
    "tab\tand\nnewline",
    "control \u0007 \u001b[31m characters",
    "https://example.org/a_b?c=d%20e#f",
    "SELECT * FROM t WHERE x <> 'y';",
    "1,234,567.89 −40 °C 2×10⁻³",
    "\U0001d504\U0001d505 𝒞 ＡＢＣ １２３",
    "naïve café Überfluß",
]


def pairs():
    """(language or kind, query, document), COUNT of them."""
    draw = random.Random(20)
    found = []
    for language in LANGUAGES:
        messages = catalogue(language)
        for number in range(PER_LANGUAGE):
            count = MESSAGES[number % len(MESSAGES)]
            start = draw.randrange(len(messages))
            chosen = [messages[(start + index) % len(messages)] for index in range(count)]
            other = messages[draw.randrange(len(messages))]
            # The English original, the translation itself, or another message.
            query = [chosen[0][0], chosen[-1][1], other[1]][number % 3]
            found.append((language, query, "\n".join(translation for _, translation in chosen)))
    for number, odd in enumerate(ODD):
        found.append(("odd", odd, ODD[(number * 5 + 3) % len(ODD)]))
        plain = ("why is the sky blue", odd) if number % 2 else (odd, "Air scatters blue light.")
        found.append(("odd", *plain))
    english = documentation()
    while len(found) < COUNT:
        title, text = english[draw.randrange(len(english))]
        found.append(("en", title, text))
    return found[:COUNT]


def catalogue(language):
    """English messages with their translations, from Django's catalogues."""
    django = Path(importlib.util.find_spec("django").origin).parent
    messages = {}
    for path in sorted(django.rglob(f"locale/{language}/LC_MESSAGES/django.mo")):
        with open(path, "rb") as file:
            translated = gettext.GNUTranslations(file)._catalog
        for original, translation in translated.items():
            if isinstance(original, str) and isinstance(translation, str) and original and translation.strip():
                messages[original] = translation
    assert len(messages) > 100, f"{language} has {len(messages)} messages"
    return sorted(messages.items())


def documentation():
    """English titles with texts: paragraphs and whole READMEs, and docstrings."""
    found = []
    for name in DOCUMENTED:
        metadata = importlib.metadata.metadata(name)
        readme = metadata.get_payload() or metadata["Description"] or ""
        paragraphs = [paragraph.strip() for paragraph in readme.split("\n\n") if paragraph.strip()]
        found.extend((paragraphs[index - 1][:200], paragraph) for index, paragraph in enumerate(paragraphs) if index)
        found.append((name, readme))
    for package in ["django", "peft", "sentence_transformers"]:
        folder = Path(importlib.util.find_spec(package).origin).parent
        for path in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                    found.append((getattr(node, "name", path.stem).replace("_", " "), text))
    return found
