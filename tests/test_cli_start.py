"""What answers without torch: help, lists, and everything that is wrong with a command line."""

from __future__ import annotations

import argparse
import ast
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_picture

import reinvert
from reinvert.cli import build_parser
from reinvert.collection import paused_collection

HEAVY = ("torch", "transformers", "diffusers")
RUN = """
import json, sys
from reinvert.cli import main
for argv in json.loads(sys.argv[1]):
    status = main(argv)
    loaded = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    print("ANSWER", json.dumps([argv, status, loaded]))
"""

LIGHT: list[tuple[int, str]] = [
    (0, "--help"),
    (0, "--version"),
    *(
        (0, f"{command} --help")
        for command in "edit invert reconstruct instruct methods draw demo gallery bench".split()
    ),
    *((0, f"bench {part} --help") for part in "run status check make score report".split()),
    (0, "edit --help --inversion direct --editor p2p+proximal"),
    (0, "methods"),
    (0, "methods --json"),
    (0, "methods p2p"),
    (0, "draw a-cat --help"),
    (0, "draw --random -o new.png"),
    (2, "edti"),
    (2, "edit missing.png --source a --target b"),
    (2, "edit missing.trajectory.safetensors --target b"),
    (2, "edit notes.txt --source a --target b"),
    (2, "edit cat.png --source a"),
    (2, "edit cat.png --target b"),
    (2, "edit cat.png --source a --target b --stepz 3"),
    (2, "edit cat.png --source a --target b --steps many"),
    (2, "edit cat.png --source a --target b --model picturbook"),
    (2, "edit cat.png --source a --target b --device xla"),
    (2, "edit cat.png --source a --target b --dtype float7"),
    (2, "edit cat.png --source a --target b --inversion dirct"),
    (2, "edit cat.png --source a --target b --editor p2p+proximl"),
    (2, "edit cat.png --source a --target b --recipe ddim+p3p"),
    (2, "edit cat.png --source a --target b --recipe missing.toml"),
    (2, "edit cat.png --source a --target b --compare direct sideways"),
    (2, "edit cat.png --source a --target b --quantile 0.5"),
    (2, "edit cat.png --source a --target b --strength x"),
    (2, "edit cat.png --source a --target b --mask missing.png"),
    (2, "edit cat.png --source a --target b -o nowhere/x.png"),
    (2, "edit cat.png --source a --target b -o x.gif"),
    (2, "edit cat.png --source a --target b --steps 0"),
    (2, "edit cat.png --source a --target b --steps 1001"),
    (2, "edit cat.png --source a --target b --seed -1"),
    (2, "edit cat.png --source a --target b --guidance nan"),
    (2, "edit cat.png --source a --target b --max-pixels 0"),
    (2, "edit cat.png --source a --target b --max-pixels 5"),
    (2, "edit cat.png --source a --target b --device meta"),
    (2, "edit cat.png --source a --target b --device hpu"),
    (2, "edit cat.png --source a\udc80 --target b"),
    (2, "edit cat.png --source a --target b --strength 7"),
    (2, "edit cat.png --source a --target b --every 0"),
    (2, "edit cat.png --source a --target b --inversion ddim --depth 7"),
    (2, "edit cat.png --source a --target b --editor sdedit --strength -1"),
    (2, "edit cat.png --source a --target b --editor sdedit --inversion null_text"),
    (2, "edit cat.png --source a --target b --editor infedit+sdedit"),
    (2, "edit cat.png --source a --target b --editor blended_latent"),
    (2, "edit cat.png --source a --target b --editor p2plus --guidance 1"),
    (2, "edit cat.png --source a --target b --inversion none"),
    (2, "edit cat.png --source a --target b --compare direct direct+sdedit"),
    (2, "edit cat.png --source a --target b --compare blended_latent"),
    (2, "instruct cat.png text --editor inpainting"),
    (2, "instruct cat.png text --steps 1"),
    (2, "draw --scene deep.json"),
    (2, "invert missing.png --source a"),
    (2, "invert cat.png --source a --inversion dirct"),
    (2, "reconstruct cat.png"),
    (2, "instruct missing.png text"),
    (2, "methods p3p"),
    (2, "draw a-cow"),
    (2, "demo -o notes.txt"),
    (2, "gallery nothing"),
    (2, "bench"),
    (2, "bench run"),
    (2, "bench run --data picturebook:1 --out o --device xla"),
    (2, "bench run --data missing --out o"),
    (2, "bench score missing"),
    (2, "bench report missing"),
    (2, "bench verify missing"),
    (2, "bench board missing -o board.html"),
    (2, "bench yardsticks missing -o yardsticks"),
    (0, "tune --help"),
    (2, "tune directinversion+p2p"),
]


def test_torch_is_not_loaded_to_answer(tmp_path: Path):
    """In one process: what an answer loads stays loaded, so the first that loads torch is the culprit."""
    make_picture(0).save(tmp_path / "cat.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    path = os.pathsep.join([str(Path(reinvert.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([line.split() for _, line in LIGHT]), json.dumps(HEAVY)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    answers = [json.loads(line.removeprefix("ANSWER ")) for line in done.stdout.splitlines() if line[:7] == "ANSWER "]
    assert [(status, " ".join(argv)) for argv, status, _ in answers] == LIGHT, done.stderr
    culprits = [" ".join(argv) for argv, _, loaded in answers if loaded]
    assert not culprits, culprits[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        ("edit cat.png --source a --target b --model picturbook", "did you mean picturebook?"),
        ("edit cat.png --source a --target b --recipe directinversion+p2pp", "did you mean directinversion+p2p"),
        ("edit cat.png --source a --target b --compare direct p2plu", "did you mean p2plus"),
        ("edit cat.png --source a --target b --inversion dirct", "did you mean direct"),
        ("instruct cat.png text --editor instruct_pix2pi", "did you mean instruct_pix2pix"),
        ("methods p2plu", "did you mean p2plus"),
        ("gallery masactl", "did you mean masactrl"),
        ("bench rum", "did you mean run"),
        ("bench run --dat x", "did you mean --data"),
        ("edit cat.png --source a --target b --fit corp", "did you mean crop"),
    ],
)
def test_a_mistyped_name_is_answered_with_what_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: str, meant: str
):
    from reinvert.cli import main

    monkeypatch.chdir(tmp_path)
    make_picture(0).save("cat.png")
    assert main(argv.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert meant in err
    assert err.count("\n") == 1


def test_no_sentence_names_an_option_that_there_is_not():
    """Every --option in a string of the package; the training programs of picturebook have parsers of their own."""
    known = _options(build_parser())
    source = Path(reinvert.__file__).parent
    own = {"train.py", "evaluate.py", "clip.py", "reader.py", "train_all.py", "flow.py"}
    for path in sorted(source.rglob("*.py")):
        if path.parent.name == "picturebook" and path.name in own:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if "var(--" in node.value or "style=" in node.value:  # variables of style sheets look like options
                    continue
                for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9](?![\w-])", node.value):
                    assert flag in known, f"{path.name}: {node.value}"


def _options(parser: argparse.ArgumentParser) -> set[str]:
    found = set[str]()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found |= _options(inner)
    return found


def test_no_cycles_are_collected_while_a_model_is_loaded_and_all_is_as_before_afterwards():
    before, phases = gc.isenabled(), list[str]()
    gc.callbacks.append(lambda phase, info: phases.append(phase))
    try:
        for enabled in (False, True):
            (gc.enable if enabled else gc.disable)()
            with paused_collection():
                phases.clear()
                kept = [[] for _ in range(20_000)]  # many times what starts a collection
                met = list(phases)
            assert (len(kept), met, gc.isenabled()) == (20_000, [], enabled)
    finally:
        gc.callbacks.pop()
        (gc.enable if before else gc.disable)()


def test_a_process_of_its_own_ends_with_the_program_s_status_and_waits_for_threads_politely(tmp_path: Path):
    path = os.pathsep.join([str(Path(reinvert.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    tell = "import atexit, os, sys; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT'))); "
    program = tell + "sys.argv = ['reinvert', *sys.argv[1:]]; from reinvert.cli import start; start()"
    for more, words, status, spins in (
        ({}, ["--version"], 0, "1000"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, ["edti"], 2, "None"),
        ({"GOMP_SPINCOUNT": "7"}, ["edti"], 2, "7"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            cwd=tmp_path,
            env={**clean, "PYTHONPATH": path, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout.split()[-1]) == (status, spins), done.stderr
