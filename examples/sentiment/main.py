"""Scores how positive or negative English text is, with VADER's lexicon loaded once for the life of the process."""

import csv
from pathlib import Path
from typing import Any

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from runqy_sdk import Context, load, run, task

REVIEWS = Path(__file__).with_name("reviews.tsv")
REPORT_EVERY = 10


@load
def load_lexicon() -> SentimentIntensityAnalyzer:
    """Read the 7,500 rated words; this is what a warm process spares every task."""
    return SentimentIntensityAnalyzer()


@task
def score(payload: dict[str, Any], analyzer: SentimentIntensityAnalyzer, ctx: Context) -> dict[str, Any]:
    """Score `text`, a string or a list of strings; without it, the reviews in reviews.tsv."""
    text = payload.get("text")
    if text is None:
        return score_reviews(analyzer, ctx)
    if isinstance(text, list):
        return {"scores": [score_text(str(one), analyzer) for one in text]}
    return score_text(str(text), analyzer)


def score_text(text: str, analyzer: SentimentIntensityAnalyzer) -> dict[str, Any]:
    """Return the label of a text by VADER's own thresholds, its score from -1 to 1, and the shares of its words."""
    scores = analyzer.polarity_scores(text)
    compound = scores["compound"]
    label = "positive" if compound >= 0.05 else "negative" if compound <= -0.05 else "neutral"
    return {
        "label": label,
        "compound": compound,
        "positive": scores["pos"],
        "neutral": scores["neu"],
        "negative": scores["neg"],
    }


def score_reviews(analyzer: SentimentIntensityAnalyzer, ctx: Context) -> dict[str, Any]:
    """Score every shipped review and return how often the sign agrees with the people who rated it."""
    with REVIEWS.open(encoding="utf-8", newline="") as file:
        reviews = [(float(row["rating"]), row["review"]) for row in csv.DictReader(file, delimiter="\t")]
    scored = []
    for rating, review in reviews:
        scored.append((rating, score_text(review, analyzer), review))
        if len(scored) % REPORT_EVERY == 0 or len(scored) == len(reviews):
            print(f"{len(scored)} of {len(reviews)} reviews")  # noqa: T201 (the task's output)
            ctx.progress(len(scored), len(reviews), "scoring reviews")
    agreeing = sum(1 for rating, result, _ in scored if rating * result["compound"] > 0)
    return {
        "reviews": len(scored),
        "agreement": round(agreeing / len(scored), 3),
        "scores": [{"review": review, "rating": rating, **result} for rating, result, review in scored],
    }


if __name__ == "__main__":
    run()
