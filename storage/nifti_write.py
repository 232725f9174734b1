"""Volumes as NIfTI files: (z, y, x) arrays on an affine to LPS mm become (i, j, k) on one to RAS mm.

The same input gives the same bytes.
"""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import numpy.typing as npt

from tdt_core.imaging.volume import Volume

SCANNER = 1
"""The sform and qform code for coordinates of the scanner's frame."""


def nifti_bytes(volume: Volume, description: str = "") -> bytes:
    """A NIfTI-1 file (.nii.gz) of a volume, float32 or as whole numbers where the array has them.

    Parameters
    ----------
    volume : a sheared grid keeps its place in the sform only.
    description : at most 79 characters; never an identity.
    """
    array = np.asarray(volume.array)
    array = array.astype(np.int16 if array.dtype.kind in "iub" else np.float32)
    image = nib.Nifti1Image(array.transpose(2, 1, 0), ras_affine(volume.affine))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, SCANNER)
    image.set_qform(image.affine, SCANNER)
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    return gzip.compress(image.to_bytes(), compresslevel=4, mtime=0)


def ras_affine(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(k, j, i, 1) to LPS mm as (i, j, k, 1) to RAS mm."""
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine[:, [2, 1, 0, 3]])
