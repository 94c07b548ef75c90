"""The tests that `make slow-test` alone runs, beside those marked `slow` where they stand.

`make test` is to answer within five minutes on two cores. What is listed here takes seconds each, and what it shows is
shown there in a smaller form: another parameter of the same test, or (of the authors' recorded runs) the equality with
a naive form of the same method. A name that no test bears is an error, so that the list stays true.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import pytest

LONG = (
    "tests/parity/test_recorded.py::*<p1_di*",
    "tests/parity/test_recorded.py::test_the_offsets_that_are_never_computed*",
    "tests/parity/test_recorded.py::test_the_share_that_the_blend_copies",
    "tests/parity/test_recorded_edit_friendly.py::test_the_noise*",
    "tests/contract/test_waiting.py::test_a_step_waits_for_nothing_but_what_is_listed<flux-*",
    "tests/contract/test_waiting.py::test_a_step_waits_for_nothing_but_what_is_listed<stable_diffusion-inversions-fixed_point]",
    "tests/contract/test_waiting.py::test_a_step_waits_for_nothing_but_what_is_listed<stable_diffusion-inversions-regularised]",
    "tests/contract/test_waiting.py::test_a_step_waits_for_nothing_but_what_is_listed<stable_diffusion-inversions-style_diffusion]",
    "tests/contract/test_waiting.py::test_a_step_waits_for_nothing_but_what_is_listed<stable_diffusion-inversions-text_embedding]",
    "tests/contract/test_waiting.py::test_a_step_waits_for_nothing_but_what_is_listed<stable_diffusion-editors-pix2pix_zero]",
    "tests/contract/test_method_laws.py::*<style_diffusion]",
    "tests/contract/test_method_laws.py::*<text_embedding]",
    "tests/contract/test_method_laws.py::*<regularised]",
    "tests/contract/test_method_laws.py::*<fixed_point]",
    "tests/contract/test_method_laws.py::test_*_together_equal_*_alone<pix2pix_zero]",
    "tests/contract/test_method_laws.py::test_an_editor_can_be_used_again<pix2pix_zero]",
    "tests/contract/test_families.py::test_every_inversion_that_a_family_has_brings_the_picture_back<*-null_text]",
    "tests/test_compiling.py::test_every_shape_is_captured_once<blocks-*",
    "tests/test_compiling.py::test_a_whole_network_reads_its_inputs_from_the_same_cells<stable_diffusion_xl]",
    "tests/test_compiling.py::test_a_flow_transformer_compiles_too",
    "tests/test_likeness.py::test_no_drawing_is_taken_for_a_photograph",
    "tests/test_picturebook_train_all.py::*",
    "tests/test_comfyui.py::test_example_workflows_are_valid_and_run<edit-a-drawing]",
    "tests/test_against_published.py::test_programs_are_counted_compared_and_explained",
    "tests/test_benchmarks.py::test_what_a_cpu_gains_is_measured",
    "tests/test_benchmarks.py::test_the_overhead_s_table_takes_its_place_in_a_page",
    "tests/test_inversions_style_diffusion.py::test_it_is_the_naive_loop<12-*",
    "tests/test_inversions_style_diffusion.py::test_the_attention_loss_matters",
    "tests/test_inversions_style_diffusion.py::test_more_steps_bring_the_source_nearer_to_the_path",
    "tests/test_steps.py::test_an_edit_from_a_level_without_signal<null_text]",
    "tests/test_loading_additions.py::test_lora_are_those_of_the_pipeline<flux]",
    "tests/test_loading_pipeline.py::test_lora_of_a_pipeline_takes_part<stable_diffusion_*",
    "tests/test_inversions_direct.py::test_null_latent_is_single_branch_null_text",
    "tests/test_inversions_edit_friendly.py::test_both_forms_are_the_published_program<method[1-3]*",
    "tests/test_backbones_families.py::test_image_to_image_is_the_recorded_pipelines<i2i_flux_dev]",
    "tests/test_backbones_families.py::test_one_evaluation_is_the_networks<unit_flux_dev-img3]",
    "tests/test_picturebook_draw.py::test_outside_the_mask_a_true_edit_in_full_detail_is_its_source<[5-9]]",
    "tests/test_presets.py::test_kinds_of_the_fixed_sets<v1-heldout]",
    "tests/test_studio.py::test_the_command_line_and_the_python_of_an_edit_give_its_bytes<mask]",
)
"""Patterns of node ids. Parameters begin with '<', since a bracket means a set of characters to `fnmatch`."""


def mark(items: Sequence[pytest.Item]) -> None:
    """Marks the listed tests `slow`."""
    for item in items:
        if any(fnmatchcase(item.nodeid.replace("[", "<"), name) for name in LONG):
            item.add_marker(pytest.mark.slow)


def missing(items: Sequence[pytest.Item]) -> Iterator[str]:
    """Listed names of collected files that no test bears."""
    nodes = [item.nodeid.replace("[", "<") for item in items]
    files = {node.partition("::")[0] for node in nodes}
    for name in LONG:
        if name.partition("::")[0] in files and not any(fnmatchcase(node, name) for node in nodes):
            yield name
