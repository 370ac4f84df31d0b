"""The map: a point is a value, says the words of the tables, and lies where its recipe does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_lab.cli import parse
from kd_lab.divergences import DIVERGENCES, SHORT_NAMES
from kd_lab.methods import COLUMNS, METHODS, PREFIX_SOURCES, ROWS, Point, method_of


@pytest.mark.parametrize("key", METHODS)
def test_a_method_lies_where_its_recipe_does(key):
    method = METHODS[key]
    *_, config = parse("train", ["--config", f"tiny/{method.recipe}", *method.options])
    assert config.point == method.point
    assert method_of(config.point) == key


def test_no_two_methods_are_alike_and_together_they_span_the_map():
    methods = METHODS.values()
    assert len({method.point for method in methods}) == len(METHODS)
    assert len({(method.recipe, method.options) for method in methods}) == len(METHODS)
    assert {method.point.row for method in methods} == set(ROWS)
    assert {method.point.column for method in methods} == set(COLUMNS)


def test_short_names_are_of_divergences_and_unlike():
    assert SHORT_NAMES.keys() <= DIVERGENCES.keys()
    assert len(set(SHORT_NAMES.values())) == len(SHORT_NAMES)


shares = st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])
points = st.builds(
    Point,
    prefixes=st.sampled_from(list(PREFIX_SOURCES)),
    student_share=shares,
    divergence=st.sampled_from(list(DIVERGENCES)),
    alpha=shares,
    temperature=st.sampled_from([1.0, 2.0]),
)


@given(points, points)
def test_two_points_read_alike_only_if_they_are_equal(one, other):
    assert (one.short == other.short) == (one == other)
    assert (one == other) <= (hash(one) == hash(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # a default that is said, and one that is not
        (
            Point(divergence="jensen_shannon", settings=(("beta", 0.5),)),
            Point(divergence="jensen_shannon"),
        ),
        # without a divergence nothing of it matters
        (Point(alpha=0, divergence="reverse_kl", temperature=2), Point(alpha=0)),
        # a share of 1 leaves nothing to another source
        (Point("dataset", student_share=1), Point("student")),
        (Point(alpha=1), Point(alpha=1.0)),
    ],
)
def test_one_objective_has_one_point(one, other):
    assert one == other
    assert one.short == other.short


@pytest.mark.parametrize(
    ("point", "short"),
    [
        (Point(alpha=0), "SFT"),
        (Point("teacher", alpha=0), "teacher × SFT"),
        (Point(divergence="reverse_kl", alpha=0.2), "0.8 SFT + 0.2 dataset × RKL"),
        (Point("teacher", 0.25, "jensen_shannon"), "teacher, mixed λ=0.25 × JSD(0.5)"),
        (Point("student", divergence="reverse_kl", temperature=2), "student × RKL, T=2"),
        (METHODS["minillm"].point, "student × RKL, policy gradient"),
        (
            Point(divergence="adaptive_kl", settings=(("crossing", "tail"),)),
            "dataset × AKL(0.5, tail)",
        ),
        (
            Point("dataset", 0.5, "reverse_kl", alpha=0, policy_gradient=True),
            "mixed λ=0.5 × RKL, policy gradient, else SFT",
        ),
    ],
)
def test_the_words_of_a_table(point, short):
    assert point.short == short


def test_sft_is_the_control_and_a_policy_gradient_beside_sft_is_not():
    assert Point(alpha=0).is_sft
    assert Point("teacher", alpha=0).is_sft
    assert not Point("student", alpha=0).is_sft
    assert not Point("dataset", 0.5, "reverse_kl", alpha=0, policy_gradient=True).is_sft


def test_looks_tell_divergences_by_the_line_and_prefixes_by_the_marker():
    lines = [Point(divergence=name).look.line for name in DIVERGENCES]
    assert len(set(lines)) == len(DIVERGENCES)
    markers = [Point(name).look.marker for name in PREFIX_SOURCES]
    assert len({*markers, Point(student_share=0.5).look.marker}) == len(PREFIX_SOURCES) + 1
    assert Point(alpha=0).look.line is None
    assert not Point(alpha=0.5).look.filled


def test_an_unknown_prefix_source_is_refused_by_name():
    with pytest.raises(ValueError, match=r"prefixes must be one of .*, not 'teachers'"):
        Point("teachers")
