"""Quarantine: a copy of what was refused, beside the reason. Outside TDT_HOME, owner-only.

The inbox stays as it is, so that the same folder can be read again once it is mended. The same refusal of the same bytes goes
to the same place: a folder that is tried every minute does not fill the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from storage.atomic import disk_errors, publish_folder, sha256_file
from storage.quality import QualityItem

_COPIED_FILES = 5000


def quarantine(item: QualityItem, folder: Path) -> Path:
    """Copy the files of a refused item into `folder`, with `reason.json`.

    Files are renamed to a number: a name may tell who the patient is, or hold a path. A link is noted, never followed.

    Returns
    -------
    The entry, `<folder>/<hash of reason and content>`.
    """
    files = [p for p in item.paths if p.is_file() and not p.is_symlink()][:_COPIED_FILES]
    digests = [sha256_file(p) for p in files]
    reason = json.dumps({"schema": 1, **item.as_dict(), "sha256": digests}, indent=1, sort_keys=True) + "\n"
    entry = folder / hashlib.sha256(reason.encode()).hexdigest()[:32]
    with disk_errors("writing to the quarantine"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (entry / "reason.json").exists():
            return entry
        staged = Path(tempfile.mkdtemp(prefix=".staged-", dir=folder))
        try:
            for n, path in enumerate(files):
                target = staged / f"{n:05d}.bin"
                shutil.copyfile(path, target)
                os.chmod(target, 0o600)
            (staged / "reason.json").write_text(reason, encoding="utf-8")
            os.chmod(staged / "reason.json", 0o600)
            publish_folder(staged, entry)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return entry
