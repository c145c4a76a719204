"""Summarises a document in four steps: fetch, split, weigh, select. A failed fetch requests a retry."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from runqy_sdk import Retry, load, run, task

DOCUMENTS = Path(__file__).with_name("documents")
WORD = re.compile(r"[a-z']+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'])\s+")


class Archive:
    """The store of documents that this example reads; `refusals` makes it fail like an unreliable remote one."""

    def __init__(self) -> None:
        self.stop_words = frozenset((DOCUMENTS / "stop-words").read_text(encoding="utf-8").split())
        self._refused: Counter[str] = Counter()

    def fetch(self, name: str, refusals: int) -> str:
        """Return a document's text. Raise Retry the first `refusals` times."""
        if self._refused[name] < refusals:
            self._refused[name] += 1
            raise Retry(f"the archive refused {name} ({self._refused[name]} of {refusals} times)")
        del self._refused[name]
        path = DOCUMENTS / f"{name}.txt"
        if path.parent != DOCUMENTS or not path.is_file():
            raise LookupError(f"no document is called {name!r}")
        return path.read_text(encoding="utf-8")


@load
def open_archive() -> Archive:
    """Open the archive once; it counts refusals across tasks."""
    return Archive()


@task
def summarise(payload: dict[str, Any], archive: Archive) -> dict[str, Any]:
    """Return the most important sentences of `text` or of the shipped `document`, and its keywords."""
    name = str(payload.get("document", "gettysburg"))
    text = payload.get("text") or archive.fetch(name, int(payload.get("refusals", 0)))
    sentences = split(text)
    weights = weigh(text, archive.stop_words)
    return {
        "sentences": len(sentences),
        "keywords": [word for word, _ in weights.most_common(5)],
        "summary": select(sentences, weights, count=int(payload.get("length", 2))),
    }


def split(text: str) -> list[str]:
    """Return the sentences of a text, each on one line."""
    return [sentence for sentence in SENTENCE_END.split(" ".join(text.split())) if sentence]


def weigh(text: str, stop_words: frozenset[str]) -> Counter[str]:
    """Count the words that carry meaning."""
    return Counter(word for word in WORD.findall(text.lower()) if len(word) > 2 and word not in stop_words)


def select(sentences: list[str], weights: Counter[str], count: int) -> list[str]:
    """Return the sentences with the heaviest words on average, in the order of the text."""

    def weight(index: int) -> float:
        words = WORD.findall(sentences[index].lower())
        return sum(weights[word] for word in words) / (len(words) + 5)  # + 5: a sentence of two words is no summary

    best = sorted(range(len(sentences)), key=weight, reverse=True)[:count]
    return [sentences[index] for index in sorted(best)]


if __name__ == "__main__":
    run()
