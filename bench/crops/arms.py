"""The crop passes that are compared, and the budgets that make them comparable."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scanfleet.models.crops.policy import CropPolicy

FIRST = 320 * 320  # pixels: the razor check's budget, 100 visual tokens
CROP = 192 * 192  # 36 visual tokens
CONTEXT = 160 * 160  # 25
OTHER_SCALE = 224 * 224  # of multi-scale fusion

PAIR = CropPolicy(
    look="pair", method="rel-att", reference="blank", crop_pixels=CROP, context_pixels=CONTEXT, fuse="mean"
)
CROP_ALONE = replace(PAIR, look="crop", crop_pixels=224 * 224, fuse="second")  # 49 visual tokens


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the table; gated: only images that the first pass left uncertain."""

    name: str
    policy: CropPolicy
    gated: bool = False


def arms() -> list[Arm]:
    """Return the gated pass of the goal first, then its parts and its competitors."""
    return [
        Arm(name="gated", policy=CROP_ALONE, gated=True),
        Arm(name="gated_pair", policy=PAIR, gated=True),
        Arm(name="rel_att", policy=PAIR),
        Arm(name="rel_att_generic", policy=replace(PAIR, reference="generic")),
        Arm(name="grad_att", policy=replace(PAIR, method="grad-att")),
        Arm(name="pure_grad", policy=replace(PAIR, method="pure-grad")),
        Arm(name="rel_att_tiled", policy=replace(PAIR, tiled=True)),
        Arm(name="grad_att_tiled", policy=replace(PAIR, method="grad-att", tiled=True)),
        Arm(name="pure_grad_tiled", policy=replace(PAIR, method="pure-grad", tiled=True)),
        Arm(name="full_pair", policy=replace(PAIR, context_pixels=FIRST)),
        Arm(name="crop_alone", policy=CROP_ALONE),
        Arm(name="crop_mean", policy=replace(CROP_ALONE, fuse="mean")),
        Arm(name="crop_max", policy=replace(CROP_ALONE, fuse="max")),
        Arm(name="reweight_1.5", policy=replace(PAIR, look="reweight", emphasis=1.5)),
        Arm(name="reweight_2", policy=replace(PAIR, look="reweight", emphasis=2.0)),
        Arm(name="scales_mean", policy=replace(PAIR, look="larger", crop_pixels=OTHER_SCALE)),
        Arm(name="scales_max", policy=replace(PAIR, look="larger", crop_pixels=OTHER_SCALE, fuse="max")),
        Arm(name="tiles", policy=replace(PAIR, look="tiles", fuse="second")),
        Arm(name="adapted", policy=replace(PAIR, look="adapted", crop_pixels=4 * FIRST, fuse="second")),
    ]


VOTERS = ("rel_att", "grad_att", "pure_grad", "rel_att_tiled")  # arms whose regions are fused as boxes
