"""What a verification found, kept as `verification.json` in the run's folder, and whether it still stands.

A verdict is about the records, scores and pictures that were there; it holds a hash of them, so that a report can tell
that something has been added or changed since. It is the word of whoever ran the verification: to know for oneself,
`reinvert bench verify` does it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from reinvert.bench.records import IMAGES, RECORDS
from reinvert.errors import ReinvertError
from reinvert.files import check, read_json, shown
from reinvert.files.run import VerdictFile, own_file
from reinvert.image import atomic_write

VERDICT: Final = "verification.json"
What = Literal["picture", "record", "score"]


@dataclass(frozen=True)
class Finding:
    """Something that is not as the run says."""

    what: What
    row: str
    case: str
    why: str

    @property
    def said(self) -> str:
        return f"{self.what} of {self.row}, case {self.case}: {self.why}"


@dataclass(frozen=True)
class Verdict:
    """What was looked at, and what was found."""

    when: str
    """UTC."""
    code: str
    """The version that verified."""
    where: str
    """Device and machine."""
    seed: int
    """Of the sample."""
    cells: int
    """How many cells the run has."""
    rendered: int = 0
    """How many of them were rendered again."""
    same: int = 0
    """How many of these gave the same bits."""
    near: int = 0
    """How many differ within the tolerance, for they were made in another environment."""
    worst: float | None = None
    """The least PSNR of these in dB."""
    scored: int = 0
    """How many lines of scores were computed again."""
    findings: tuple[Finding, ...] = ()
    skipped: tuple[str, ...] = ()
    """What could not be verified here, and why."""
    contents: Mapping[str, str] = field(default_factory=dict[str, str])
    """Hashes of what was verified."""

    @property
    def holds(self) -> bool:
        """Whether something was rendered again and nothing is other than the run says."""
        return not self.findings and self.rendered > 0

    @property
    def said(self) -> str:
        """One sentence."""
        near = f", {self.near} near (at least {self.worst:.1f} dB)" if self.near and self.worst is not None else ""
        told = (
            f"{self.rendered} of {self.cells} cells rendered again "
            f"({self.same} the same bits{near}; seed {self.seed}), "
            f"every record held against its case, {self.scored} lines of scores computed again"
        )
        place = f"{self.when[:10]} on {self.where}"
        if self.holds:
            return f"Verified {place}: {told}."
        if not self.findings:
            return f"Not verified {place}: nothing could be rendered again here."
        return f"NOT as it says, {place}: {len(self.findings)} findings ({self.findings[0].said}); {told}."


def contents(folder: Path) -> dict[str, str]:
    """Hashes of a run's records, scores and pictures."""
    told: dict[str, str] = {}
    for path in [folder / RECORDS, *sorted(folder.glob("scores-*.jsonl"))]:
        told[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    pictures = hashlib.sha256()
    for path in sorted((folder / IMAGES).rglob("*.png")):
        pictures.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            pictures.update(hashlib.file_digest(file, "sha256").digest())
    return {**told, IMAGES: pictures.hexdigest()[:16]}


def write_verdict(folder: Path, verdict: Verdict) -> Path:
    text = json.dumps(asdict(verdict), indent=1, ensure_ascii=False) + "\n"

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    atomic_write(folder / VERDICT, write)
    return folder / VERDICT


def read_verdict(folder: Path) -> Verdict | None:
    """The verdict in a run's folder; None where there is none. Raises `ReinvertError` for a damaged file."""
    path = folder / VERDICT
    if not own_file(path):
        return None
    told: dict[str, Any] = read_json(path)
    check(VerdictFile, told, shown(path), advice="verify the run again")
    findings = tuple(Finding(**found) for found in told.get("findings", ()))
    given: dict[str, Any] = {**told, "findings": findings, "skipped": tuple(told.get("skipped", ()))}
    return Verdict(**given)


@dataclass(frozen=True)
class Standing:
    """What a reader of a report is to know: whether a run is verified, and a sentence."""

    verified: bool
    said: str


def standing(folder: Path) -> Standing:
    """Whether a run's folder is verified as it is now."""
    try:
        verdict = read_verdict(folder)
    except ReinvertError as error:
        return Standing(False, f"Not verified: {error}.")
    if verdict is None:
        return Standing(False, "Not verified: `reinvert bench verify` has not been run.")
    if verdict.contents != contents(folder):
        return Standing(False, f"Not verified: records, scores or pictures have changed since. ({verdict.said})")
    return Standing(verdict.holds, verdict.said)


__all__ = ["Finding", "Standing", "Verdict", "contents", "read_verdict", "standing", "write_verdict"]
