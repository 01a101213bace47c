"""Texts for comparing tokenizers: reproducible, and nasty where tokenizers are known to differ."""

import random
import sys
import unicodedata

ENGLISH = """The quick brown fox jumps over the lazy dog. It's what they've always said: we'll see,
don't you think? I'd rather I'm late THAN 'RE'D or "Quoted"--at 3:45pm, for $1,234.56 (approx. 12%).
""".split()

CODE = [
    "def f(x):\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i];\n\t}\r\n",
    "SELECT * FROM t WHERE id=42 AND name LIKE '%x%';",
    "<div class=\"a b\">&nbsp;</div>\n\n\n",
    "https://example.org/a/b?c=d&e=f#g",
    "{\"k\": [1, 2.5e-10, null, true]}",
    "#include <stdio.h>\n\nint main(void)\n{\n}\n",
    "    \t  \n  \n\n \r\n\t",
    "x = y = 1_000_000 - 0xDEADBEEF + 0b1010",
    "// -----------------------------------------------\n",
]

SCRIPTS = [
    "Привет, как дела? Это тест №42.",
    "Γειά σου Κόσμε· τί κάνεις;",
    "שלום עולם, מה שלומך?",
    "مرحبا بالعالم ١٢٣ كيف حالك؟",
    "नमस्ते दुनिया १२३ कैसे हो?",
    "สวัสดีชาวโลก ๑๒๓ ทดสอบ",
    "你好，世界！今天是2024年。",
    "こんにちは世界。カタカナとひらがな、漢字。",
    "안녕하세요 세계, 잘 지내세요?",
    "Ünïcödé ÀÉÎÕÜ ßæøå ŁÓDŹ ǅ ǈ",
    "Tiếng Việt có nhiều dấu thanh điệu",
    "ﬁne ﬂow Ⅳ ½ ² ³ ① 一二三 〇",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𐍈𐌰",
    "e\u0301 a\u030a o\u0308\u0323 \u1100\u1161\u11a8 \u0344 \u212b",
]

EMOJI = ["😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️", "✈", "☎️", "🧑🏿‍🚀", "™", "©️"]

SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n ", "\u00a0", "\u3000", "\u2003",
          "\u2028", "\u0085", "\u180e", "\u200b", "\ufeff", "\v", "\f", "        "]

CONTRACTIONS = ["'s", "'S", "'t", "'re", "'VE", "'ll", "'Ll", "'d", "'m", "'x", "''", "\u2019s",
                "'\u017f", "'s1", "s'"]

ASSIGNED = [chr(c) for c in range(sys.maxunicode + 1)
            if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]


def _random_unicode(rng):
    return "".join(rng.choice(ASSIGNED) for _ in range(rng.randint(1, 40)))


def _digits(rng):
    return "".join(rng.choice("0123456789" if rng.random() < 0.9 else "٣५๗Ⅷ½²")
                   for _ in range(rng.randint(1, 14)))


def _control(rng):
    codes = (*range(0, 33), 127, 128, 159, 173)
    return "".join(chr(rng.choice(codes)) for _ in range(rng.randint(1, 6)))


def _words(rng):
    return " ".join(rng.choice(ENGLISH) for _ in range(rng.randint(1, 30)))


def _runs(rng):
    return rng.choice("aA .-=_/\n\t\r0#é漢😀'\u0301") * rng.randint(1, 70)


def texts(n, seed=1):
    """n texts; the same for the same arguments."""
    rng = random.Random(seed)
    pick = rng.choice
    parts = [_words, _digits, _control, _runs, _random_unicode,
             lambda r: r.choice(CODE), lambda r: r.choice(SCRIPTS), lambda r: r.choice(EMOJI),
             lambda r: r.choice(SPACES), lambda r: r.choice(CONTRACTIONS),
             lambda r: r.choice(SPACES) + r.choice(ENGLISH) + r.choice(CONTRACTIONS)]
    made = ["", " ", "a", "\0", *CODE, *SCRIPTS, *EMOJI, *SPACES, *CONTRACTIONS]
    while len(made) < n:
        made.append("".join(pick(parts)(rng) for _ in range(rng.randint(1, 9))))
    return made[:n]
