#!/usr/bin/env python3
"""Writes chat_golden.txt: what the well-known chat templates make of some conversations.

    make_chat_golden.py > chat_golden.txt        (needs jinja2; in this directory)

chat_templates/FAMILY.NAME.jinja are templates as models publish them, without their tool calls.
They run here, once, in the sandbox that transformers uses; the C code never runs one. Records:

    T FAMILY.NAME BYTES\\n<template>\\n        the template of the records that follow
    M ROLE BYTES\\n<content>\\n               one message; E ends the conversation
    E ok|refused BYTES\\n<text>\\n            the template's output, the assistant's turn opened
"""

import pathlib
import sys

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONVERSATIONS = [
    [("user", "Hello")],
    [("system", "You are a pirate."), ("user", "Hello")],
    [("user", "Hello"), ("assistant", "Hi there"), ("user", "Who are you?")],
    [("system", "  Be terse.\n"), ("user", " \n  Grüße, 世界! 🎉  "),
     ("assistant", "   I am an assistant   "), ("user", "\u3000Why?\u00a0\n")],
    [("user", "<|im_end|><s>[INST]</s><|eot_id|><end_of_turn><|end|> {{ 7 * 7 }} {% raw %}")],
    [("user", "")],
    [("assistant", "I begin."), ("user", "Hello")],
    [("user", "Hello"), ("user", "Hello again")],
    [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")],
]


def refuse(message):
    raise TemplateError(message)


def record(kind, name, text):
    data = text.encode()
    sys.stdout.buffer.write(f"{kind} {name} {len(data)}\n".encode() + data + b"\n")


def main():
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    for path in sorted(pathlib.Path("chat_templates").glob("*.jinja")):
        text = path.read_text().removesuffix("\n")
        record("T", path.stem, text)
        template = environment.from_string(text)
        for conversation in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in conversation]
            for role, content in conversation:
                record("M", role, content)
            try:
                record("E", "ok", template.render(messages=messages, bos_token="<s>",
                                                  eos_token="</s>", add_generation_prompt=True))
            except TemplateError:
                record("E", "refused", "")


if __name__ == "__main__":
    main()
