"""Makes a thumbnail of a photograph: the one shipped beside this file, or one given as base64."""

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from runqy_sdk import run, task

PHOTOGRAPH = Path(__file__).with_name("cat.jpg")
MAX_SIZE = 2048


@task
def make_thumbnail(payload: dict[str, Any]) -> dict[str, Any]:
    """Shrink `image` (base64) to fit a square of `size` pixels and return it as a JPEG, in base64 again."""
    size = int(payload.get("size", 128))
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"size is 1 to {MAX_SIZE} pixels, not {size}")
    original = read_image(payload.get("image"))
    thumbnail = ImageOps.exif_transpose(original).convert("RGB")
    thumbnail.thumbnail((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    thumbnail.save(out, "JPEG", quality=85, optimize=True)
    return {
        "original": {"format": original.format, "width": original.width, "height": original.height},
        "width": thumbnail.width,
        "height": thumbnail.height,
        "bytes": out.tell(),
        "image": base64.b64encode(out.getvalue()).decode("ascii"),
    }


def read_image(encoded: str | None) -> Image.Image:
    """Open the image a task brought, or the shipped photograph."""
    if encoded is None:
        return Image.open(PHOTOGRAPH)
    return Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))


if __name__ == "__main__":
    run()
