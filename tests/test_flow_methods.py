"""The methods made for flows, against what the authors' programs computed and the invariants of their papers."""

from __future__ import annotations

import parity_flow
import pytest
import torch
from conftest import SOURCE, TARGET, relative_l2, watch_walk

from reinvert.editors.flowedit import FlowEdit
from reinvert.editors.stable_flow import StableFlow
from reinvert.editors.uni_edit import UniEdit
from reinvert.inversions.base import Source
from reinvert.inversions.fireflow import FireFlow
from reinvert.inversions.none import Nothing
from reinvert.inversions.rf_inversion import RFInversion
from reinvert.inversions.rf_solver import RFSolver
from reinvert.inversions.uni_inv import UniInv


def recorded(name: str):
    about, own = parity_flow.case(name)
    return parity_flow.load(about["model"]), about, own


def inverted(model, inversion, x0: torch.Tensor, steps: int, seed: int = 0, prompt: str = SOURCE):
    return inversion.invert(Source(model, x0, (prompt,) * len(x0), steps, seed=seed))


def test_flowedit_is_the_authors_on_stable_diffusion_3() -> None:
    model, about, own = recorded("flowedit_sd3_n10")
    start = inverted(model, Nothing(), own["source"], 10)
    editor, before = FlowEdit(n_max=7.0, source_guidance=3.5), model.tally.forwards
    final = watch_walk(model, start, (TARGET,), (editor,), 13.5, seed=42)[-1]
    assert relative_l2(final[1], own["final"]) < about["tolerance"]
    assert torch.equal(final[0], own["source"])
    assert model.tally.forwards - before == about["forwards"]


def test_flowedit_is_the_authors_on_flux() -> None:
    model, about, own = recorded("flowedit_flux_n10")
    start = inverted(model, Nothing(), own["source"], 10)
    editor, before = FlowEdit(n_max=8.0, source_guidance=1.5), model.tally.forwards
    final = watch_walk(model, start, (TARGET,), (editor,), 5.5, seed=10)[-1]
    assert relative_l2(final[1], own["final"]) < about["tolerance"]
    assert model.tally.forwards - before == about["forwards"]


def test_rf_inversion_is_the_authors() -> None:
    model, about, own = recorded("rfinversion_n10")
    before = model.tally.forwards
    # The authors' program drew a posterior sample first, from the same generator.
    source = Source(model, own["source"], (SOURCE,), 10, drawn=1)
    assert torch.equal(next(source.draws()), own["y1"])
    trajectory = RFInversion().invert(source)
    assert relative_l2(trajectory.start, own["inverted"]) < about["tolerance"]
    final = watch_walk(model, trajectory, (TARGET,), (), 3.5)[-1]
    assert relative_l2(final[1], own["final"]) < about["tolerance"]
    assert model.tally.forwards - before == about["forwards"]


@pytest.mark.parametrize(
    ("name", "inversion"),
    [
        ("rfsolver_n8", RFSolver(inject=3)),
        ("fireflow_n8", FireFlow(inject=1)),
        ("fireflow_reconstruct", FireFlow(inject=0)),
    ],
)
def test_solvers_are_the_authors(name: str, inversion) -> None:
    model, about, own = recorded(name)
    before = model.tally.forwards
    trajectory = inverted(model, inversion, own["source"], about["steps"])
    assert relative_l2(trajectory.start, own["inverted"]) < about["tolerance"]
    final = watch_walk(model, trajectory, (about["target_prompt"],), (), float(about["guidance"]))[-1]
    assert model.tally.forwards - before == about["forwards"]
    assert relative_l2(final[1], own["final"]) < about["tolerance"]
    assert torch.equal(final[0], own["source"])


@pytest.mark.parametrize(("name", "region"), [("uniedit_sd3_n10", "signed"), ("uniedit_bfl_n10", "absolute")])
def test_uniedit_is_the_authors(name: str, region) -> None:
    model, about, own = recorded(name)
    before = model.tally.forwards
    trajectory = inverted(model, UniInv(depth=0.6), own["source"], 10)
    assert relative_l2(trajectory.start, own["inverted"]) < about["tolerance"]
    final = watch_walk(model, trajectory, (TARGET,), (UniEdit(omega=5.0, region=region),), 1.0)[-1]
    assert relative_l2(final[1], own["final"]) < about["tolerance"]
    assert model.tally.forwards - before == about["forwards"]


def test_stable_flow_is_the_authors() -> None:
    """On generated pictures, as recorded: both rows begin at the same noise."""
    model, about, own = recorded("stableflow_generated")
    start = model.unpack(own["start_packed"][None], (32, 32))
    trajectory = inverted(model, UniInv(depth=1.0, strength=0.0), start, about["steps"])
    trajectory = type(trajectory)(**{**vars(trajectory), "path": start.expand(len(trajectory.path), *start.shape)})
    final = watch_walk(model, trajectory, (TARGET,), (StableFlow(),), about["guidance"])[-1]
    assert relative_l2(final[:, 0], own["final"]) < about["tolerance"]
