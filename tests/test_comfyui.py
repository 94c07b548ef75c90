"""The node pack for ComfyUI: its declarations by the rules of ComfyUI's documentation, its nodes called as ComfyUI's
executor calls them, with a stand-in for ComfyUI's own modules."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import reinvert
from reinvert import ReinvertError, registry

PACK = Path(__file__).parent.parent / "integrations" / "comfyui"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN")
OWN_TYPES = {"IMAGE", "MASK", *WIDGETS}
"""ComfyUI's own types that the pack uses."""
OPTIONS = {
    *("default", "min", "max", "step", "round", "label_on", "label_off", "defaultInput", "forceInput", "multiline"),
    *("placeholder", "dynamicPrompts", "lazy", "rawLink", "tooltip", "control_after_generate"),
}
SOURCE, TARGET = "a red cat on grass", "a red dog on grass"


class Interrupted(Exception):
    """ComfyUI's InterruptProcessingException."""


class Comfy:
    """What a test sees of the stand-in: the bars that were made, and a button that interrupts."""

    def __init__(self) -> None:
        self.bars: list[list[tuple[int, int]]] = []
        self.interrupt_after: int | None = None
        self.checks = 0
        self.checkpoints: dict[str, str] = {}


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Comfy:
    """ComfyUI's modules as the nodes see them."""
    seen = Comfy()

    class ProgressBar:
        def __init__(self, total: int) -> None:
            self.updates: list[tuple[int, int]] = []
            seen.bars.append(self.updates)

        def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
            assert total is not None
            self.updates.append((value, total))

    def throw() -> None:
        seen.checks += 1
        if seen.interrupt_after is not None and seen.checks > seen.interrupt_after:
            raise Interrupted

    parts: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": {
            "throw_exception_if_processing_interrupted": throw,
            "get_torch_device": lambda: torch.device("cpu"),
        },
        "folder_paths": {"get_full_path": lambda folder, name: seen.checkpoints.get(name)},
    }
    for name, holds in parts.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        vars(module).update(holds)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


@pytest.fixture(scope="module")
def pack() -> Iterator[ModuleType]:
    """The pack, imported from its folder as ComfyUI imports what lies in custom_nodes."""
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for each in [each for each in sys.modules if each.startswith(name)]:
        del sys.modules[each]


class CoreImage:
    """LoadImage of ComfyUI: a picture and, where it has no transparency, an empty mask of 64 x 64."""

    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": (["photo.png"], {"image_upload": True})}}

    def load(self, image: str) -> tuple[torch.Tensor, torch.Tensor]:
        return picture(), torch.zeros(1, 64, 64)


class CorePreview:
    """PreviewImage and SaveImage of ComfyUI."""

    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}, "optional": {"filename_prefix": ("STRING", {"default": "ComfyUI"})}}

    def show(self, images: torch.Tensor, filename_prefix: str = "") -> dict[str, Any]:
        assert images.ndim == 4
        assert images.shape[-1] == 3
        return {"ui": {"images": [tuple(images.shape)]}, "result": ()}


CORE = {"LoadImage": CoreImage, "PreviewImage": CorePreview, "SaveImage": CorePreview}


class Executor:
    """Runs a prompt in ComfyUI's API format as ComfyUI does: validates it, calls nodes in inference mode, and keeps
    what they gave by their inputs."""

    def __init__(self, pack: ModuleType) -> None:
        self.nodes: dict[str, Any] = {**CORE, **pack.NODE_CLASS_MAPPINGS}
        self.kept: dict[str, tuple[Any, ...]] = {}
        self.ran: list[str] = []

    def validate(self, prompt: dict[str, Any]) -> str | None:
        for node in prompt.values():
            cls, given = self.nodes[node["class_type"]], node["inputs"]
            kinds = cls.INPUT_TYPES()
            own = getattr(cls, "VALIDATE_INPUTS", None)
            asked = () if own is None else inspect.getfullargspec(own).args[1:]
            for name, (kind, *rest) in {**kinds["required"], **kinds.get("optional", {})}.items():
                if name not in given:
                    if name in kinds["required"]:
                        return f"{name} is missing"
                    continue
                value, options = given[name], rest[0] if rest else {}
                if isinstance(value, list):
                    origin = self.nodes[prompt[value[0]]["class_type"]].RETURN_TYPES[value[1]]
                    if origin != kind:
                        return f"{name}: {origin} is no {kind}"
                elif name not in asked:
                    if isinstance(kind, list) and value not in kind:
                        return f"{name}: {value} is not in the list"
                    if kind in ("INT", "FLOAT") and not options.get("min", value) <= value <= options.get("max", value):
                        return f"{name}: {value} is out of bounds"
            if own is not None:
                told = own(**{name: given[name] for name in asked if not isinstance(given.get(name), list)})
                if told is not True:
                    return str(told)
        return None

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        problem = self.validate(prompt)
        assert problem is None, problem
        self.ran = []
        with torch.inference_mode():
            return {key: self._outputs(prompt, key) for key in prompt}

    def _signature(self, prompt: dict[str, Any], key: str) -> str:
        node = prompt[key]
        cls, given = self.nodes[node["class_type"]], node["inputs"]
        constants = {n: None if isinstance(v, list) else v for n, v in given.items()}
        changed = repr(cls.IS_CHANGED(**constants)) if hasattr(cls, "IS_CHANGED") else ""
        inputs = {n: [self._signature(prompt, v[0]), v[1]] if isinstance(v, list) else v for n, v in given.items()}
        return json.dumps([node["class_type"], changed, sorted(inputs.items())])

    def _outputs(self, prompt: dict[str, Any], key: str) -> tuple[Any, ...]:
        node, signature = prompt[key], self._signature(prompt, key)
        if signature not in self.kept:
            cls = self.nodes[node["class_type"]]
            given = {
                n: self._outputs(prompt, v[0])[v[1]] if isinstance(v, list) else v for n, v in node["inputs"].items()
            }
            made = getattr(cls(), cls.FUNCTION)(**given)
            self.ran.append(node["class_type"])
            made = made["result"] if isinstance(made, dict) else made
            assert isinstance(made, tuple)
            assert len(made) == len(cls.RETURN_TYPES)
            self.kept[signature] = made
        return self.kept[signature]


@pytest.fixture
def executor(pack: ModuleType, comfy: Comfy) -> Executor:
    return Executor(pack)


def picture(caption: str = SOURCE, seed: int = 0) -> torch.Tensor:
    """A drawing as ComfyUI's IMAGE."""
    return torch.from_numpy(np.asarray(reinvert.draw(caption, seed=seed), dtype=np.float32) / 255)[None]


def node(pack: ModuleType, name: str, **inputs: Any) -> dict[str, Any]:
    """A node of a prompt: its widgets' defaults, and what is given."""
    kinds = pack.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
    both = {**kinds["required"], **kinds.get("optional", {})}
    widgets = {n: o["default"] for n, (k, o) in both.items() if isinstance(k, list) or k in WIDGETS}
    assert inputs.keys() <= both.keys()
    return {"class_type": name, "inputs": {**widgets, **inputs}}


def prompt_of(workflow: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """A saved workflow (format 0.4) in the API format, as ComfyUI's page makes it when it is queued."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: dict[str, Any] = {}
    for each in workflow["nodes"]:
        kinds = nodes[each["type"]].INPUT_TYPES()
        values, inputs = list(each["widgets_values"]), {}
        for name, (kind, *_) in {**kinds["required"], **kinds.get("optional", {})}.items():
            if isinstance(kind, list) or kind in WIDGETS:
                if values:
                    inputs[name] = values.pop(0)
                if name == "seed":  # the page adds a widget that says what becomes of a seed after a run
                    assert values.pop(0) in ("fixed", "randomize", "increment", "decrement")
        inputs |= {i["name"]: links[i["link"]] for i in each["inputs"] if i["link"] is not None}
        prompt[str(each["id"])] = {"class_type": each["type"], "inputs": inputs}
        assert values in ([], ["image"])
    return prompt


# --- declarations ---------------------------------------------------------------------------------------------------


def test_declarations_keep_the_rules_of_comfyuis_documentation(pack: ModuleType) -> None:
    assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    assert all(name.startswith("Reinvert") for name in pack.NODE_CLASS_MAPPINGS)  # names are shared by all packs
    sockets = {kind for cls in pack.NODE_CLASS_MAPPINGS.values() for kind in cls.RETURN_TYPES}
    for name, cls in pack.NODE_CLASS_MAPPINGS.items():
        kinds = cls.INPUT_TYPES()
        assert {"required"} <= kinds.keys() <= {"required", "optional", "hidden"}, name
        assert isinstance(cls.RETURN_TYPES, tuple)
        assert all(isinstance(kind, str) for kind in cls.RETURN_TYPES)
        assert len(cls.RETURN_NAMES) == len(cls.RETURN_TYPES)
        assert isinstance(cls.CATEGORY, str)
        assert cls.CATEGORY.split("/")[0] == "reinvert"
        assert not getattr(cls, "OUTPUT_NODE", False)  # what they give is shown by ComfyUI's own nodes
        call = inspect.signature(getattr(cls(), cls.FUNCTION))
        takes_all = any(p.kind is p.VAR_KEYWORD for p in call.parameters.values())
        assert not kinds["required"].keys() & kinds.get("optional", {}).keys()
        for given, (kind, options) in {**kinds["required"], **kinds.get("optional", {})}.items():
            where = f"{name}.{given}"
            assert given in call.parameters or takes_all, where
            assert options.keys() <= OPTIONS, where
            if isinstance(kind, list):
                assert kind, where
                assert all(isinstance(choice, str) for choice in kind), where
                assert options["default"] in kind, where
            elif kind in WIDGETS:
                made = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}[kind]
                assert type(options["default"]) is made, where
                assert (
                    options.get("min", options["default"])
                    <= options["default"]
                    <= options.get("max", options["default"])
                ), where
            else:
                assert kind in sockets | OWN_TYPES, where
        for given in kinds.get("optional", {}):  # left out of the call where nothing is connected
            assert call.parameters[given].default is not inspect.Parameter.empty, f"{name}.{given}"
        json.dumps(kinds)  # ComfyUI sends them to the page


def test_there_is_a_settings_node_for_every_method_with_a_widget_for_every_field(pack: ModuleType) -> None:
    for group, prefix in (("inversions", "ReinvertInversion_"), ("editors", "ReinvertEditor_")):
        for name in registry.names(group):
            cls = pack.NODE_CLASS_MAPPINGS[prefix + name]
            fields = {argument.name: argument for argument in registry.schema(group, name)}
            assert cls.INPUT_TYPES()["required"].keys() == fields.keys()
            defaults = {n: o["default"] for n, (_, o) in cls.INPUT_TYPES()["required"].items()}
            (made,) = cls().make(**defaults)  # the widgets' defaults are the fields'
            usual = {n: a.default for n, a in fields.items()}
            assert dict((made if prefix == "ReinvertInversion_" else made[0]).settings) == usual


def test_settings_are_read_as_on_the_command_line_and_editors_are_joined(pack: ModuleType) -> None:
    mappings = pack.NODE_CLASS_MAPPINGS
    p2p = node(pack, "ReinvertEditor_p2p", cross="0.4 dog=0.2:0.9", boost="dog=2", kind="replace")["inputs"]
    (editors,) = mappings["ReinvertEditor_p2p"]().make(**p2p)
    blend = node(pack, "ReinvertEditor_local_blend", source_words="cat, hat")["inputs"]
    (editors,) = mappings["ReinvertEditor_local_blend"]().make(before=editors, **blend)
    assert [editor.name for editor in editors] == ["p2p", "local_blend"]
    assert editors[0].cross == {"default_": 0.4, "dog": (0.2, 0.9)}
    assert editors[0].boost == {"dog": 2.0}
    assert editors[1].source_words == ("cat", "hat")
    with pytest.raises(ReinvertError, match=r"^cross of p2p takes a share of the run such as 0\.4"):
        mappings["ReinvertEditor_p2p"]().make(**{**p2p, "cross": "2"})


def test_only_legal_pairs_are_offered(pack: ModuleType, executor: Executor) -> None:
    (offered, options) = pack.NODE_CLASS_MAPPINGS["ReinvertEdit"].INPUT_TYPES()["required"]["pair"]
    legal = reinvert.pairs.matrix()
    assert offered[0] == options["default"] == "the model's usual"
    assert offered[1] == "direct + p2p"
    assert sorted(offered[1:]) == sorted(f"{i} + {e}" for i in legal for e in legal[i] if legal[i][e] is None)
    assert "none + sdedit" in offered
    assert "none + p2p" not in offered
    prompt = {"1": node(pack, "ReinvertEdit", pair="none + p2p", model=["1", 0], image=["1", 0])}
    prompt["1"]["inputs"] |= {"model": "", "image": ""}
    assert executor.validate(prompt) == "pair: none + p2p is not in the list"


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ("direct + p2p\nnone + p2p", "none + p2p: inversion none leaves no noise to begin from; choose another one"),
        ("direct + p2", "direct + p2: there is no editor 'p2'; did you mean p2p or p2plus"),
        ("p2p", "p2p: there is no inversion 'p2p'"),
        (" \n", "name the pairs to compare, one a line, such as direct + p2p"),
    ],
)
def test_an_illegal_pair_is_told_before_anything_runs(
    pack: ModuleType, executor: Executor, pairs: str, reason: str
) -> None:
    prompt = {"1": node(pack, "ReinvertCompare", pairs=pairs, model="", image="")}
    assert (executor.validate(prompt) or "").startswith(reason)


# --- running --------------------------------------------------------------------------------------------------------


def drawing(pack: ModuleType, **edit: Any) -> dict[str, Any]:
    """Load, draw, invert, edit."""
    return {
        "load": node(pack, "ReinvertLoadModel"),
        "draw": node(pack, "ReinvertDraw", caption=SOURCE),
        "invert": node(pack, "ReinvertInvert", model=["load", 0], image=["draw", 0], source=SOURCE, steps=4),
        "edit": node(
            pack,
            "ReinvertEditTrajectory",
            **{"model": ["load", 0], "trajectory": ["invert", 0], "target": TARGET, **edit},
        ),
    }


def test_an_edit_is_that_of_the_library_and_a_changed_target_inverts_nothing_again(
    pack: ModuleType, executor: Executor, comfy: Comfy
) -> None:
    outputs = executor.run(drawing(pack))
    assert executor.ran == ["ReinvertLoadModel", "ReinvertDraw", "ReinvertInvert", "ReinvertEditTrajectory"]
    edited, reconstruction, settings = outputs["edit"]
    model = outputs["load"][0]
    result = reinvert.edit(model, reinvert.draw(SOURCE), source=SOURCE, target=TARGET, steps=4)
    for made, expected in ((edited, result.image), (reconstruction, result.reconstruction)):
        assert made.dtype == torch.float32
        assert made.shape == (1, 64, 64, 3)
        assert np.array_equal((made[0] * 255).numpy().round().astype(np.uint8), np.asarray(expected))
    assert json.loads(settings)["inversion"]["name"] == "direct"
    assert [bar[-1] for bar in comfy.bars] == [(4, 4), (4, 4)]
    assert [done for done, _ in comfy.bars[1]] == [1, 2, 3, 4]

    executor.run(drawing(pack))
    assert executor.ran == []
    executor.run(drawing(pack, target="a blue cat on grass"))
    assert executor.ran == ["ReinvertEditTrajectory"]


def test_a_batch_with_masks_is_edited_picture_by_picture(pack: ModuleType, executor: Executor) -> None:
    load = executor.run({"load": node(pack, "ReinvertLoadModel")})["load"][0]
    pictures = torch.cat([picture(seed=0), picture(seed=1)])
    masks = torch.zeros(2, 64, 64)
    masks[0, :, :32], masks[1, :, 32:] = 1, 1
    inputs = node(pack, "ReinvertEdit", model=load, image=pictures, source=SOURCE, target=TARGET, steps=4, mask=masks)[
        "inputs"
    ]
    with torch.inference_mode():
        edited, _, settings = pack.NODE_CLASS_MAPPINGS["ReinvertEdit"]().edit(**inputs)
    assert edited.shape == pictures.shape
    assert [each["editors"][-1]["name"] for each in json.loads(settings)] == ["local_blend"] * 2
    for i in range(2):
        alone = reinvert.edit(
            load,
            pictures[i].movedim(-1, 0),
            source=SOURCE,
            target=TARGET,
            steps=4,
            mask=masks[i].numpy(),
        )
        levels = np.asarray(alone.image).astype(int) - (edited[i] * 255).round().numpy().astype(int)
        assert np.abs(levels).max() <= 1  # batches of a network round differently
    with pytest.raises(ReinvertError, match=r"^the mask is empty: paint what may change"):
        pack.NODE_CLASS_MAPPINGS["ReinvertEdit"]().edit(**{**inputs, "mask": torch.zeros(1, 64, 64)})


def test_a_region_is_the_mask_of_each_picture(pack: ModuleType, executor: Executor) -> None:
    prompt = {
        "image": node(pack, "ReinvertDraw", caption=SOURCE),
        "region": node(pack, "ReinvertRegion", image=["image", 0], words="the red cat"),
    }
    (mask,) = executor.run(prompt)["region"]
    assert mask.shape == (1, 64, 64)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert (mask[0].numpy() * 255 == np.asarray(reinvert.region(reinvert.draw(SOURCE), "the red cat"))).all()
    with pytest.raises(ReinvertError, match=r"^nothing in this picture is called 'the boat'; it shows a red cat"):
        pack.NODE_CLASS_MAPPINGS["ReinvertRegion"]().find(picture(), "the boat", "picturebook", 0.4)
    prompt["region"]["inputs"]["words"] = " "
    assert "name what may change" in str(executor.validate(prompt))


def test_an_inversion_that_learns_runs_within_comfyuis_inference_mode(pack: ModuleType, executor: Executor) -> None:
    prompt = drawing(pack)
    prompt["settings"] = node(pack, "ReinvertInversion_null_text", inner=2)
    prompt["invert"]["inputs"] |= {"inversion_settings": ["settings", 0], "steps": 2}
    trajectory = executor.run(prompt)["invert"][0]
    assert trajectory.inversion == "null_text"
    assert trajectory.settings["inner"] == 2
    assert not trajectory.path.is_inference()  # it outlives the call, and may be learnt from


def test_an_interrupt_stops_within_a_step_and_leaves_the_model_usable(
    pack: ModuleType, executor: Executor, comfy: Comfy
) -> None:
    comfy.interrupt_after = 2
    with pytest.raises(Interrupted):
        executor.run(drawing(pack))
    assert comfy.checks == 3
    assert [len(bar) for bar in comfy.bars] == [2]
    comfy.interrupt_after = None
    executor.run(drawing(pack))
    assert executor.ran == ["ReinvertInvert", "ReinvertEditTrajectory"]  # model and picture were kept


def test_a_comparison_shares_inversions_and_gives_its_edits_in_order(
    pack: ModuleType, executor: Executor, comfy: Comfy
) -> None:
    pairs = "direct + p2p\ndirect+prompt\nnone + sdedit"
    prompt = drawing(pack) | {
        "compare": node(
            pack,
            "ReinvertCompare",
            **{"model": ["load", 0], "image": ["draw", 0], "source": SOURCE, "target": TARGET},
            **{"pairs": pairs, "steps": 4},
        )
    }
    outputs = executor.run(prompt)
    sheet, edited = outputs["compare"]
    assert sheet.shape[0] == 1
    assert edited.shape == (3, 64, 64, 3)
    assert torch.equal(edited[0], outputs["edit"][0][0])
    assert sum(done == 1 for done, _ in comfy.bars[-1]) == 2 + 3  # two inversions, three edits


def test_texts_that_another_node_gives_are_not_checked_before_it_ran(executor: Executor) -> None:
    nodes = executor.nodes
    checked = [name for name, node in nodes.items() if hasattr(node, "VALIDATE_INPUTS")]
    assert len(checked) >= 3
    for name in checked:
        assert nodes[name].VALIDATE_INPUTS() is True  # ComfyUI leaves out what is linked
        if hasattr(nodes[name], "IS_CHANGED"):
            assert nodes[name].IS_CHANGED() == nodes[name].IS_CHANGED(name=None)


def test_a_model_is_loaded_again_when_its_files_change(
    pack: ModuleType, comfy: Comfy, tiny_folder: Path, tmp_path: Path
) -> None:
    load = pack.NODE_CLASS_MAPPINGS["ReinvertLoadModel"]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.safetensors").write_bytes(b"1")
    before = load.IS_CHANGED(name=str(folder), device="auto", dtype="auto")
    assert before == load.IS_CHANGED(name=str(folder))
    (folder / "a.safetensors").write_bytes(b"12")
    assert before != load.IS_CHANGED(name=str(folder))
    assert not isinstance(before, bool)
    assert load.VALIDATE_INPUTS("picturebook") is True
    assert load.VALIDATE_INPUTS("picturbook").startswith("there is no model 'picturbook'; did you mean picturebook?")
    comfy.checkpoints["sd.ckpt"] = str(tmp_path / "sd.ckpt")
    (tmp_path / "sd.ckpt").write_bytes(b"")
    assert load.VALIDATE_INPUTS("sd.ckpt").startswith("sd.ckpt is a pickle")  # of ComfyUI's own folder
    assert load().load(str(tiny_folder), "auto", "float32")[0].name == tiny_folder.name


def test_without_comfyui_the_nodes_run_too(pack: ModuleType) -> None:
    host = sys.modules[f"{pack.__name__}.host"]
    assert importlib.util.find_spec("comfy") is None
    host.watcher()(reinvert.Progress("editing", 1, 2))
    assert host.device("auto") == "auto"
    assert host.checkpoint("picturebook") == "picturebook"


@pytest.mark.parametrize("workflow", sorted((PACK / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_example_workflows_are_valid_and_run(
    pack: ModuleType, executor: Executor, workflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = json.loads(workflow.read_text())
    assert held["version"] == 0.4
    assert held["last_node_id"] == max(each["id"] for each in held["nodes"])
    by_id = {each["id"]: each for each in held["nodes"]}
    for number, origin, slot, target, place, kind in held["links"]:
        assert number <= held["last_link_id"]
        assert number in by_id[origin]["outputs"][slot]["links"]
        assert by_id[target]["inputs"][place]["link"] == number
        assert by_id[origin]["outputs"][slot]["type"] == by_id[target]["inputs"][place]["type"] == kind
    prompt = prompt_of(held, executor.nodes)
    assert executor.validate(prompt) is None
    for each in prompt.values():  # the same with the bundled model and few steps
        if each["class_type"] == "ReinvertLoadModel":
            each["inputs"]["name"] = "picturebook"
        if "steps" in each["inputs"]:
            each["inputs"]["steps"] = 4
        for prompted in ("source", "target"):
            if prompted in each["inputs"]:
                each["inputs"][prompted] = each["inputs"][prompted].replace(" sitting on a bench", " on grass")
    monkeypatch.setattr(CoreImage, "load", lambda self, image: (picture(), torch.ones(1, 64, 64)))
    executor.run(prompt)
    assert {"PreviewImage", "SaveImage"} & set(executor.ran)


def test_the_pack_is_in_the_source_distribution() -> None:
    import tomllib

    project = tomllib.loads((PACK.parent.parent / "pyproject.toml").read_text())
    assert "/integrations" in project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    own = tomllib.loads((PACK / "pyproject.toml").read_text())
    assert own["project"]["dependencies"] == [f"reinvert>={reinvert.__version__}"]
