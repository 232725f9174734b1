"""The reference patient as a whole: determinism, truth against its own curves, decisions, labs, real anatomy."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from tdt_core.codec import canonical_json
from tdt_core.errors import ModelError
from tdt_core.phantom import LabelledAnatomy, PhantomSettings, reference_patient
from tdt_core.phantom.chain import half_life_h
from tdt_core.phantom.imaging import scanner
from tdt_core.phantom.labs import depletion

SETTINGS = PhantomSettings(seed=7, matrix=64, time_points=3)


@pytest.fixture(scope="module")
def patient():
    return reference_patient(SETTINGS)


@pytest.fixture(scope="module")
def cycles(patient):
    return list(patient.cycles())


def fingerprint(cycle) -> str:
    h = hashlib.sha256()
    for scan in cycle.scans:
        h.update(scan.image.tobytes() + scan.ct_hu.tobytes())
    if cycle.segmentation is not None:
        h.update(cycle.segmentation.labels.tobytes())
    if cycle.truth_dose is not None:
        h.update(cycle.truth_dose.array.tobytes())
    h.update(canonical_json([cycle.truth, cycle.labs, cycle.administrations]).encode())
    return h.hexdigest()


def test_the_same_seed_gives_the_same_arrays_and_another_seed_others(cycles):
    again = reference_patient(SETTINGS)
    assert fingerprint(again.cycle(2)) == fingerprint(cycles[2])  # asked for alone, out of order
    assert fingerprint(again.cycle(0)) == fingerprint(cycles[0])
    other = reference_patient(PhantomSettings(seed=8, matrix=32, time_points=3), dose_engine="local")
    assert fingerprint(other.cycle(1)) != fingerprint(cycles[1])


def test_cycles_hold_what_a_clinic_would_have(cycles):
    assert [c.number for c in cycles] == [0, 1, 2]
    assert [s.modality for s in cycles[0].scans] == ["PET"]
    assert [len(c.scans) for c in cycles] == [1, 3, 3]
    assert cycles[0].administrations[0].time_h < 0 == cycles[1].administrations[0].time_h
    for c in cycles:
        for s in c.scans:
            assert s.image.dtype == np.float32
            assert s.image.min() >= 0
            assert s.image.shape == s.ct_hu.shape
            assert s.time_h > c.administrations[0].time_h
    assert canonical_json(cycles[1].truth)


def test_the_first_scan_is_the_reference_and_the_others_are_moved(cycles):
    scans = cycles[1].scans
    assert scans[0].shift_mm == (0.0, 0.0, 0.0)
    assert all(any(abs(x) > 0.05 for x in s.shift_mm) for s in scans[1:])
    assert all(max(map(abs, s.shift_mm)) <= 8 and max(map(abs, s.rotation_deg)) <= 3 for s in scans)


def test_counts_are_true_sensitivity_times_time_times_activity(patient, cycles):
    for scan in cycles[1].scans:
        inside = float(scan.truth_mbq_ml.sum()) * np.prod(np.linalg.norm(scan.affine[:3, :3], axis=0)) / 1000
        expected = inside * patient.spect.true_sensitivity * scan.duration_s
        assert float(scan.image.sum()) == pytest.approx(expected, rel=0.02)


def test_the_calibration_record_differs_from_the_truth_by_its_stated_sd():
    z = []
    for seed in range(40):
        s = scanner(seed, "spect", "Lu-177")
        z.append((s.true_sensitivity / s.record.sensitivity_cps_per_mbq - 1) / s.record.sensitivity_rel_sd)
    assert 0.7 < np.std(z) < 1.3


def test_activity_in_the_field_outside_and_excreted_is_what_was_given_decayed(cycles):
    for c in cycles[1:]:
        t = c.truth
        total = sum(r["tia_mbq_h"] for r in t["regions"].values()) + t["outside_tia_mbq_h"] + t["excreted_tia_mbq_h"]
        lam = np.log(2) / half_life_h("Lu-177")
        assert total == pytest.approx(t["administered_mbq"] / lam * (1 - 2.0**-12), rel=1e-4)


def test_true_tia_is_the_time_integral_of_the_true_curve(cycles):
    t = cycles[1].truth
    for name in ("kidney_left", "parotid_right", "lesion/L1", "liver"):
        r = t["regions"][name]
        by_hand = np.trapezoid(r["activities_mbq"], t["times_h"])
        assert r["tia_mbq_h"] == pytest.approx(by_hand, rel=0.01)
        parts = sum(r["structures"].values())
        assert parts == pytest.approx(r["tia_mbq_h"], rel=1e-9)


def test_the_true_maps_hold_the_true_region_numbers(cycles):
    c = cycles[1]
    voxel_ml = c.truth_tia.voxel_ml
    total = sum(r["tia_mbq_h"] for r in c.truth["regions"].values())
    assert float(c.truth_tia.array.sum()) * voxel_ml == pytest.approx(total, rel=1e-3)
    liver = c.truth_labels.mask("liver")
    assert c.truth_dose.array[liver].mean() == pytest.approx(c.truth["regions"]["liver"]["dose_gy"], rel=0.08)
    kidney = c.truth["regions"]["kidney_left"]
    local = 0.0853 * kidney["tia_mbq_h"] / kidney["mass_g"]
    assert 0.9 * local < kidney["dose_gy"] < 1.25 * local


def test_contours_are_wrong_by_a_modest_amount_and_say_so(cycles):
    ratios = []
    for c in cycles:
        for name, x in c.truth["contours"].items():
            drawn = next(r for r in c.segmentation.regions if r.name == name)
            truth = c.truth["regions"][name]["volume_ml"]
            assert drawn.volume_ml / truth == pytest.approx(x["volume_ratio"])
            assert drawn.volume_rel_sd == pytest.approx(x["volume_rel_sd"])
            assert c.segmentation.mask(name).sum() >= 1
            if truth > 10:
                ratios.append((x["volume_ratio"] - 1) / x["volume_rel_sd"])
                assert x["dice"] > 0.75, name
    assert 0.4 < np.std(ratios) < 1.6


def test_a_given_activity_scales_that_cycle_and_reaches_the_ones_after_it(cycles):
    p = reference_patient(PhantomSettings(seed=7, matrix=32, time_points=3, cycles=3), dose_engine="local")
    standard = p.kinetics(2).self_dose_gy["kidney_left"] / p.kinetics(2).administration.net_activity_mbq
    lesion = p.kinetics(3).physiology.volumes_ml["lesion/L1"]
    c = p.cycle(2, activity_mbq=11000.0)
    assert c.administrations[0].activity_mbq == 11000.0
    changed = p.kinetics(2).self_dose_gy["kidney_left"] / p.kinetics(2).administration.net_activity_mbq
    assert changed < standard  # more ligand, more saturation
    assert p.kinetics(3).physiology.volumes_ml["lesion/L1"] < lesion
    assert p.cycle(2).administrations[0].activity_mbq == 11000.0


def test_the_decision_is_asked_once_per_cycle_and_followed():
    asked = []

    def decide(k):
        asked.append(k)
        return 5000.0 if k == 2 else None

    p = reference_patient(PhantomSettings(seed=1, matrix=32, time_points=3, pet=False), decide=decide, dose_engine="local")
    given = [c.administrations[0].activity_mbq for c in p.cycles() if c.number]
    assert asked == [1, 2]
    assert given[1] == 5000.0
    assert given[0] == pytest.approx(7400, rel=0.03)
    with pytest.raises(ModelError):
        p.cycle(5)


def test_all_analytes_come_at_every_visit_before_the_next_therapy(cycles):
    for c in cycles:
        by_time = {}
        for r in c.labs:
            by_time.setdefault(r.time_h, set()).add(r.analyte)
        assert all(len(names) == 15 for names in by_time.values())
        assert len(by_time) >= 2
    assert max(r.time_h for r in cycles[0].labs) < 0
    assert all(0 < r.time_h < cycles[2].administrations[0].time_h for r in cycles[1].labs)
    assert len({r.record for c in cycles for r in c.labs}) == sum(len(c.labs) for c in cycles)


def test_counts_fall_and_recover():
    assert depletion(-1, 800, 0.1) == 0
    assert depletion(800, 800, 0.1) == pytest.approx(0.9 + 0.1 * (1 - np.exp(-1)))
    assert depletion(8000, 800, 0.1) < 0.11


def test_numbers_of_the_truth_survive_json(cycles):
    assert json.loads(json.dumps(cycles[1].truth)) == cycles[1].truth


def a_real_anatomy(couch: bool = True) -> LabelledAnatomy:
    z, y, x = np.ogrid[:40, :50, :80]
    hu = np.full((40, 50, 80), -1000, np.int16)
    hu[((y - 25) / 20.0) ** 2 + ((x - 40) / 34.0) ** 2 + 0 * z < 1] = 40
    if couch:
        hu[:, 1:4, 5:75] = 2000
    labels = np.zeros(hu.shape, np.int16)
    labels[12:26, 18:28, 14:24] = 1
    labels[12:26, 18:28, 56:66] = 2
    labels[30:34, 25:29, 38:42] = 3
    affine = np.array([[0, 0, 5.0, 0], [0, -5.0, 0, 0], [-5.0, 0, 0, 0], [0, 0, 0, 1.0]])  # z to the feet, y to the front
    return LabelledAnatomy(hu, affine, labels, {1: "kidney_right", 2: "kidney_left", 3: "lesion/T1"}, "female", "a box", 2000)


def test_a_labelled_anatomy_keeps_its_volumes_sides_and_couch():
    a = a_real_anatomy()
    p = reference_patient(
        PhantomSettings(seed=2, matrix=64, time_points=3, pet=False, product="Lu-177-DOTATATE"), anatomy=a, dose_engine="local"
    )
    c = p.cycle(1)
    assert p.patient.sex == "female"
    assert {r.name for r in c.segmentation.regions} == {"kidney_left", "kidney_right", "lesion/T1"}
    assert c.truth["regions"]["kidney_left"]["volume_ml"] == pytest.approx(1400 * 0.125, rel=0.08)
    k, j, i = np.argwhere(c.segmentation.mask("kidney_left")).mean(axis=0)
    world = c.segmentation.affine @ [k, j, i, 1]
    assert np.allclose(world[:3], [60.5 * 5, -22.5 * 5, -18.5 * 5], atol=8)
    assert c.scans[0].ct_hu.max() > 1500  # the couch is in the CT
    k, j, i = (int(v) for v in np.unravel_index(c.scans[0].ct_hu.argmax(), c.scans[0].ct_hu.shape))
    assert c.scans[0].truth_mbq_ml[k, j, i] == 0  # and holds no activity
    assert not any(r.analyte == "psa" for r in c.labs)


def test_an_anatomy_without_kidneys_or_with_an_unknown_region_is_refused():
    a = a_real_anatomy()
    for names in ({3: "lesion/T1"}, {1: "kidney_right", 2: "nose"}):
        with pytest.raises(ModelError):
            reference_patient(SETTINGS, anatomy=replace(a, names=names))
