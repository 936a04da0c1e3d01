"""Compose the built-in calibration text and the held-out text from the passages beside this file and the makers below.

Run it after changing either: ``python benchmarks/quantize/text/compose.py``. The result is the same on every run.
All text is the project's own. Each maker turns small tables of facts into passages or worked tasks, in Japanese and in
English, so that the set is broad (apparel specifications, customer mail, cooking, arithmetic, code, data) without being
a list of copies.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import apparel
import everyday
import technical

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "llmops" / "quantize" / "data"
Document = dict[str, object]


def passages(name: str, lang: str) -> list[Document]:
    """Paragraphs of a file, one a document."""
    text = (HERE / name).read_text(encoding="utf-8")
    return [{"lang": lang, "text": part.strip()} for part in text.split("\n\n") if part.strip()]


def tasks_on(found: list[Document], rng: random.Random) -> Iterator[Document]:
    """Reading tasks on the hand-written passages: their own sentences are the answers."""
    for document in found:
        lang, text = str(document["lang"]), str(document["text"])
        mark = "。" if lang == "ja" else ". "
        sentences = [part.strip() for part in text.split(mark) if part.strip()]
        if len(sentences) < 4:
            continue
        last = sentences[-1] + ("" if sentences[-1].endswith((".", "。")) else mark.strip())
        body = mark.join(sentences[:-1]) + mark.strip()
        first = sentences[0] + mark.strip()
        if lang == "ja":
            ask = rng.choice(("次の文章の結びとなる一文を書いてください。", "この文章を一文で締めくくってください。"))
            yield chat(lang, f"{ask}\n\n{body}", last)
            yield chat(lang, f"次の文章の書き出しだけを抜き出してください。\n\n{text}", first)
        else:
            ask = rng.choice(("Write the sentence that closes this passage.", "End this text with one sentence."))
            yield chat(lang, f"{ask}\n\n{body}", last)
            yield chat(lang, f"Quote only the opening sentence of this passage.\n\n{text}", first)


def chat(lang: str, question: str, answer: str) -> Document:
    """A question and its answer."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"lang": lang, "messages": messages}


def calibration() -> list[Document]:
    """Every passage and task, shuffled once with a fixed seed."""
    rng = random.Random(20261122)
    found = passages("passages_en.txt", "en") + passages("passages_ja.txt", "ja")
    documents = found + list(tasks_on(found, rng))
    for maker in (*apparel.MAKERS, *everyday.MAKERS, *technical.MAKERS):
        documents += maker(rng)
    rng.shuffle(documents)
    return documents


def write(name: str, documents: list[Document]) -> None:
    """One JSON document a line."""
    DATA.mkdir(exist_ok=True)
    lines = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    (DATA / name).write_text(lines, encoding="utf-8")
    sys.stderr.write(f"{name}: {len(documents)} documents, {len(lines.encode())} bytes\n")


if __name__ == "__main__":
    write("calibration.ja-en.jsonl", calibration())
    write("heldout.ja-en.jsonl", passages("heldout_en.txt", "en") + passages("heldout_ja.txt", "ja"))
