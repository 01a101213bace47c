#!/usr/bin/env python3
"""Compares our tokenizer with the models' own implementations, id by id.

    tokenizer_vs_hf.py --tool bazel-bin/tests/tools/tokenize_lines [--model MODEL.gguf] [--n 10000]

--model: a GGUF with pre-tokenizer "smollm"; its vocabulary and merges become a Hugging Face
`tokenizers` object. After it, and without --model, a small vocabulary is trained for every
pre-tokenizer family with the family's published patterns, and one SentencePiece model; each is
written as a GGUF and compared.

Exit status 1 on any difference. The last line is "N passed, M failed".
"""

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import tempfile

import gguf
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

import tokenizer_texts

CONTROL, NORMAL = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)

WORDS_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CASED_1 = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
CASED_2 = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"


DEEPSEEK_LETTERS = (
    r"A-Za-z\x{b5}\x{c0}-\x{d6}\x{d8}-\x{f6}\x{f8}-\x{1ba}\x{1bc}-\x{1bf}\x{1c4}-\x{293}"
    r"\x{295}-\x{2af}\x{370}-\x{373}\x{376}\x{377}\x{37b}-\x{37d}\x{37f}\x{386}"
    r"\x{388}-\x{38a}\x{38c}\x{38e}-\x{3a1}\x{3a3}-\x{3f5}\x{3f7}-\x{481}\x{48a}-\x{52f}"
    r"\x{531}-\x{556}\x{10a0}-\x{10c5}\x{13a0}-\x{13f5}\x{13f8}-\x{13fd}\x{1c90}-\x{1cba}"
    r"\x{1cbd}-\x{1cbf}\x{1d00}-\x{1d2b}\x{1d6b}-\x{1d77}\x{1d79}-\x{1d9a}\x{1e00}-\x{1f15}"
    r"\x{1f18}-\x{1f1d}\x{1f20}-\x{1f45}\x{1f48}-\x{1f4d}\x{1f50}-\x{1f57}\x{1f59}\x{1f5b}"
    r"\x{1f5d}\x{1f5f}-\x{1f7d}\x{1f80}-\x{1fb4}\x{1fb6}-\x{1fbc}\x{1fbe}\x{1fc2}-\x{1fc4}"
    r"\x{1fc6}-\x{1fcc}\x{1fd0}-\x{1fd3}\x{1fd6}-\x{1fdb}\x{1fe0}-\x{1fec}\x{1ff2}-\x{1ff4}"
    r"\x{1ff6}-\x{1ffc}\x{2102}\x{2107}\x{210a}-\x{2113}\x{2115}\x{2119}-\x{211d}\x{2124}"
    r"\x{2126}\x{2128}\x{212a}-\x{212d}\x{212f}-\x{2134}\x{2139}\x{213c}-\x{213f}"
    r"\x{2145}-\x{2149}\x{214e}\x{2183}\x{2184}\x{2c00}-\x{2c7b}\x{2c7e}-\x{2ce4}"
    r"\x{2ceb}-\x{2cee}\x{2cf2}\x{2cf3}\x{a640}-\x{a66d}\x{a680}-\x{a69b}\x{a722}-\x{a76f}"
    r"\x{a771}-\x{a787}\x{a78b}-\x{a78e}\x{ab70}-\x{abbf}\x{fb00}-\x{fb06}\x{fb13}-\x{fb17}"
    r"\x{ff21}-\x{ff3a}\x{ff41}-\x{ff5a}\x{10400}-\x{1044f}\x{104b0}-\x{104d3}"
    r"\x{104d8}-\x{104fb}\x{10c80}-\x{10cb2}\x{10cc0}-\x{10cf2}\x{118a0}-\x{118df}"
    r"\x{1e900}-\x{1e943}")


def split(*patterns):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns] + [BYTES])


# name in tokenizer.ggml.pre -> (pre-tokenizer, normalizer, whole words that are tokens stay whole)
FAMILIES = {
    "gpt-2": (GPT2, None, False),
    "smollm": (pre_tokenizers.Sequence([DIGITS, GPT2]), None, False),
    "command-r": (pre_tokenizers.Sequence([DIGITS, GPT2]), normalizers.NFC(), False),
    "llama-bpe": (split(CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + WORDS_TAIL),
                  None, True),
    "dbrx": (split(CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + WORDS_TAIL),
             None, False),
    "qwen2": (split(CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + WORDS_TAIL),
              normalizers.NFC(), False),
    "qwen35": (split(CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
                     r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
               normalizers.NFC(), False),
    "gpt-4o": (split(f"{CASED_1}{CONTRACTION}?|{CASED_2}{CONTRACTION}?" + r"|\p{N}{1,3}"
                     + CASED_TAIL), None, False),
    "tekken": (split(f"{CASED_1}|{CASED_2}" + r"|\p{N}" + CASED_TAIL), None, True),
    "falcon": (pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation("contiguous"), GPT2, pre_tokenizers.Digits(False),
         pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]), None, False),
    "default": (split(r"[\p{P}\$\+<=>\^~\|]+",
                      r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
                      r"\p{N}+", "[0-9][0-9][0-9]"), None, False),
    "deepseek-llm": (pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated")
         for p in (r"[\r\n]", rf"\s?[{DEEPSEEK_LETTERS}]+",
                   r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}"
                   r"\x{3000}-\x{3002}]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+")] + [DIGITS, BYTES]),
        None, False),
    "deepseek-coder": (pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(p), "isolated")
         for p in (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")] + [DIGITS, BYTES]),
        None, False),
    "deepseek-v3": (split(
        r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), None, False),
}


def run_tool(tool, model, texts):
    """The ids of each text (None where the tool refused it) and whether it decoded to itself."""
    data = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    done = subprocess.run([tool, model], input=data, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{tool} {model}: {done.stderr.decode()}")
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(texts), f"{len(lines)} answers for {len(texts)} texts"
    answers = []
    for line in lines:
        ids, _, same = line.partition("| ")
        answers.append((None, line) if line.startswith("!") else
                       ([int(i) for i in ids.split()], same))
    return answers


def compare(name, tool, model, texts, encode, round_trip):
    """encode: the reference. round_trip(text): must our decoder give this text back?"""
    failed = 0
    for text, (ids, note) in zip(texts, run_tool(tool, model, texts)):
        wanted = encode(text)
        if ids == wanted and (note == "same" or not round_trip(text)):
            continue
        failed += 1
        if failed <= 5:
            print(f"{name}: {text!r}\n  wanted {wanted}\n  got    {ids} {note}")
    print(f"{name}: {len(texts) - failed} passed, {failed} failed")
    return len(texts) - failed, failed


def training_texts():
    """Python's own library, for words and code, and the test texts, for everything else."""
    folder = os.path.dirname(os.__file__)
    for name in sorted(os.listdir(folder))[:60]:
        if name.endswith(".py"):
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
                yield file.read()
    yield from tokenizer_texts.texts(3000, seed=7)


def write_gguf(path, model, tokens, types, merges=None, scores=None, pre=None, **keys):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if merges is not None:
        writer.add_token_merges(merges)
    if scores is not None:
        writer.add_token_scores(scores)
    for key, value in keys.items():
        getattr(writer, key)(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def demo_model(tool, path, n):
    """The vocabulary of the file, run by Hugging Face's implementation."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    assert fields["tokenizer.ggml.pre"].contents() == "smollm", "the oracle knows smollm only"
    oracle = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    oracle.pre_tokenizer = FAMILIES["smollm"][0]
    known = {b for t in tokens if len(t) == 1 for b in t}
    alphabet = byte_alphabet()
    return compare("demo model", tool, path, tokenizer_texts.texts(n),
                   lambda text: oracle.encode(text, add_special_tokens=False).ids,
                   lambda text: all(alphabet[b] in known for b in text.encode()))


def byte_alphabet():
    """Byte -> the character that stands for it in a byte-level vocabulary."""
    printed = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    hidden = [b for b in range(256) if b not in printed]
    return {**{b: chr(b) for b in printed}, **{b: chr(256 + i) for i, b in enumerate(hidden)}}


def family(name, tool, folder, corpus, n):
    pre_tokenizer, normalizer, whole = FAMILIES[name]
    oracle = tokenizers.Tokenizer(models.BPE(ignore_merges=whole))
    oracle.pre_tokenizer = pre_tokenizer
    if normalizer:
        oracle.normalizer = normalizer
    oracle.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=3000, show_progress=False, special_tokens=["<|end|>"],
        initial_alphabet=sorted(byte_alphabet().values())))
    data = json.loads(oracle.to_str())["model"]
    tokens = [t for t, _ in sorted(data["vocab"].items(), key=lambda item: item[1])]
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["merges"]]
    if whole:
        # A token that its merges do not reach: only the rule about whole words finds it.
        tokens.append("ĠUnreachable")
        merged = {**data["vocab"], "ĠUnreachable": len(tokens) - 1}
        oracle.model = models.BPE(merged, [tuple(m.split(" ")) for m in merges], ignore_merges=True)
    path = os.path.join(folder, name + ".gguf")
    types = [CONTROL if t == "<|end|>" else NORMAL for t in tokens]
    write_gguf(path, "gpt2", tokens, types, merges=merges, pre=name)
    texts = tokenizer_texts.texts(n, seed=3) + ["an Unreachable word"]
    bare = normalizer or normalizers.Sequence([])
    # In plain mode a spelled control token is text; the oracle has to be told so.
    oracle.encode_special_tokens = True
    return compare(name, tool, path, texts,
                   lambda text: oracle.encode(text, add_special_tokens=False).ids,
                   lambda text: bare.normalize_str(text) == text)


def sentencepiece_model(tool, folder, corpus, n):
    import sentencepiece  # only this part needs it

    written = io.BytesIO()
    lines = [line for text in corpus for line in text.split("\n") if line][:20000]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, model_type="bpe", vocab_size=2000,
        byte_fallback=True, character_coverage=0.995, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    size = oracle.vocab_size()
    types = [gguf.TokenType.UNKNOWN if oracle.is_unknown(i) else CONTROL if oracle.is_control(i)
             else gguf.TokenType.BYTE if oracle.is_byte(i) else NORMAL for i in range(size)]
    path = os.path.join(folder, "spm.gguf")
    write_gguf(path, "llama", [oracle.id_to_piece(i) for i in range(size)], types,
               scores=[oracle.get_score(i) for i in range(size)], add_add_space_prefix=True)
    # A U+2581 of the text itself decodes to a space, in the reference too.
    texts = tokenizer_texts.texts(n, seed=5)
    return compare("sentencepiece", tool, path, texts, oracle.encode, lambda t: "\u2581" not in t)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--model")
    parser.add_argument("--n", type=int, default=10000,
                        help="texts for --model; others get a fifth")
    parser.add_argument("--only", help="one family, or sentencepiece")
    args = parser.parse_args()
    results = []
    if args.model and not args.only:
        results.append(demo_model(args.tool, args.model, args.n))
    corpus = list(training_texts())
    with tempfile.TemporaryDirectory() as folder:
        for name in FAMILIES:
            if args.only in (None, name):
                results.append(family(name, args.tool, folder, corpus, args.n // 5))
        if args.only in (None, "sentencepiece"):
            results.append(sentencepiece_model(args.tool, folder, corpus, args.n // 5))
    passed, failed = (sum(r[i] for r in results) for i in (0, 1))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
