"""What a data set holds: counts per edit type, and every problem."""

from __future__ import annotations

from collections import Counter

from reinvert.bench.case import TYPES, Data


def report(data: Data) -> str:
    """The terminal text of `reinvert bench check`."""
    counts = Counter(case.type_id for case in data.cases)
    masks = sum(case.open_mask is not None for case in data.cases)
    words = sum(case.blend is not None for case in data.cases)
    truths = sum(case.open_true_edit is not None for case in data.cases)
    lines = [f"{data.name}: {len(data.cases)} cases"]
    lines += [f"  {TYPES.get(key, key):18} {counts[key]:5}" for key in sorted(counts)]
    lines.append(f"{masks} with a mask, {words} with blend words, {truths} with a true edit")
    lines.append(f"{len(data.problems)} problems" if data.problems else "no problems")
    lines += [f"  {problem.id or data.name}: {problem.what}" for problem in data.problems]
    return "\n".join(lines)
