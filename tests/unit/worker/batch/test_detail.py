"""Pictures are decoded as large as their scorer needs; the ledger keeps their full size."""

from pathlib import Path
from typing import cast

from PIL import Image as PillowImage

from scanfleet.db.tables import Image
from scanfleet.models.fake import FakePrepared, FakeScorer
from scanfleet.models.types import Detail, Question, Scorer
from scanfleet.worker.scoring.model import FakeModel
from tests.helpers.odd_files import encoded
from tests.rigs.worker_rig import rig

DETAIL = Detail(pixels=200 * 150, short_side=1)


class Coarse(FakeScorer):
    """Needs no more than DETAIL, and records the sizes that it gets."""

    def __init__(self, question: Question, seen: list[tuple[int, int]]) -> None:
        super().__init__(question=question)
        self._seen = seen

    @property
    def detail(self) -> Detail | None:
        return DETAIL

    def prepare(self, image: PillowImage.Image) -> FakePrepared:
        self._seen.append(image.size)
        return super().prepare(image)


class CoarseModel(FakeModel):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def scorer(self, question: Question, adapter: Path | None) -> Scorer:
        return cast("Scorer", Coarse(question, self.seen))


def test_a_jpeg_is_decoded_near_the_size_that_the_scorer_needs(tmp_path: Path) -> None:
    photograph = PillowImage.effect_noise((800, 600), 50).convert("RGB")
    turned = PillowImage.Exif()
    turned[0x0112] = 6
    model = CoarseModel()
    with rig(tmp_path, model=model) as worker:
        worker.scan(
            {
                "mem://a.jpg": encoded(photograph, "JPEG"),
                "mem://b.jpg": encoded(photograph, "JPEG", exif=turned.tobytes()),
                "mem://c.png": encoded(photograph, "PNG"),
                "mem://d.jpg": encoded(photograph.resize((300, 190)), "JPEG"),
            }
        )
        worker.drain()
        sizes = [(row.width, row.height) for row in worker.rows(Image)]
    assert sorted(model.seen) == [(150, 200), (200, 150), (300, 190), (800, 600)]
    assert sorted(sizes) == [(300, 190), (600, 800), (800, 600), (800, 600)]
