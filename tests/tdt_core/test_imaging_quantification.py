"""From scans to region activities: known bodies, known motions, invariances, and what is refused."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from imaging_bodies import ORGANS, affine_of, labels_of, make_scan, rigid, true_mbq

from tdt_core.dosimetry import MATERIALS
from tdt_core.errors import CalibrationError, GeometryError, InputError, ModelError, UnitError
from tdt_core.imaging.ct_calibration import CtCalibration
from tdt_core.imaging.plausible import rising_activity
from tdt_core.imaging.quantification import CycleImages, labels_on_reference, quantify_cycle
from tdt_core.imaging.volume import LabelVolume, Scan, Volume
from tdt_core.imaging.weights import time_weights_h, voxel_weights, weight_draws
from tdt_core.parameters import packaged_table

SHAPE, SPACING = (64, 46, 56), 6.0
LABELS = labels_of(SHAPE, affine_of(SHAPE, SPACING), "A")
MOTION = rigid((6.0, -4.0, 7.0), (1.0, -1.5, 2.0))


@cache
def scans() -> tuple[tuple[Scan, Scan], ...]:
    return make_scan("A", 24.0), make_scan("B", 96.0, MOTION, scale=0.4, seed=1)


def run(pairs: tuple[tuple[Scan, Scan], ...], labels: LabelVolume = LABELS) -> CycleImages:
    return quantify_cycle([s for s, _ in pairs], {c.volume.frame_of_reference: c for _, c in pairs}, labels)


@cache
def images() -> CycleImages:
    return run(scans())


def activity(im: CycleImages, region: str, scan: str = "A") -> float:
    return next(a.activity_mbq for a in im.activities if a.region == region and a.scan == scan)


def test_known_organs_are_recovered_in_the_reference_and_in_a_moved_scan() -> None:
    for organ in ORGANS:
        assert activity(images(), organ.name) == pytest.approx(true_mbq(organ), rel=0.04)
        assert activity(images(), organ.name, "B") == pytest.approx(0.4 * true_mbq(organ), rel=0.05)


def test_the_whole_body_holds_what_the_image_holds() -> None:
    spect = scans()[0][0].volume
    total = float(spect.array.sum(dtype=np.float64)) * spect.voxel_ml
    got = sum(a.activity_mbq for a in images().activities if a.scan == "A")
    assert got == pytest.approx(total, rel=0.02)


def test_correction_undoes_what_the_mask_loses() -> None:
    lesion = next(a for a in images().activities if a.region == "lesion/L1" and a.scan == "A")
    assert lesion.raw_activity_mbq < 0.8 * true_mbq(ORGANS[3])
    assert lesion.recovery == pytest.approx(lesion.raw_activity_mbq / lesion.activity_mbq)


def test_the_budget_names_its_parts() -> None:
    by = {(a.region, a.scan): a.budget for a in images().activities}
    for budget in by.values():
        assert budget.calibration == pytest.approx(0.04)
        assert 0 < budget.total < 0.5
    assert by["kidney_left", "B"].counts > by["kidney_left", "A"].counts
    assert by["lesion/L1", "B"].registration > by["lesion/L1", "A"].registration
    assert by["lesion/L1", "A"].partial_volume > by["liver", "A"].partial_volume


def test_regions_carry_volume_mass_and_their_error_and_fill_the_body() -> None:
    im = images()
    kidney = next(r for r in im.regions if r.name == "kidney_left")
    assert kidney.volume_ml == pytest.approx(152.5, rel=0.03)
    assert kidney.mass_g / kidney.volume_ml == pytest.approx(1.07, abs=0.03)
    assert 0.03 < kidney.volume_rel_sd < 0.08
    assert im.regions[-1].name == "rest"
    assert np.array_equal(im.labels.labels > 0, im.body)
    assert sum(r.volume_ml for r in im.regions) == pytest.approx(im.body.sum() * im.ct_hu.voxel_ml, rel=0.01)


def test_registered_images_stand_on_the_reference_grid_and_keep_their_activity() -> None:
    im = images()
    reference, moved = im.registered
    assert np.array_equal(reference.volume.array, scans()[0][0].volume.array)
    assert moved.volume.frame_of_reference == "A"
    for mine, scale in ((reference, 1.0), (moved, 0.4)):
        inside = im.labels.mask("kidney_right")
        assert float(mine.volume.array[inside].mean()) == pytest.approx(scale * 0.34, rel=0.06)
    assert np.allclose(moved.transform.matrix, MOTION, atol=1.0)
    assert [t for t, _ in im.activity_volumes] == [24.0, 96.0]


def test_the_direction_of_the_axes_does_not_change_any_activity() -> None:
    def flipped(v: Volume) -> Volume:
        affine = v.affine.copy()
        for axis in (0, 2):
            affine[:3, 3] += affine[:3, axis] * (v.array.shape[axis] - 1)
            affine[:3, axis] *= -1
        return Volume(np.ascontiguousarray(v.array[::-1, :, ::-1]), affine, v.unit, v.frame_of_reference)

    spect, ct = scans()[0]
    plain = run(((spect, ct),))
    mirrored = run(((replace(spect, volume=flipped(spect.volume)), replace(ct, volume=flipped(ct.volume))),))
    for a, b in zip(plain.activities, mirrored.activities, strict=True):
        assert b.activity_mbq == pytest.approx(a.activity_mbq, rel=2e-3)


def test_labels_on_a_finer_ct_grid_give_the_same_activities() -> None:
    fine = tuple(n * 2 for n in SHAPE)
    affine = affine_of(SHAPE, SPACING)
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, 0.25)
    affine[:3, :3] /= 2
    im = run((scans()[0],), labels_of(fine, affine, "A"))  # type: ignore[arg-type]
    for organ in ORGANS:
        assert activity(im, organ.name) == pytest.approx(true_mbq(organ), rel=0.03)


def test_density_follows_from_the_table_of_the_scanner_where_there_is_one() -> None:
    (spect, ct), _ = scans()
    own = CtCalibration("SN", ((-1000.0, 0.001), (0.0, 0.5), (1000.0, 2.0)), ((-1000.0, "water"),), "phantom 2026")
    found = run(((spect, replace(ct, ct_calibration=own)),))
    assert found.density.array[found.body] == pytest.approx(own.density(found.ct_hu.array[found.body]))
    assert {MATERIALS[i] for i in np.unique(found.material[found.body])} == {"water"}
    assert MATERIALS[found.material[~found.body][0]] == "air"
    assert "phantom 2026" in found.density_from
    assert "Schneider" in images().density_from


def test_order_repetition_and_worker_do_not_change_a_byte() -> None:
    (a, ca), (b, cb) = scans()
    with ThreadPoolExecutor(2) as pool:
        again = quantify_cycle([b, a], {"A": ca, "B": cb}, LABELS, map=pool.map)
    assert again.activities == images().activities
    assert np.array_equal(again.registered[1].volume.array, images().registered[1].volume.array)


def test_one_time_point_is_enough() -> None:
    im = run((scans()[0],))
    assert {a.scan for a in im.activities} == {"A"}
    assert voxel_weights(im)["kidney_left"].sum() == pytest.approx(1.0, abs=1e-5)


def test_activity_that_rises_beyond_what_decay_leaves_is_told() -> None:
    first, second = (scan for scan, _ in scans())
    assert not any("decay leaves" in f for f in images().findings)
    exchanged = [replace(second, time_h=24.0), replace(first, time_h=96.0)]
    (told,) = rising_activity(exchanged, images().activities)
    assert "96.0 h after the first therapy holds" in told
    assert "check scan times" in told
    other = [exchanged[0], replace(exchanged[1], nuclide="In-111")]
    assert rising_activity(other, images().activities) == []


def test_values_without_a_record_get_a_wide_budget_and_a_finding() -> None:
    spect, ct = scans()[0]
    im = run(((replace(spect, calibration=None, value_branch="real_world", counts_per_mbq=0.0), ct),))
    assert any("no calibration record" in f for f in im.findings)
    assert all(a.budget.calibration == pytest.approx(0.10) for a in im.activities)


def broken(array: np.ndarray | None = None, unit: str = "MBq/mL", **changes: object) -> tuple[Scan, Scan]:
    spect, ct = scans()[0]
    volume = spect.volume.replace(spect.volume.array if array is None else array, unit)
    return replace(spect, volume=volume, **changes), ct  # type: ignore[arg-type]


def with_voxel(value: float) -> np.ndarray:
    out = scans()[0][0].volume.array.copy()
    out[30, 20, 20] = value
    return out


def test_activity_that_cannot_be_meant_is_refused_with_its_own_reason() -> None:
    cases = (
        (broken(with_voxel(np.nan)), InputError, "imaging.nonfinite"),
        (broken(with_voxel(-0.1)), InputError, "imaging.negative"),
        (broken(np.zeros(SHAPE, np.float32)), InputError, "imaging.empty"),
        (broken(unit="Gy"), UnitError, "input.unit"),
        (broken(calibration=None), CalibrationError, "input.calibration"),
    )
    for pair, error, kind in cases:
        with pytest.raises(error) as e:
            run((pair,))
        assert e.value.kind == kind
        assert e.value.found


def test_geometry_that_does_not_fit_is_refused_with_its_own_reason() -> None:
    (a, ca), (b, _) = scans()
    elsewhere = LabelVolume(LABELS.labels, LABELS.affine, "Z", LABELS.regions)
    empty = LabelVolume(np.where(LABELS.labels == 2, 0, LABELS.labels).astype(np.int16), LABELS.affine, "A", LABELS.regions)
    cases = (
        (([], {}, LABELS), InputError, "imaging.no_scan"),
        (([a], {"A": ca}, elsewhere), GeometryError, "geometry.frame"),
        (([a, b], {"A": ca}, LABELS), GeometryError, "geometry.no_ct"),
        (([a], {"A": ca}, empty), InputError, "input.mask"),
    )
    for arguments, error, kind in cases:
        with pytest.raises(error) as e:
            quantify_cycle(*arguments)
        assert e.value.kind == kind


def test_a_region_of_less_than_half_a_voxel_keeps_one_voxel() -> None:
    labels = np.zeros(tuple(n * 3 for n in SHAPE), np.int16)
    labels[100, 60, 60] = 4
    affine = affine_of(SHAPE, SPACING)
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, 1 / 3)
    affine[:3, :3] /= 3
    onto = labels_on_reference(LabelVolume(labels, affine, "A", LABELS.regions), scans()[0][0].volume)
    assert (onto.labels == 4).sum() == 1


def test_weights_are_non_negative_and_sum_to_one_in_every_region() -> None:
    weights = voxel_weights(images())
    assert set(weights) == {r.name for r in images().regions}
    assert weights.array.min() >= 0
    for name in weights:
        assert float(weights[name].sum(dtype=np.float64)) == pytest.approx(1.0, abs=1e-4)
        assert not weights[name][~images().labels.mask(name)].any()


def test_a_uniform_region_gets_nearly_uniform_weights_and_the_halo_leaves_the_rest() -> None:
    im = images()
    weights = voxel_weights(im)
    kidney = weights.array[im.labels.mask("kidney_left")]
    assert kidney.std() / kidney.mean() < 0.12
    rest = im.labels.mask("rest")
    raw = im.registered[0].volume.array[rest]
    sharp = weights.array[rest]
    # beside a hot organ the image of a cold remainder shows a halo; the weights do not
    assert np.quantile(sharp / np.median(sharp), 0.99) < 0.5 * np.quantile(raw / np.median(raw), 0.99)


def test_weights_do_not_depend_on_how_a_scan_cut_a_region_into_rind_and_core() -> None:
    im = images()
    uncut = [
        replace(s, concentration_mbq_ml={k: v for k, v in s.concentration_mbq_ml.items() if not k.startswith("core/")})
        for s in im.registered
    ]
    assert any(len(a.concentration_mbq_ml) < len(b.concentration_mbq_ml) for a, b in zip(uncut, im.registered, strict=True))
    assert np.array_equal(voxel_weights(replace(im, registered=tuple(uncut))).array, voxel_weights(im).array)


def test_a_pattern_is_never_surer_than_its_organs_unresolved_structure_allows() -> None:
    im, p = images(), packaged_table("imaging_parameters.csv")
    found = voxel_weights(im).log_sd
    least = {}
    for region, row in (("liver", "weights.unresolved_sd.liver"), ("rest", "weights.unresolved_sd")):
        least[region] = np.sqrt(np.log1p(p.value(row) ** 2))
        assert (found[im.labels.mask(region)] >= least[region] * (1 - 1e-5)).all()
    assert found[im.labels.mask("liver")].min() < least["rest"]


def test_draws_of_weights_are_reproducible_valid_and_as_wide_as_they_say() -> None:
    im = images()
    best = voxel_weights(im)
    one, two = weight_draws(im, best, 4, (3, 1)), weight_draws(im, best, 4, (3, 1))
    assert all(np.array_equal(a.array, b.array) for a, b in zip(one, two, strict=True))
    assert not any(np.array_equal(a.array, b.array) for a, b in pairwise(one))
    inside = im.labels.mask("liver")
    for draw in one:
        assert float(draw["liver"].sum(dtype=np.float64)) == pytest.approx(1.0, abs=1e-4)
    spread = np.std([np.log(d.array[inside]) for d in weight_draws(im, best, 24, 5)], axis=0).mean()
    assert spread == pytest.approx(float(one[0].log_sd[inside].mean()), rel=0.2)


def test_weights_of_the_voxel_fit_are_weights_and_another_name_is_refused() -> None:
    im = images()
    fitted = voxel_weights(im, "hierarchical")
    for name in fitted:
        assert float(fitted[name].sum(dtype=np.float64)) == pytest.approx(1.0, abs=1e-4)
    assert fitted.array.min() >= 0
    assert not np.array_equal(fitted.array, voxel_weights(im).array)
    assert len(weight_draws(im, fitted, 2, 1)) == 2
    one = replace(im, registered=im.registered[:1])
    assert np.array_equal(voxel_weights(one, "hierarchical").array, voxel_weights(one).array)
    with pytest.raises(ModelError):
        voxel_weights(im, "guess")  # type: ignore[arg-type]


def test_time_weights_cover_the_scans_and_refuse_two_at_once() -> None:
    assert np.allclose(time_weights_h([4.0, 24.0, 72.0]), [20.0, 34.0, 48.0])
    assert time_weights_h([24.0]) == pytest.approx(1.0)
    with pytest.raises(InputError):
        time_weights_h([24.0, 24.0])
