"""The recorded outputs of the authors' programs, reproduced through the public API within the recorded tolerances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import naive
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PARITY, gap, relative_l2

import reinvert
from reinvert.image import open_image, to_tensor
from reinvert.inversions.null_text import _Fit
from reinvert.text import Text
from reinvert.trajectory import Trajectory

PICTURE = PARITY / "inputs" / "img1_512.png"
METHODS = {
    "directinversion+p2p": ("direct", "p2p"),
    "ddim+p2p": ("ddim", "p2p"),
    "null-text-inversion+p2p": ("null_text", "p2p"),
    "negative-prompt-inversion+proximal-guidance": ("negative_prompt", "p2p+proximal"),
}
"""The published names as combinations of ours."""


@dataclass
class Run:
    trajectory: Trajectory
    steps: list[torch.Tensor]
    """[branch, channel, h, w] after every step."""
    result: reinvert.Result


def settings(entry: dict) -> dict:
    """A recorded entry as arguments of `reinvert.edit`."""
    said = entry["settings"]
    inversion, editor = METHODS[entry["reference_mode"]]
    call = {
        "source": said["prompt_src"],
        "target": said["prompt_tar"],
        "inversion": inversion,
        "editor": editor,
        "steps": entry["N"],
        "guidance": said["guidance_scale"],
        "cross": said["cross_replace_steps"],
        "self_attention": said["self_replace_steps"],
    }
    if said["blend_word"]:
        (old,), (new,) = said["blend_word"]
        call["blend"] = (old, new)
    if said["eq_params"]:
        words, values = said["eq_params"]["words"], said["eq_params"]["values"]
        call["boost"] = {w: float(v) for w, v in zip(words, values, strict=True)}
    if "proximal" in editor:
        call["quantile"] = said["quantile"]
    return call


@pytest.fixture(scope="module")
def run(parity_model, recorded_json):
    """Runs of `reinvert.edit`, each made once; its walk is watched from outside for the steps in between."""
    made: dict[str, Run] = {}
    walk = Trajectory.walk

    def get(name: str) -> Run:
        if name in made:
            return made[name]
        seen: list[torch.Tensor] = []
        of: list[Trajectory] = []

        def watched(self: Trajectory, *args, **kwargs) -> Iterator:
            of.append(self)
            for moment, state in walk(self, *args, **kwargs):
                seen.append(state.x[:, 0].clone())
                yield moment, state

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trajectory, "walk", watched)
            result = reinvert.edit(parity_model, PICTURE, **settings(recorded_json["entries"][name]))
        made[name] = Run(of[0], seen, result)
        return made[name]

    return get


def allowed(recorded_json: dict, key: str) -> float:
    return recorded_json["tolerances"][key]["recommended"]


def long(*values: str) -> object:
    """Runs of 64 x 64 latents take a quarter of a minute each."""
    return pytest.param(*values, marks=pytest.mark.slow)


DIRECT, OTHERS, LEARNED = "directinversion+p2p N=10", "ddim/negative-prompt/proximal", "null-text final latents"


@pytest.mark.parametrize(
    ("name", "key"),
    [("p1_di", DIRECT), long("p1_di_noblend", DIRECT), long("p1_ddim", OTHERS), long("p1_npi_prox", OTHERS)],
)
def test_final_latents(run, recorded, recorded_json, name: str, key: str) -> None:
    tolerance = allowed(recorded_json, key)
    for row in range(2):
        assert relative_l2(run(name).result.latents[row], recorded[f"{name}.final"][row]) < tolerance


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize(("name", "key"), [("p1_di", DIRECT), long("p1_ddim", OTHERS), long("p1_npi_prox", OTHERS)])
def test_latents_on_the_way(run, recorded, recorded_json, name: str, key: str, step: int) -> None:
    tolerance = allowed(recorded_json, key)
    for row in range(2):
        assert relative_l2(run(name).steps[step][row], recorded[f"{name}.step{step}"][row]) < tolerance


@pytest.mark.parametrize("level", [0, 1, 5, 10])
@pytest.mark.parametrize(("name", "key"), [("p1_di", DIRECT), long("p1_ddim", OTHERS)])
def test_the_inversion(run, recorded, recorded_json, name: str, key: str, level: int) -> None:
    """Direct inversion's path is DDIM inversion's."""
    wanted = recorded[f"p1_ddim.zstar{level}"]
    assert relative_l2(run(name).trajectory.path[level], wanted) < allowed(recorded_json, key)


@pytest.mark.parametrize("name", ["p1_di", long("p1_di_noblend")])
def test_the_source_of_direct_inversion_is_the_encoded_picture(run, recorded, recorded_json, name: str) -> None:
    absolute = recorded_json["tolerances"]["source row of DI"]["recommended_abs"]
    assert (run(name).result.latents[0] - recorded[f"{name}.final"][0]).abs().max() < absolute
    assert torch.equal(run(name).result.latents[0], run(name).trajectory.path[0, 0])


@pytest.mark.parametrize("step", [0, 4, 9])
def test_the_offsets_that_are_never_computed(run, parity_model, recorded, recorded_json, step: int) -> None:
    """o_s = z*_{N-s-1} - D_s(z*_{N-s}, guided), both rows: what the authors add, from our trajectory."""
    path, said = run("p1_di").trajectory.path, recorded_json["entries"]["p1_di"]["settings"]
    text = naive.encode(parity_model, [said["prompt_src"], said["prompt_tar"]])
    empty, t = naive.encode(parity_model, [""]).expand(2, -1, -1), naive.times(10)[step]
    a, b = naive.coefficients(t, 10)
    z = path[10 - step].expand(2, -1, -1, -1)
    offset = path[10 - step - 1] - (a * z + b * naive.guided(parity_model, z, t, empty, text, 7.5))
    # an offset is a small difference of large latents: the rounding of those, 1e-6 of them, is what it is held to
    assert gap(offset, recorded[f"p1_di.offset{step}"]) < 1e-4
    assert recorded[f"p1_di.offset{step}"].abs().max() > 1e-2


def test_the_share_that_the_blend_copies(run, recorded_json) -> None:
    """Cells of the target equal to the source after every step, as recorded (p1_di; to one cell of 16 x 16)."""
    shares = recorded_json["entries"]["p1_di"]["blend_copied_fraction_per_step"]
    for x, share in zip(run("p1_di").steps, shares, strict=True):
        copied = (x[1] == x[0]).all(0).float().mean().item()
        assert copied == pytest.approx(share, abs=1 / 256 + 1e-4)


@pytest.mark.parametrize("name", ["p1_di", long("p1_ddim"), long("p1_npi_prox")])
def test_the_picture(run, recorded_json, name: str) -> None:
    """Mean and spread of the edited picture: decoding truncates, so a grey level is lost on half the pixels at most."""
    pixels, wanted = np.asarray(run(name).result.image), recorded_json["entries"][name]["image"]
    assert pixels.mean() == pytest.approx(wanted["mean"], abs=0.6)
    assert pixels.std() == pytest.approx(wanted["std"], abs=0.2)


FORWARDS = {"p1_di": 40, "p1_di_noblend": 36, "p1_ddim": 50, "p1_npi_prox": 40}


@pytest.mark.parametrize("name", ["p1_di", *(long(name) for name in FORWARDS if name != "p1_di")])
def test_forwards_of_the_recorded_runs(run, name: str) -> None:
    assert run(name).result.forwards == FORWARDS[name]


# --- null-text -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_first_learned_embedding(parity_model, recorded, recorded_json, monkeypatch) -> None:
    """Step 0 of the fit, the quick part; the whole of it is in the slow test below."""
    entry = recorded_json["entries"]["p1_nti"]
    fits: list[_Fit] = []
    call = _Fit.__call__

    def watched(self: _Fit, *args):
        fits.append(self)
        return call(self, *args)

    monkeypatch.setattr(_Fit, "__call__", watched)

    class EnoughError(Exception):
        pass

    def stop(progress) -> None:
        if progress.stage == "fitting":
            raise EnoughError

    said = settings(entry)
    with pytest.raises(EnoughError):
        reinvert.invert(parity_model, PICTURE, said["source"], inversion="null_text", steps=10, watch=stop)
    learned = fits[0].learned[0].tokens
    tolerance = allowed(recorded_json, "null-text embeddings steps 0-2")
    assert relative_l2(learned, recorded["p1_nti.uncond0"]) < tolerance
    moved = learned - parity_model.encode_text([""]).tokens
    assert moved.norm() / recorded["p1_nti.uncond0"].norm() > 50 * tolerance  # it did learn


@pytest.mark.slow
def test_null_text(run, recorded, recorded_json) -> None:
    made = run("p1_nti")
    assert made.trajectory.null is not None
    tolerance = allowed(recorded_json, LEARNED)
    for step in (0, 4, 9):
        assert relative_l2(made.trajectory.null.tokens[step], recorded[f"p1_nti.uncond{step}"]) < tolerance
    for row in range(2):
        assert relative_l2(made.result.latents[row], recorded["p1_nti.final"][row]) < tolerance
    assert made.result.forwards <= 10 + 10 * 12 + 40
    deltas = recorded_json["entries"]["p1_nti"]["uncond_delta_rms"]
    null = made.trajectory.null.tokens[:, 0]
    for step in range(10):
        rms = (null[step] - null[0]).square().mean().sqrt().item()
        assert rms == pytest.approx(deltas[step], abs=1e-3)


# --- the parts -----------------------------------------------------------------------------------------------


def test_text_embeddings(parity_model, unit, unit_json, recorded_json) -> None:
    tolerance = allowed(recorded_json, "unit (text, vae, unet single forward)")
    prompts = list(unit_json["prompts"])
    keys = parity_model.encode_text(prompts).tokens
    for prompt, row in zip(prompts, keys, strict=True):
        assert relative_l2(row, unit[f"text.{unit_json['prompts'][prompt]['index']}"]) < tolerance


def test_the_round_trip_through_the_vae(parity_model, unit, recorded, recorded_json) -> None:
    tolerance = allowed(recorded_json, "unit (text, vae, unet single forward)")
    latents = parity_model.encode(to_tensor([open_image(PICTURE)]))
    assert relative_l2(latents, recorded["p1_ddim.zstar0"]) < tolerance
    assert relative_l2(latents, unit["vae.encode.img1_512"]) < tolerance
    decoded = parity_model.decode(unit["vae.encode.img1_512"])
    assert relative_l2(F.avg_pool2d(decoded, 8), unit["vae.decode.img1_512.pool8"]) < tolerance


@pytest.mark.parametrize("t", [1, 501, 700, 981])
def test_single_predictions(parity_model, unit, recorded_json, t: int) -> None:
    text = parity_model.encode_text(["a cat sitting on a table", "a dog sitting on a table"]).tokens
    noise = parity_model.answer(unit["unet.in"][:, None], Text(text[:, None]), t, None)
    tolerance = allowed(recorded_json, "unit (text, vae, unet single forward)")
    assert relative_l2(noise[:, 0], unit[f"unet.out.t{t}"]) < tolerance
