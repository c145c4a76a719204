"""The examples' tasks do real work on the input shipped with them."""

import base64
import io
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from tests.examples.child import EXAMPLES, Child


@pytest.fixture
def start() -> Iterator[Callable[[str], Child]]:
    """Return a function that starts the child of an example."""
    children: list[Child] = []

    def start_child(example: str) -> Child:
        children.append(Child(example))
        return children[-1]

    yield start_child
    for child in children:
        assert child.close() == 0


def test_sentiment_distinguishes_praise_from_complaint(start):
    child = start("sentiment")

    responses = [child.run({"text": text})["result"] for text in ("I love it, it is great!", "An awful, broken thing.")]

    assert [response["label"] for response in responses] == ["positive", "negative"]
    assert responses[0]["compound"] > 0.5 > -0.5 > responses[1]["compound"]


def test_sentiment_agrees_with_most_people_about_the_reviews(start):
    result = start("sentiment").run({})["result"]

    assert result["reviews"] == len((EXAMPLES / "sentiment/reviews.tsv").read_text().splitlines()) - 1
    assert 0.6 < result["agreement"] < 1
    assert {"review", "rating", "label", "compound"} <= result["scores"][0].keys()


def test_sentiment_reports_its_progress_through_the_reviews(start):
    child = start("sentiment")
    count = child.run({})["result"]["reviews"]

    assert [report["current"] for report in child.progress] == [10, 20, 30, 40, count]
    assert {report["total"] for report in child.progress} == {count}


def test_thumbnail_keeps_the_shape_of_the_photograph(start):
    result = start("thumbnail").run({"size": 100})["result"]

    picture = Image.open(io.BytesIO(base64.b64decode(result["image"])))
    assert (picture.format, picture.size) == ("JPEG", (100, 67))
    assert result["original"] == {"format": "JPEG", "width": 451, "height": 300}


def test_thumbnail_takes_an_image_as_base64(start):
    out = io.BytesIO()
    Image.new("RGBA", (40, 400), (200, 10, 10, 255)).save(out, "PNG")

    result = start("thumbnail").run({"image": base64.b64encode(out.getvalue()).decode(), "size": 80})["result"]

    picture = Image.open(io.BytesIO(base64.b64decode(result["image"])))
    assert picture.size == (8, 80)
    red, green, _ = picture.getpixel((4, 40))
    assert red > 150 > green


def test_thumbnail_fails_permanently_on_an_invalid_image(start):
    response = start("thumbnail").run({"image": base64.b64encode(b"no image").decode()})

    assert response["retry"] is False
    assert "cannot identify image" in response["error"]


def test_pipeline_summarises_a_document(start):
    result = start("pipeline").run({"document": "gettysburg", "length": 1})["result"]

    assert result["sentences"] == 10
    assert "dedicated" in result["keywords"]
    assert len(result["summary"]) == 1
    assert result["summary"][0].startswith("Now we are engaged in a great civil war")


def test_pipeline_requests_the_given_number_of_retries(start):
    child = start("pipeline")

    responses = [child.run({"document": "alice", "refusals": 2}) for _ in range(3)]

    assert [response["retry"] for response in responses] == [True, True, False]
    assert "refused alice (2 of 2 times)" in responses[1]["error"]
    assert responses[2]["error"] is None


def test_pipeline_reads_no_file_but_its_documents(start):
    response = start("pipeline").run({"document": "../main"})

    assert "no document is called" in response["error"]
    assert response["retry"] is False
