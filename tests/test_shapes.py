"""The checks of shapes and types that all other tests run under find what is wrong, in every call that is looked at."""

from __future__ import annotations

import pytest
import shapes
import torch
from jaxtyping import TypeCheckError

from reinvert.models import Usual
from reinvert.words import refinement_matrix


def wrong_at(call: int) -> bool:
    """Whether the call with that number is refused, all before it being right."""
    shapes.begin_test()
    mapping, a = torch.zeros(3, dtype=torch.long), torch.zeros(3)
    for _ in range(call - 1):
        refinement_matrix(mapping, a)
    try:
        refinement_matrix(mapping, torch.zeros(1))  # broadcasts: without a check a wrong shape goes through
    except TypeCheckError:
        return True
    return False


@pytest.mark.parametrize("call", [1, 2, shapes.FIRST, 64])
def test_a_wrong_shape_is_refused(call: int) -> None:
    assert wrong_at(call)


def test_between_them_calls_are_let_through() -> None:
    assert wrong_at(65) == shapes.ALL


def test_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        Usual("50")  # type: ignore[arg-type]


def test_a_function_within_a_function_is_checked_each_time_it_is_made() -> None:
    shapes.begin_test()

    def make(more: int):
        def inner(x: int) -> int:
            return x + more

        return shapes.checked(inner)

    assert [make(more)(1) for more in (1, 2)] == [2, 3]
    with pytest.raises(TypeCheckError):
        make(3)("1")
    with pytest.raises(TypeCheckError):
        make(3)("1")
    assert make(4)(1) == 5
