"""The page: Gradio's components around a `Session`. It decides what is shown, and nothing about an edit."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

import gradio as gr
import numpy as np
from PIL import Image

from reinvert import registry
from reinvert.errors import ReinvertError
from reinvert.legal import usual_inversion
from reinvert.models import Usual, usual_of
from reinvert.picturebook.scene import BACKGROUNDS, COLORS, FACINGS, KINDS, MATERIALS, STYLES, WEARABLES
from reinvert.ui import pictures, scenes, texts
from reinvert.ui.forms import Field, about, fields_of
from reinvert.ui.house import House
from reinvert.ui.jobs import Done, Stopped, Update, Waiting, Working
from reinvert.ui.scenes import EXAMPLES
from reinvert.ui.session import Edit, Request, Session, sheet, swept
from reinvert.values import show
from reinvert.word_maps import WordMaps

Changes = dict[Any, Any]
"""New values of components."""

NONE: Final = "–"
LONGEST: Final = 44
"""Characters of a method's title beside its name in a list."""
COMPARED: Final = ("methods", "targets", "one setting")


def theme() -> gr.themes.Base:
    """Gradio's default look with the system's own fonts: none is fetched."""
    plain = ("system-ui", "Segoe UI", "Helvetica", "Arial", "sans-serif")
    mono = ("ui-monospace", "Consolas", "monospace")
    return gr.themes.Default(primary_hue="indigo", font=plain, font_mono=mono)


class Page:
    """The components, and what they do. One page serves everybody: what is a person's own is in the session."""

    def __init__(self, house: House) -> None:
        self.house, self.forms = house, 0

    # --- what several handlers share --------------------------------------------------------------------------------

    def session(self, request: gr.Request) -> Session:
        return self.house.session(str(request.session_hash))

    def shown(self, request: gr.Request, picture: Image.Image) -> str:
        """A picture of ours as a file, large enough to be looked at."""
        return self.house.show(str(request.session_hash), pictures.enlarged(picture))

    def watched(self, updates: Iterator[Update], finish: Any, request: gr.Request) -> Iterator[Changes]:
        """Show updates until the last, then what `finish` makes of its result. An error is one sentence."""
        yield {self.status: texts.status(Working("beginning")), self.go: gr.update(interactive=False)}
        # The last update is one: what follows another closely can take its place in a tab that is not in sight.
        over: Changes = {self.go: gr.update(interactive=True), self.preview: gr.update(visible=False, value=None)}
        growing = False
        try:
            for update in updates:
                match update:
                    case Done():
                        yield {**over, **finish(update.result)}
                    case Waiting():
                        yield {self.status: texts.status(update)}
                    case Working():
                        changes: Changes = {self.status: texts.status(update)}
                        if update.preview is not None:
                            shown = self.shown(request, update.preview)
                            # an update of more than a value costs the server as much as several steps of a network
                            changes[self.preview] = shown if growing else gr.update(visible=True, value=shown)
                            growing = True
                        yield changes
        except Stopped:
            yield {**over, self.status: texts.note("Stopped. What was inverted before is kept.")}
        except ReinvertError as error:
            yield {**over, self.status: texts.error(str(error))}
        except Exception as error:  # the server goes on, and whoever runs it finds the rest in its log
            logging.getLogger(__name__).exception("an edit failed")
            sentence = f"this could not be computed ({type(error).__name__}); the server's log tells more"
            yield {**over, self.status: texts.error(sentence)}

    # --- the layout ---------------------------------------------------------------------------------------------------

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="reinvert studio", analytics_enabled=False, delete_cache=(600, 7200)) as page:
            gr.Markdown(
                "# reinvert studio\nEdit a picture with words, and see why the edit came out as it did.",
                elem_id="title",
            )
            with gr.Row():
                with gr.Column(scale=5, min_width=320):
                    self._start()
                with gr.Column(scale=7, min_width=320):
                    with gr.Tabs():
                        self._see()
                        self._understand()
                        self._compare()
                        self._keep()
            self._adjust()
            self._part()
            self._drawing()
            self._connect(page)
        return page

    def _start(self) -> None:
        names = self.house.shelf.names
        self.model = gr.Dropdown(list(names), value=names[0], label="Model", visible=len(names) > 1, elem_id="model")
        self.picture = gr.Image(
            label="Picture", type="filepath", sources=["upload", "clipboard"], height=240, buttons=[], elem_id="picture"
        )
        self.source = gr.Textbox(label="What it shows", placeholder="a red cat on grass", elem_id="source")
        self.suggest = gr.Button("Suggest what it shows", size="sm", min_width=100, elem_id="suggest")
        self.target = gr.Textbox(label="What it is to show", placeholder="a red dog on grass", elem_id="target")
        with gr.Row():
            self.go = gr.Button("Edit", variant="primary", min_width=100, elem_id="go")
            self.halt = gr.Button("Stop", min_width=100, elem_id="stop")
        self.status = gr.HTML(
            texts.note("Take an example, draw a scene, or drop a picture."), elem_id="status", container=False
        )
        self.preview = gr.Image(label="Growing preview", visible=False, interactive=False, buttons=[], height=180)
        self.examples = gr.Gallery(
            [(str(self._example(index)), example.title) for index, example in enumerate(EXAMPLES)],
            label="Examples",
            show_label=False,
            columns=len(EXAMPLES),
            height="auto",
            buttons=[],
            allow_preview=False,
            object_fit="contain",
            interactive=False,
            elem_id="examples",
        )

    def _drawing(self) -> None:
        with gr.Accordion("Draw a scene", open=False):
            with gr.Row():
                self.color = gr.Dropdown(list(COLORS), value="red", label="Colour", min_width=100)
                self.material = gr.Dropdown(list(MATERIALS), value="plain", label="Material", min_width=100)
                self.kind = gr.Dropdown(list(KINDS), value="cat", label="Thing", min_width=100, elem_id="scene-kind")
            with gr.Row():
                self.wearing = gr.Dropdown([NONE, *WEARABLES], value=NONE, label="Wearing", min_width=100)
                self.facing = gr.Dropdown([NONE, *FACINGS], value=NONE, label="Facing", min_width=100)
                self.place = gr.Dropdown(
                    list(BACKGROUNDS), value="grass", label="Place", min_width=100, elem_id="scene-place"
                )
            with gr.Row():
                self.style = gr.Dropdown(list(STYLES), value="drawn", label="Style", min_width=100)
                self.scene_seed = gr.Number(0, precision=0, minimum=0, label="Seed of the scene", min_width=100)
                self.draw = gr.Button("Draw it", min_width=100)

    def _example(self, index: int) -> Any:
        path = self.house.folder / f"example-{index}.png"
        pictures.enlarged(scenes.drawn(EXAMPLES[index])).save(path)
        return path

    def _adjust(self) -> None:
        self.joined = gr.Dropdown([], value=[], multiselect=True, label="Joined with", elem_id="joined", render=False)
        with gr.Accordion("Adjust", open=True):
            usual = usual_of(self.house.shelf.names[0]) or Usual()
            editor, inversion = usual.editor, usual_inversion([usual.editor], usual.inversion)
            with gr.Row():
                self.editor = gr.Dropdown([editor], value=editor, label="Editor", min_width=200, elem_id="editor")
                self.inversion = gr.Dropdown(
                    [inversion], value=inversion, label="Inversion", min_width=200, elem_id="inversion"
                )
            with gr.Row():
                self.guidance = gr.Slider(
                    0, 20, value=usual.guidance, step=0.1, label="Strength of the edit (guidance)", min_width=200
                )
                self.steps = gr.Slider(1, 100, value=usual.steps, step=1, label="Steps", min_width=200)
                self.seed = gr.Number(0, precision=0, minimum=0, label="Seed", min_width=200)
            self.form = gr.State(())
            """The methods whose settings are shown, and a number that counts up when they are to be shown anew."""
            again: dict[str, Any] = {
                "inputs": [self.form],
                "triggers": [self.form.change],
                "show_progress": "hidden",
                "queue": False,
            }
            gr.render(**again)(self._main_settings)
            with gr.Accordion("All settings", open=False):
                self.joined.render()
                gr.render(**again)(self._other_settings)
                with gr.Row():
                    self.any_words = gr.Checkbox(False, label="Take words that the model does not know")
                    self.force = gr.Checkbox(False, label="Take pictures that the model does not know")
            with gr.Accordion("About these methods", open=False):
                self.described = gr.Markdown()
                self.refused = gr.HTML()

    def _part(self) -> None:
        with gr.Accordion("Change only a part", open=False):
            gr.Markdown("Name a word of each prompt, and only where they look may change.")
            with gr.Row():
                self.blend_source = gr.Textbox(label="Word of what it shows", placeholder="cat", min_width=120)
                self.blend_target = gr.Textbox(label="Word of what it is to show", placeholder="dog", min_width=120)
            gr.Markdown("Or name what may change.")
            with gr.Row():
                self.region = gr.Textbox(label="Region", placeholder="the red cat", min_width=120, elem_id="region")
                self.find = gr.Button("Show it", min_width=100, elem_id="find-region")
            self.found = gr.Image(
                label="The region", interactive=False, buttons=[], height=220, visible=False, elem_id="found-region"
            )
            gr.Markdown("Or paint over what may change.")
            self.mask = gr.ImageEditor(
                label="Mask",
                type="pil",
                sources=(),
                layers=False,
                transforms=(),
                buttons=[],
                brush=gr.Brush(default_size=24, colors=["#ffffff"], default_color="#ffffff", color_mode="fixed"),
                height=320,
                elem_id="mask",
            )
            self.outside = gr.Checkbox(False, label="Keep the original's pixels outside, at its own resolution")
            self.fit = gr.Radio(
                ["crop", "pad", "keep"],
                value="crop",
                label="A picture that is not square",
                info="crop: its middle; pad: all of it on a square; keep: its own shape",
            )

    def _main_settings(self, form: tuple[Any, ...], request: gr.Request) -> None:
        """The few main controls of the chosen methods."""
        self._settings([field for field in _fields(form) if field.is_main], request)

    def _other_settings(self, form: tuple[Any, ...], request: gr.Request) -> None:
        """All their other fields."""
        self._settings([field for field in _fields(form) if not field.is_main], request)

    def _settings(self, fields: Sequence[Field], request: gr.Request) -> None:
        session = self.session(request)
        with gr.Row(elem_classes="ri-settings"):
            for field in fields:
                self._control(session, field)

    def _control(self, session: Session, field: Field) -> None:
        """One widget, made from a field's type, that writes to the session."""
        value = field.shows(session.value_of(field))
        common: dict[str, Any] = {"label": field.label, "info": field.argument.help, "interactive": True}
        common |= {"min_width": 260, "scale": 1}
        match field.look:
            case "toggle":
                widget: Any = gr.Checkbox(value, **common)
            case "choice":
                widget = gr.Dropdown([str(c) for c in field.kind.choices or ()], value=value, **common)
            case "share":
                widget = gr.Slider(0, 1, value=value, step=0.05, **common)
            case "whole":
                widget = gr.Number(value, precision=0, **common)
            case "number":
                widget = gr.Number(value, step=0.05, **common)
            case "text":
                empty = "nothing" if field.argument.type is str else show(field.default)
                placeholder = f"{field.kind.metavar} [{empty}]"
                widget = gr.Textbox(value, placeholder=placeholder, **common)

        def changed(given: Any, request: gr.Request) -> Any:
            try:
                self.session(request).set(field, given)
            except ReinvertError as error:
                return texts.error(str(error))
            return gr.skip()

        # `input` comes of persons alone, but not of what they paste, nor of a slider that they set back.
        moved = widget.change if field.look in ("text", "share") else widget.input
        moved(changed, widget, self.status, queue=False, show_progress="hidden", api_visibility="private")

    def _see(self) -> None:
        with gr.Tab("Result", render_children=True):
            self.slider = gr.ImageSlider(label="Before | after", interactive=False, buttons=[], elem_id="slider")
            self.sides = gr.Gallery(
                label="Side by side", columns=4, height="auto", buttons=[], object_fit="contain", elem_id="sides"
            )
        with gr.Tab("Difference", render_children=True):
            self.changed = gr.Gallery(
                label="What changed, and where it could", columns=2, buttons=[], object_fit="contain", elem_id="changed"
            )
            self.region_note = gr.Markdown()

    def _understand(self) -> None:
        with gr.Tab("Words", elem_id="words-tab", render_children=True):
            self.alignment = gr.HTML()
            self.words = gr.Markdown(
                "Choose a word to see where the network looks for it. (The first choice renders the edit once more.)"
            )
            self.source_word = gr.Radio([], label="Words of what it shows", elem_id="source-words")
            self.target_word = gr.Radio([], label="Words of what it is to show", elem_id="target-words")
            self.at_step = gr.Slider(0, 50, value=0, step=1, label="Step (0: the mean of all)", elem_id="at-step")
            with gr.Row():
                self.source_map = gr.Image(label="Where the source looks", interactive=False, buttons=[])
                self.target_map = gr.Image(label="Where the edit looks", interactive=False, buttons=[])

    def _compare(self) -> None:
        with gr.Tab("Compare", render_children=True):
            self.compared = gr.Radio(list(COMPARED), value=COMPARED[0], label="Compare", elem_id="compare-what")
            self.pairs = gr.Dropdown(
                [], multiselect=True, label="Methods (inversion + editor)", elem_id="compare-methods"
            )
            self.targets = gr.Textbox(label="Targets, one a line", lines=3, visible=False, elem_id="compare-targets")
            with gr.Row(visible=False) as self.sweep:
                self.swept = gr.Dropdown(
                    ["guidance", "steps", "seed"], value="guidance", label="Setting", elem_id="compare-setting"
                )
                self.values = gr.Textbox(label="Values", placeholder="1, 3, 5", elem_id="compare-values")
            self.compare = gr.Button("Compare", elem_id="compare")
            self.cells = gr.Gallery(
                label="Choose a cell to open it with its settings",
                columns=3,
                buttons=[],
                allow_preview=False,
                object_fit="contain",
                elem_id="cells",
            )
            self.cell_numbers = gr.State([])
            self.sheet = gr.DownloadButton("Download the sheet", visible=False, elem_id="sheet")

    def _keep(self) -> None:
        with gr.Tab("Keep", elem_id="keep-tab", render_children=True):
            self.history = gr.Gallery(
                label="This session's edits: choose one to see it again",
                columns=4,
                buttons=[],
                allow_preview=False,
                object_fit="contain",
                elem_id="history",
            )
            self.number = gr.State(0)
            self.take_up = gr.Button("Take up the settings of the edit shown", elem_id="take-up")
            self.files = gr.File(
                label="Picture, settings, trajectory, original",
                file_count="multiple",
                interactive=False,
                elem_id="files",
            )
            self.command = gr.Textbox(
                label="The same as a command line", lines=3, interactive=False, buttons=["copy"], elem_id="command"
            )
            self.python = gr.Code(label="The same as Python", language="python", wrap_lines=True)

    # --- what is connected ------------------------------------------------------------------------------------------

    def _connect(self, page: gr.Blocks) -> None:
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        slow: dict[str, Any] = {
            "concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private",
            "trigger_mode": "multiple",
        }  # fmt: skip
        opened = [self.picture, self.mask, self.source, self.status, self.region, self.found]
        self.choices = [
            self.editor, self.inversion, self.joined, self.described, self.refused, self.swept, self.form,
        ]  # fmt: skip
        asked = [
            self.source, self.target, self.model, self.inversion, self.editor, self.joined, self.guidance, self.steps,
            self.seed, self.blend_source, self.blend_target, self.mask, self.outside, self.fit, self.any_words,
            self.force, self.region,
        ]  # fmt: skip
        self.view = [
            self.slider, self.sides, self.changed, self.region_note, self.alignment, self.source_word,
            self.target_word, self.at_step, self.source_map, self.target_map, self.history, self.files, self.command,
            self.python, self.number,
        ]  # fmt: skip
        watched = [self.status, self.preview, self.go]

        self.picture.upload(self.take, self.picture, opened, preprocess=False, **quick)
        self.picture.clear(self.drop, None, [self.mask], **quick)
        filled = [*opened, self.target, self.blend_source, self.blend_target]
        self.examples.select(self.example, None, filled, **quick)
        parts = [self.color, self.material, self.kind, self.wearing, self.facing, self.place, self.style]
        self.draw.click(self.draw_scene, [*parts, self.scene_seed], opened, **quick)
        self.suggest.click(self.caption, self.model, [self.source, self.status], **slow)
        shown = [self.found, self.status]
        gr.on([self.find.click, self.region.submit], self.show_region, [self.region, self.model], shown, **slow)

        page.load(self.arrive, self.model, [*self.choices, self.pairs, self.status], **slow)
        page.unload(self.leave)
        usual = [self.steps, self.guidance]
        self.model.input(self.choose_model, self.model, [*self.choices, self.pairs, *usual, *watched], **slow)
        chosen = [self.model, self.editor, self.inversion, self.joined]
        self.editor.input(self.choose_editor, [self.model, self.editor], self.choices, **slow)
        gr.on([self.inversion.input, self.joined.input], self.choose_inversion, chosen, self.choices, **slow)

        gr.on([self.go.click, self.target.submit], self.edit, asked, [*watched, *self.view], **slow)
        self.halt.click(self.stop, None, None, **quick)
        looked = [self.number, self.source_word, self.target_word, self.at_step]
        maps = [self.source_map, self.target_map, self.at_step]
        self.source_word.input(self.look_source, looked, [*watched, *maps, self.target_word], **slow)
        self.target_word.input(self.look_target, looked, [*watched, *maps, self.source_word], **slow)
        moved = [self.at_step.release, self.at_step.input]  # by the mouse, and by the keyboard
        latest: dict[str, Any] = {**slow, "trigger_mode": "always_last"}
        gr.on(moved, self.look, looked, [*watched, *maps], **latest)

        taken = [
            *opened, self.target, self.model, *self.choices, self.guidance, self.steps, self.seed, self.blend_source,
            self.blend_target, self.outside, self.fit, self.any_words, self.force,
        ]  # fmt: skip
        self.compared.change(self.choose_compared, self.compared, [self.pairs, self.targets, self.sweep], **quick)
        compared = [self.compared, self.pairs, self.targets, self.swept, self.values, *asked]
        cells = [self.cells, self.cell_numbers, self.sheet]
        self.compare.click(self.compare_all, compared, [*watched, *self.view, *cells], **slow)
        self.cells.select(self.open_cell, self.cell_numbers, [*taken, *self.view], **slow)
        self.history.select(self.open_old, None, [self.status, *self.view], **slow)
        self.take_up.click(self.take_settings, self.number, taken, **slow)

    # --- the picture ------------------------------------------------------------------------------------------------

    def take(self, payload: Any, request: gr.Request) -> Changes:
        """An uploaded picture, through the loader that all pictures come through."""
        try:
            path, name = self.house.uploaded(payload, str(request.session_hash))
            self.session(request).open(path, name)
        except ReinvertError as error:
            return {self.picture: None, self.mask: None, self.status: texts.error(str(error))}
        return self._opened(request, "Say what it shows and what it is to show.")

    def _opened(self, request: gr.Request, then: str) -> Changes:
        given = self.session(request).given
        assert given is not None
        shown = str(given.path) if max(given.picture.size) >= pictures.AT_LEAST else self.shown(request, given.picture)
        changes: Changes = {
            self.picture: shown,
            self.mask: {"background": shown, "layers": [], "composite": None},
            self.region: "",
            self.found: gr.update(value=None, visible=False),
            self.status: texts.note(f"{given.picture.width} x {given.picture.height} pixels. {then}"),
        }
        return changes | ({self.source: given.caption} if given.caption else {})

    def drop(self) -> Changes:
        return {self.mask: None}

    def caption(self, model: str, request: gr.Request) -> Changes:
        """What a model says that the picture shows, to be read and put right."""
        try:
            said = self.session(request).caption(model)
        except ReinvertError as error:
            return {self.status: texts.error(str(error))}
        return {self.source: said, self.status: texts.note("Read it, and put right what is wrong.")}

    def show_region(self, words: str, model: str, request: gr.Request) -> Changes:
        """The region that the words name, laid over the picture."""
        session = self.session(request)
        try:
            found = session.region(words, model)
            assert session.given is not None
            over = pictures.overlay(pictures.enlarged(session.given.picture), np.asarray(found.mask) > 0)
        except ReinvertError as error:
            return {self.found: gr.update(value=None, visible=False), self.status: texts.error(str(error))}
        share = 100 * found.record()["share"]
        note = texts.note(f"{found.words} is {share:.0f} % of the picture, and only that may change.")
        return {self.found: gr.update(value=self.shown(request, over), visible=True), self.status: note}

    def example(self, event: gr.SelectData, request: gr.Request) -> Changes:
        chosen = EXAMPLES[int(event.index)]
        self.session(request).draw(chosen.source, chosen.seed)
        before, after = chosen.blend or ("", "")
        changes = self._opened(request, "Press Edit.")
        return changes | {self.target: chosen.target, self.blend_source: before, self.blend_target: after}

    def draw_scene(self, color: str, material: str, kind: str, wearing: str, facing: str, place: str, style: str,
                   seed: float, request: gr.Request) -> Changes:  # fmt: skip
        try:
            caption = scenes.caption(color, material, kind, _unless(wearing), _unless(facing), place, style)
            self.session(request).draw(caption, int(seed or 0))
        except ReinvertError as error:
            return {self.status: texts.error(str(error))}
        return self._opened(request, "Say what it is to show.")

    def leave(self, request: gr.Request) -> None:
        self.house.leave(str(request.session_hash))

    # --- models and methods -----------------------------------------------------------------------------------------

    def arrive(self, model: str, request: gr.Request) -> Changes:
        """The lists of methods, as soon as the model is there."""
        try:
            return self._methods(request, model, self._usual(model).editor, None, []) | self._pairs(model)
        except ReinvertError as error:
            return {self.status: texts.error(str(error))}

    def choose_model(self, model: str, request: gr.Request) -> Iterator[Changes]:
        session = self.session(request)

        def finish(_: Any) -> Changes:
            usual = self._usual(model)
            told = texts.note(f"{model} is loaded.")
            lists = self._methods(request, model, usual.editor, None, []) | self._pairs(model)
            return {**lists, self.steps: usual.steps, self.guidance: usual.guidance, self.status: told}

        yield from self.watched(session.load(model), finish, request)

    def choose_editor(self, model: str, editor: str, request: gr.Request) -> Changes:
        return self._methods(request, model, editor, None, [], anew=False)

    def choose_inversion(
        self, model: str, editor: str, inversion: str, joined: list[str], request: gr.Request
    ) -> Changes:
        """An inversion, or editors that are joined to the first, were chosen."""
        return self._methods(request, model, editor, inversion, joined, anew=False)

    def _methods(
        self,
        request: gr.Request,
        model: str,
        editor: str,
        inversion: str | None,
        joined: Sequence[str],
        anew: bool = True,
    ) -> Changes:
        """The lists of methods around an editor: what goes with it, described, and why the others do not.

        Their settings are shown anew, or only if they are others: lists tell a choice twice, and what a control says
        that is being put there finds nobody if it has been replaced already.
        """
        choices = self.house.shelf.choices(model)
        editors = choices.all_editors()
        editor = editor if editor in editors else editors[0]
        legal = choices.inversions_for(editor)
        wanted = inversion or usual_inversion([editor], self._usual(model).inversion)
        inversion = wanted if wanted in legal else legal[0]
        joins = choices.joinable(inversion, editor)
        joined = [name for name in joined if name in joins]
        methods = [registry.describe("editors", editor), registry.describe("inversions", inversion)]
        changes: Changes = {
            self.editor: gr.update(choices=_titled("editors", editors), value=editor),
            self.inversion: gr.update(choices=_titled("inversions", legal), value=inversion),
            self.joined: gr.update(choices=list(joins), value=joined),
            self.swept: gr.update(choices=swept(inversion, (editor, *joined)), value="guidance"),
            self.described: "\n\n".join(about(method) for method in methods),
            self.refused: texts.refused(choices.refused_for(editor)),
        }
        session, shown = self.session(request), (inversion, editor, *joined)
        if anew or shown != session.methods_shown:
            self.forms += 1
            changes[self.form] = (self.forms, *shown)
            session.methods_shown = shown
        return changes

    def _usual(self, model: str) -> Usual:
        return self.house.shelf.choices(model).usual

    def _pairs(self, model: str) -> Changes:
        table, usual = self.house.shelf.choices(model).table, self._usual(model)
        named = [f"{inversion} + {editor}" for inversion, row in table.items() for editor in row if row[editor] is None]
        first = f"{usual_inversion([usual.editor], usual.inversion)} + {usual.editor}"
        return {
            self.pairs: gr.update(choices=named, value=[n for n in (first, f"ddim + {usual.editor}") if n in named])
        }

    # --- edits --------------------------------------------------------------------------------------------------------

    def request(self, session: Session, asked: Sequence[Any]) -> Request:
        """What the controls ask for."""
        (source, target, model, inversion, editor, joined, guidance, steps, seed, before, after, mask, outside, fit,
         any_words, force, region) = asked  # fmt: skip
        session.set_mask(painted(mask), region, model)
        usual = usual_of(model)
        before, after = (before or "").strip(), (after or "").strip()
        return Request(
            source=(source or "").strip(),
            target=(target or "").strip(),
            model=model,
            inversion=inversion,
            editors=(editor, *(joined or ())),
            settings={name: dict(values) for name, values in session.settings.items() if values},
            steps=None if usual is not None and steps == usual.steps else int(steps),
            guidance=None if usual is not None and guidance == usual.guidance else float(guidance),
            seed=int(seed or 0),
            blend=(before, after) if before or after else None,
            masked=session.mask is not None,
            region=(region or "").strip(),
            fit=fit,
            paste_back=bool(outside),
            any_words=bool(any_words),
            force=bool(force),
        )

    def edit(self, request: gr.Request, *given: Any) -> Iterator[Changes]:
        session = self.session(request)

        def finish(edit: Edit) -> Changes:
            return {**self._view(edit, request), self.status: texts.done(edit.summary, edit.notes)}

        def updates() -> Iterator[Update]:
            yield from session.edit(self.request(session, given))

        yield from self.watched(updates(), finish, request)

    def stop(self, request: gr.Request) -> None:
        self.session(request).stop()

    def _view(self, edit: Edit, request: gr.Request) -> Changes:
        """Everything that is shown of an edit."""
        session = self.session(request)

        def file(picture: Image.Image) -> str:
            return self.shown(request, picture)

        before, after, rendered = edit.before, edit.picture, edit.full(edit.result.reconstruction)
        sides = [(before, "original"), (rendered, "reconstruction"), (after, "edit")]
        sides += [] if edit.truth is None else [(edit.truth, "true edit")]
        region, origin = edit.region()
        heat, most = pictures.difference(before, after)
        share = 100 * float(region.mean())
        old, new = edit.request.source.split(), edit.request.target.split()
        return {
            self.slider: (file(before), file(after)),
            self.sides: [(file(picture), title) for picture, title in sides],
            self.changed: [
                (file(heat), "difference to the original"),
                (file(pictures.overlay(edit.result.image, region)), "the region that could change"),
            ],
            self.region_note: f"The brightest spot of the difference is {most} levels of 255. The region is "
            f"{share:.0f} % of the picture: {origin}.",
            self.alignment: texts.alignment(edit.links, edit.special) if edit.links else texts.note(
                "This editor does not share attention word by word; p2p does."),
            self.source_word: gr.update(choices=_numbered(old), value=None),
            self.target_word: gr.update(choices=_numbered(new), value=None),
            self.at_step: gr.update(maximum=max(1, edit.trajectory.walked), value=0),
            self.source_map: None,
            self.target_map: None,
            self.history: [(file(e.picture), f"{e.number}. {e.request.target}") for e in session.history],
            self.files: [str(path) for path in edit.files],
            self.command: edit.script.command(),
            self.python: edit.script.python(),
            self.number: edit.number,
        }  # fmt: skip

    # --- words --------------------------------------------------------------------------------------------------------

    def look_source(self, number: int, source: int | None, target: int | None, step: int, request: gr.Request) -> Any:
        """A word of the source was chosen: show it with the word of the target that answers to it."""
        session = self.session(request)
        edit = session.find(number) if number else None
        other = None if edit is None or source is None else session.partner(edit, source, of_source=True)
        yield from self._looked(number, source, other, step, request, {self.target_word: other})

    def look_target(self, number: int, source: int | None, target: int | None, step: int, request: gr.Request) -> Any:
        """The same the other way round."""
        session = self.session(request)
        other = (
            session.partner(session.find(number), target, of_source=False) if number and target is not None else None
        )
        yield from self._looked(number, other, target, step, request, {self.source_word: other})

    def look(self, number: int, source: int | None, target: int | None, step: int, request: gr.Request) -> Any:
        yield from self._looked(number, source, target, step, request, {})

    def _looked(
        self, number: int, source: int | None, target: int | None, step: int, request: gr.Request, also: Changes
    ) -> Any:
        """The maps of two words over reconstruction and edit, at a step or (0) the mean of all."""
        session = self.session(request)
        if not number:
            yield {self.status: texts.note("Edit a picture first.")}
            return
        edit = session.find(number)
        looked = ((self.source_map, edit.result.reconstruction, source), (self.target_map, edit.result.image, target))

        def finish(maps: WordMaps) -> Changes:
            made: Changes = {place: None for place, _, _ in looked}
            steps = len(maps.maps)  # some editors leave steps out
            at = min(int(step or 0), steps)
            for branch, (place, picture, word) in enumerate(looked):
                if word is not None:
                    values = maps.of(branch, word, at - 1 if at else None).numpy()
                    made[place] = self.shown(request, pictures.over(picture, values))
            made[self.at_step] = gr.update(maximum=steps, value=at)
            when = f"at step {at} of {steps}" if at else "at all steps together"
            return {**made, **also, self.status: texts.done(f"where the network looks {when} is shown under Words")}

        yield from self.watched(session.words(edit), finish, request)

    # --- comparing ----------------------------------------------------------------------------------------------------

    def choose_compared(self, what: str) -> Changes:
        shown = [what == name for name in COMPARED]
        return {
            place: gr.update(visible=visible)
            for place, visible in zip((self.pairs, self.targets, self.sweep), shown, strict=True)
        }

    def compare_all(self, request: gr.Request, what: str, named: list[str], targets: str, setting: str, values: str,
                    *asked: Any) -> Iterator[Changes]:  # fmt: skip
        session = self.session(request)
        titles: list[str] = []

        def updates() -> Iterator[Update]:
            base = self.request(session, asked)
            made = session.variants(base, what, named or [], targets or "", setting, values or "")
            titles[:] = [title for title, _ in made]
            yield from session.compare([one for _, one in made])

        def finish(edits: list[Edit]) -> Changes:
            cells = [(self.shown(request, e.picture), title) for e, title in zip(edits, titles, strict=True)]
            path = self.house.show(str(request.session_hash), sheet(edits, titles))
            return {
                **self._view(edits[-1], request),
                self.cells: cells,
                self.cell_numbers: [edit.number for edit in edits],
                self.sheet: gr.update(value=path, visible=True),
                self.status: texts.done(f"{len(edits)} edits compared; the source was inverted as often as was needed"),
            }

        yield from self.watched(updates(), finish, request)

    def open_cell(self, numbers: list[int], event: gr.SelectData, request: gr.Request) -> Changes:
        """A cell is opened with its settings."""
        number = numbers[int(event.index)]
        edit = self.session(request).find(number)
        told = texts.note(f"Edit {number} is shown, and its settings are taken up: {edit.request.title}.")
        return {**self._view(edit, request), **self._taken(edit, request), self.status: told}

    def open_old(self, event: gr.SelectData, request: gr.Request) -> Changes:
        return self._open(int(event.index) + 1, request)

    def _open(self, number: int, request: gr.Request) -> Changes:
        edit = self.session(request).find(number)
        told = f"edit {number}: {edit.request.title}, {edit.request.target!r}; take up its settings under Keep"
        return {**self._view(edit, request), self.status: texts.note(told[:1].upper() + told[1:])}

    def take_settings(self, number: int, request: gr.Request) -> Changes:
        if not number:
            return {self.status: texts.note("Edit a picture first.")}
        told = texts.note(f"The settings of edit {number} are taken up.")
        return {**self._taken(self.session(request).find(number), request), self.status: told}

    def _taken(self, edit: Edit, request: gr.Request) -> Changes:
        """The controls as an edit had them, with its picture and what was painted over it."""
        session = self.session(request)
        asked, again = session.take_up(edit), self._opened(request, "")
        if edit.mask is not None and not asked.region:
            size = pictures.enlarged(edit.given.picture).size
            again[self.mask]["layers"] = [self.shown(request, pictures.paint(edit.mask, size))]
        usual = self._usual(asked.model)
        before, after = asked.blend or ("", "")
        return {
            **again,
            **self._methods(request, asked.model, asked.editors[0], asked.asked_inversion, asked.editors[1:]),
            self.model: asked.model,
            self.source: asked.source,
            self.target: asked.target,
            self.guidance: usual.guidance if asked.guidance is None else asked.guidance,
            self.steps: usual.steps if asked.steps is None else asked.steps,
            self.seed: asked.seed,
            self.blend_source: before,
            self.blend_target: after,
            self.region: asked.region,
            self.outside: asked.paste_back,
            self.fit: asked.fit,
            self.any_words: asked.any_words,
            self.force: asked.force,
        }


def painted(mask: Any) -> Image.Image | None:
    """What was painted over the picture, white on black; None where nothing was."""
    layers = [layer for layer in (mask or {}).get("layers", ()) if layer is not None]
    if not layers:
        return None
    alpha = [np.asarray(layer.convert("RGBA"))[..., 3] for layer in layers]
    white = np.maximum.reduce(alpha) >= 128
    return Image.fromarray(white.astype(np.uint8) * np.uint8(255)) if white.any() else None


def build(house: House) -> gr.Blocks:
    """The page of a house."""
    return Page(house).build()


def _titled(group: registry.Group, names: Sequence[str]) -> list[tuple[str, str]]:
    titles = {name: registry.describe(group, name).title.rstrip(".") for name in names}
    return [(f"{name}: {title}" if len(title) < LONGEST else name, name) for name, title in titles.items()]


def _fields(form: tuple[Any, ...]) -> list[Field]:
    """The fields of the chosen methods, and of local_blend, which words or a mask may add."""
    if not form:
        return []
    _, inversion, *editors = form
    names = dict.fromkeys([*editors, "local_blend"])
    return [*fields_of("inversions", inversion), *(field for name in names for field in fields_of("editors", name))]


def _numbered(words: Sequence[str]) -> list[tuple[str, int]]:
    return [(word, index) for index, word in enumerate(words)]


def _unless(choice: str) -> str | None:
    return None if choice == NONE else choice
